"""The style of the pictures, and how a figure becomes SVG."""

import io
from html import escape

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..results import Results

# Stand-ins, which no palette has: on a page they become variables of its style, in a file what they are in the light.
INK, MUTED, LINE, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
_LIGHT = {INK: "#1d2530", MUTED: "#5d6878", LINE: "#dfe3e8", PAPER: "#ffffff"}
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)"}
# Okabe and Ito's palette, distinct for every kind of colour vision; the darkest blue is lifted for dark pages.
COLOURS = ("#0b84c9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8f98")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
STYLE = {
    **{"figure.facecolor": PAPER, "axes.facecolor": "none", "axes.edgecolor": LINE, "axes.axisbelow": True},
    **{"axes.grid": True, "grid.color": LINE, "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.titlecolor": INK, "axes.titlesize": 11, "axes.labelcolor": MUTED, "axes.labelsize": 10},
    **{"xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 9, "ytick.labelsize": 9},
    **{"legend.frameon": False, "legend.fontsize": 9.5, "legend.labelcolor": INK, "legend.handlelength": 2.2},
}


def panels(count: int, width: float, height: float, columns: int = 3, share: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many axes, each of this size in inches, which may ``share`` their vertical axis."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=share).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def metric_axis(axes: Axes, results: Results, stage: str) -> None:
    """Write the metric on the vertical axis as elsewhere; errors, which span powers, by their logarithm."""
    axes.set_ylabel(f"{stage} {results.about['metric']}")
    if results.higher_is_better:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    else:
        axes.set_yscale("log")


def svg(figure: Figure, title: str, *, on_page: bool = False) -> str:
    """Return a figure as SVG: an element for a page that defines the variables of the ink, or a file on white."""
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):  # text stays text; names differ between pictures
        figure.savefig(stream, format="svg", metadata={"Date": None, "Title": title, "Creator": "manifold-rnn"})
    text = stream.getvalue()
    for stand_in, colour in (_VARIABLES if on_page else _LIGHT).items():
        text = text.replace(stand_in, colour)
    if not on_page:
        return text
    _, start, rest = text.partition("<svg")
    return f'{start} role="img" aria-label="{escape(title)}"{rest}'
