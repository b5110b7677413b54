"""Report pages in one style. Each page is one self-contained HTML file with its pictures as SVG."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cycler import cycler
from jinja2 import ChoiceLoader, Environment, PackageLoader, select_autoescape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import __version__
from .theme import COLOURS, STYLE, panels, plain_logarithm, svg

__all__ = ["Section", "page", "picture", "svg", "templates"]


class Section(NamedTuple):
    """A part of a page: a heading, a note below it, a picture with a caption, and preformatted text."""

    heading: str
    note: str = ""
    picture: Figure | None = None
    caption: str = ""
    text: str = ""


def templates(package: str | None) -> Environment:
    """Return the templates of a package, together with the base templates of this folder."""
    loaders = [PackageLoader(name, "") for name in dict.fromkeys((package or __name__, __name__))]
    environment = Environment(loader=ChoiceLoader(loaders), autoescape=select_autoescape())
    environment.globals["version"] = __version__
    return environment


def picture(draw: Callable[[Axes], object], width: float = 9.0, height: float = 4.2) -> Figure:
    """Draw a picture in the style of the pages; ``draw`` is the ``plot`` method of a diagnostic, called with axes."""
    style: dict[Any, Any] = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
    with rc_context(style):
        figure, (axes,) = panels(1, width, height)
        draw(axes)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                plain_logarithm(axis)
    return figure


def page(
    heading: str,
    subject: str,
    lead: str,
    tiles: Mapping[str, str],
    sections: Sequence[Section],
    details: str = "",
) -> str:
    """Return a page as HTML: a heading, numbers in tiles, the sections, and details that the reader can unfold."""
    drawn = [s.picture and svg(s.picture, f"{k} {s.heading}", on_page=True) for k, s in enumerate(sections)]
    return (
        templates(None)
        .get_template("sections.html")
        .render(
            heading=heading, subject=subject, lead=lead, tiles=tiles, sections=sections, pictures=drawn, details=details
        )
    )
