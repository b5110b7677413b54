"""The report of a comparison as one HTML file, which loads nothing."""

from collections.abc import Mapping

import yaml  # type: ignore[import-untyped]
from matplotlib.figure import Figure

from ... import __version__
from ..results import Results, Row, shown_duration
from .tables import TEMPLATES, columns, numbers
from .theme import svg


def page(results: Results, figures: Mapping[str, Figure]) -> str:
    """Return the report as HTML."""
    complete = [row for row in results.rows if row.complete]
    stated = {key: value for key, value in results.grid.plain().items() if value not in ({}, None)}
    return TEMPLATES.get_template("page.html").render(
        results=results,
        columns=columns(results),
        numbers=numbers,
        duration=shown_duration,
        listed=[results.titles[key] for key in results.listed],
        near=[row.label for row in complete[1:] if _is_near(complete[0], row)],
        pictures={name: svg(figure, name, on_page=True) for name, figure in figures.items()},
        stated=yaml.safe_dump(stated, sort_keys=False, allow_unicode=True),
        version=__version__,
    )


def _is_near(best: Row, row: Row) -> bool:
    """Whether two means differ by less than the deviations of both together."""
    if best.validation_mean is None or row.validation_mean is None:
        return False
    return abs(best.validation_mean - row.validation_mean) <= sum(r.validation_deviation or 0.0 for r in (best, row))
