"""The style of the pictures, and their conversion to SVG."""

import io
import re
import warnings
from html import escape

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

# Placeholders that no palette uses: a page replaces them by CSS variables, a file by the colors of the light theme.
INK, MUTED, LINE, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
_LIGHT = {INK: "#1d2530", MUTED: "#5d6878", LINE: "#dfe3e8", PAPER: "#ffffff"}
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)"}
_STAND_IN = re.compile("|".join(_LIGHT))
# Okabe and Ito's palette, distinct for every kind of color vision; the darkest blue is lighter here for dark pages.
COLOURS = ("#0b84c9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8f98")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
STYLE = {
    **{
        "figure.facecolor": PAPER,
        "text.color": INK,
        "axes.facecolor": "none",
        "axes.edgecolor": LINE,
        "axes.axisbelow": True,
    },
    **{"axes.grid": True, "grid.color": LINE, "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.titlecolor": INK, "axes.titlesize": 11, "axes.labelcolor": MUTED, "axes.labelsize": 10},
    **{"xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 9, "ytick.labelsize": 9},
    "text.parse_math": False,  # labels are data: a $ in them is a $
    **{"legend.frameon": False, "legend.fontsize": 9.5, "legend.labelcolor": INK, "legend.handlelength": 2.2},
}


def panels(count: int, width: float, height: float, columns: int = 3, share: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` axes, each of this size in inches; ``share`` gives them one vertical axis."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=share).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def plain_logarithm(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis as plain text, because the pictures do not parse mathematics."""
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))


def svg(figure: Figure, title: str, *, on_page: bool = False) -> str:
    """Return a figure as SVG: an element for a page that defines the color variables, or a file on white."""
    stream = io.StringIO()
    own = rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False})
    with own, warnings.catch_warnings():  # text stays text; ids differ between pictures
        warnings.simplefilter("ignore", UserWarning)  # about letters that the font lacks, and about long labels
        figure.savefig(stream, format="svg", metadata={"Date": None, "Title": title, "Creator": "manifold-rnn"})
    colours = _VARIABLES if on_page else _LIGHT
    tag = re.compile("<[^>]*>")  # leaves the text between tags, which may contain the name of a color
    text = tag.sub(lambda match: _STAND_IN.sub(lambda found: colours[found[0]], match[0]), stream.getvalue())
    if not on_page:
        return text
    _, start, rest = text.partition("<svg")
    return f'{start} role="img" aria-label="{escape(title)}"{rest}'
