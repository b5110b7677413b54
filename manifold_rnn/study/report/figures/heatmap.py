"""The heat map: what each pair of choices reaches."""

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...results import Results, Row
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
    scale = _scale(results)
    for panel, beside in zip(axes, layout.beside, strict=True):
        _frame(panel, layout)
        panel.set_title(", ".join(layout.name(*item) for item in beside.items()))
        for i, vertical in enumerate(down):
            for j, horizontal in enumerate(across):
                where = {**beside, layout.down: vertical, layout.across: horizontal}
                _cell(panel, results, next(iter(layout.rows(where)), None), (j, i), scale)
    return figure


def _scale(results: Results) -> Normalize:
    means = [row.test.mean for row in results.rows if row.test.mean is not None]
    low, high = min(means, default=0.0), max(means, default=1.0)
    return Normalize(low, high if high > low else low + 1)


def _frame(axes: Axes, layout: Layout) -> None:
    down, across = layout.values(layout.down), layout.values(layout.across)
    axes.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(down) - 0.5, -0.5))
    axes.grid(visible=False)
    axes.set_xticks(range(len(across)), [layout.name(layout.across, value) for value in across])
    axes.set_yticks(range(len(down)), [layout.name(layout.down, value) for value in down])
    axes.tick_params(length=0, labelcolor=INK, labelsize=10)
    axes.spines[:].set_visible(False)
    for key, label in ((layout.across, axes.set_xlabel), (layout.down, axes.set_ylabel)):
        label(layout.results.titles[key] if key else "")


def _cell(axes: Axes, results: Results, row: Row | None, at: tuple[int, int], scale: Normalize) -> None:
    mean = row.test.mean if row else None
    corner = at[0] - 0.48, at[1] - 0.47
    if row is None or mean is None:
        words = "failed" if row and not row.complete and row.runs[0].failure else "pruned" if row else "not run"
        axes.add_patch(Rectangle(corner, 0.96, 0.94, facecolor="none", edgecolor=LINE, hatch="////", linewidth=0.8))
        axes.text(*at, words, ha="center", va="center", color=MUTED, fontsize=9)
        return
    share = float(scale(mean))
    colour = _MAP(0.08 + 0.9 * (share if results.higher_is_better else 1 - share))
    best = row is results.rows[0]
    edge, width = (INK, 2.4) if best else ("none", 0.0)
    axes.add_patch(Rectangle(corner, 0.96, 0.94, facecolor=to_hex(colour), edgecolor=edge, linewidth=width))
    ink = "#ffffff" if 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] < 0.55 else "#10151c"
    weight = "bold" if best else "normal"
    axes.text(at[0], at[1] - 0.1, results.shown(mean), ha="center", va="center", color=ink, fontsize=12, weight=weight)
    if row.test.deviation is not None:
        deviation = f"± {100 * row.test.deviation:.1f}" if results.higher_is_better else f"± {row.test.deviation:.1g}"
        axes.text(at[0], at[1] + 0.24, deviation, ha="center", va="center", color=ink, fontsize=8.5)
