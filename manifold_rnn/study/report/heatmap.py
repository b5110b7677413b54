"""The heat map: what each pair of choices reaches."""

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...training.values import Values
from ..results import Results, Row
from .layout import Layout
from .theme import INK, LINE, MUTED, panels

_MAP = colormaps["viridis"]


def draw_heatmap(results: Results) -> Figure | None:
    """Draw the test metric of every pair of two keys' values; None if nothing with a list of values varies.

    A cell shows the best combination in it by validation: where other keys vary too, and are too many for a map each,
    it is the best over them.
    """
    layout = Layout(results)
    if layout.across is None:
        return None
    down, across = layout.values(layout.down), layout.values(layout.across)
    width, height = 1.35 * len(across) + 1.9, 0.72 * len(down) + 1.0
    figure, axes = panels(len(layout.beside), width, height, columns=max(1, int(12 // width)))
    means = [row.test_mean for row in results.rows if row.test_mean is not None]
    scale = Normalize(min(means, default=0.0), max(means, default=1.0))
    for panel, beside in zip(axes, layout.beside, strict=True):
        _frame(panel, layout)
        panel.set_title(", ".join(layout.name(*item) for item in beside.items()))
        for i, vertical in enumerate(down):
            for j, horizontal in enumerate(across):
                where = {**beside, layout.down: vertical, layout.across: horizontal}
                _cell(panel, results, next(iter(layout.rows(where)), None), (j, i), scale)
    return figure


def _frame(axes: Axes, layout: Layout) -> None:
    down, across = layout.values(layout.down), layout.values(layout.across)
    axes.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(down) - 0.5, -0.5))
    axes.grid(visible=False)
    axes.set_xticks(range(len(across)), [layout.name(layout.across, value) for value in across])
    axes.set_yticks(range(len(down)), [layout.name(layout.down, value) for value in down])
    axes.tick_params(length=0, labelcolor=INK, labelsize=10)
    axes.spines[:].set_visible(False)
    titles = layout.results.titles
    axes.set(xlabel=titles.get(layout.across or "", ""), ylabel=titles.get(layout.down or "", ""))


def _cell(axes: Axes, results: Results, row: Row | None, at: tuple[int, int], scale: Normalize) -> None:
    look: Values
    style: Values
    mean = row.test_mean if row else None
    if row is None or mean is None:
        text = "failed" if row and not row.complete and row.runs[0].failure else "pruned" if row else "not run"
        look, style = {"facecolor": "none", "edgecolor": LINE, "hatch": "////"}, {"color": MUTED}
    else:
        share = float(scale(mean))
        colour = _MAP(0.08 + 0.9 * (share if results.higher_is_better else 1 - share))
        is_best = row is results.rows[0]
        text = results.shown_spread(row.test_mean, row.test_deviation).replace(" ± ", "\n± ")
        look = {"facecolor": to_hex(colour), "edgecolor": INK if is_best else "none"}
        is_dark = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] < 0.55
        style = {"color": "#ffffff" if is_dark else "#10151c", "weight": "bold" if is_best else "normal"}
    axes.add_patch(Rectangle((at[0] - 0.48, at[1] - 0.47), 0.96, 0.94, linewidth=1.6, **look))
    axes.text(*at, text, ha="center", va="center", fontsize=11, **style)
