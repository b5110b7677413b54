"""The learning curves: mean over seeds, and a band from the worst to the best of them."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...results import Results, Row
from .layout import Layout
from .theme import INK, dress, legend, metric_axis, panels

_SHOWN = 8  # lines of a search


def draw_curves(results: Results) -> Figure | None:
    """Draw the validation metric over epochs, a panel for every value of one key; None before any epoch has ended."""
    if not any(run.history for run in results.runs):
        return None
    layout = Layout(results)
    groups = _groups(layout)
    figure, axes = panels(len(groups), 3.7 if len(groups) > 1 else 6.0, 3.0)
    shown: dict[str, Line2D] = {}
    order = _order(layout)
    for panel, (title, rows) in zip(axes, groups, strict=True):
        for row in rows:
            name = _name(layout, row)
            lines = _draw(panel, row, layout.colour(row), layout.line(row))
            shown |= {name: lines} if lines else {}
        _finish(panel, results, title)
    _share(axes, _floor(results))
    if len(shown) > 1:
        legend(figure, [_handle(name, line) for name, line in sorted(shown.items(), key=lambda item: order[item[0]])])
    return figure


def band(row: Row) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return epochs, and the lowest, mean and highest metric of a row's runs that have come so far."""
    epochs: dict[int, list[float]] = {}
    for run in row.runs:
        for epoch in run.history:
            if epoch["val_metric"] is not None:
                epochs.setdefault(epoch["epoch"], []).append(epoch["val_metric"])
    most = max(map(len, epochs.values()), default=0)
    kept = {epoch: values for epoch, values in sorted(epochs.items()) if len(values) == most}
    values = list(kept.values())
    return list(kept), [min(v) for v in values], [mean(v) for v in values], [max(v) for v in values]


def _groups(layout: Layout) -> list[tuple[str, Sequence[Row]]]:
    if layout.results.grid.search:
        return [(f"the best {_SHOWN}" if len(layout.results.rows) > _SHOWN else "", layout.results.rows[:_SHOWN])]
    found = [
        (layout.name(layout.down, value), layout.rows({layout.down: value})) for value in layout.values(layout.down)
    ]
    return [(title, rows) for title, rows in found if rows]


def _name(layout: Layout, row: Row) -> str:
    keys = [key for key in layout.results.keys if key != layout.down or layout.results.grid.search]
    return ", ".join(layout.name(key, row.choices[key]) for key in keys) or row.label


def _order(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names by the place of their values in the file."""
    keys = [key for key in layout.results.keys if layout.results.values(key)]
    keys.sort(key=lambda key: key != layout.across)
    rows = layout.results.rows
    return {
        _name(layout, row): tuple(layout.results.values(key).index(row.choices[key]) for key in keys) for row in rows
    }


def _draw(axes: Axes, row: Row, colour: str, style: str) -> Line2D | None:
    epochs, low, middle, high = band(row)
    if not epochs:
        return None
    if low != high:
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    marker: dict[str, Any] = {"marker": "o", "markersize": 4} if len(epochs) < 4 else {}
    return axes.plot(epochs, middle, color=colour, linestyle=style, linewidth=1.8, **marker)[0]


def _finish(axes: Axes, results: Results, title: str) -> None:
    dress(axes)
    axes.set_title(title, color=INK, fontsize=11)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {results.about['metric']}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    metric_axis(axes, results)


def _floor(results: Results) -> float | None:
    """Where the axis begins: what all have left behind after a third of their epochs; the steep part hides the rest."""
    middles = [middle for row in results.rows for _, _, middle, _ in [band(row)] if len(middle) >= 6]
    late = [value for middle in middles for value in middle[len(middle) // 3 :]]
    return min(late) - 0.15 * (max(late) - min(late)) if late and results.higher_is_better else None


def _handle(name: str, line: Line2D) -> Line2D:
    return Line2D([], [], color=line.get_color(), linestyle=line.get_linestyle(), label=name)


def _share(axes: Sequence[Axes], floor: float | None) -> None:
    limits = [panel.get_ylim() for panel in axes]
    for place, panel in enumerate(axes):
        low, high = min(low for low, _ in limits), max(high for _, high in limits)
        panel.set_ylim(low if floor is None else max(low, floor), high)
        if place % 3:
            panel.set_ylabel("")
            panel.tick_params(labelleft=False)
