"""The learning curves: mean over seeds, and a band from the worst to the best of them."""

from collections.abc import Sequence
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...training.values import Values
from ..results import Results, Row
from .layout import Layout
from .theme import metric_axis, panels

_SHOWN = 8  # lines of a search


def draw_curves(results: Results) -> Figure | None:
    """Draw the validation metric over epochs, a panel for every value of one key; None before any epoch has ended."""
    if not any(run.history for run in results.runs):
        return None
    layout = Layout(results)
    groups = _groups(layout)
    figure, axes = panels(len(groups), 3.7 if len(groups) > 1 else 6.0, 3.0, share=True)
    handles: dict[tuple[int, int], Line2D] = {}
    for panel, (title, rows) in zip(axes, groups, strict=True):
        for row in rows:
            style: Values = {"color": layout.colour(row), "linestyle": layout.line(row)}
            if _draw(panel, row, style):
                handles[layout.place(row)] = Line2D([], [], label=_name(layout, row), **style)
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        metric_axis(panel, results, "validation")
    _share_limits(axes, results)
    if len(handles) > 1:
        figure.legend(handles=[handles[place] for place in sorted(handles)], loc="outside right center")
    return figure


def band(row: Row) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return epochs, and the lowest, mean and highest metric of a row's runs that have come so far."""
    epochs: dict[int, list[float]] = {}
    for epoch in (epoch for run in row.runs for epoch in run.history if epoch["val_metric"] is not None):
        epochs.setdefault(epoch["epoch"], []).append(epoch["val_metric"])
    most = max(map(len, epochs.values()), default=0)
    kept = {epoch: values for epoch, values in sorted(epochs.items()) if len(values) == most}
    values = list(kept.values())
    return list(kept), [min(v) for v in values], [mean(v) for v in values], [max(v) for v in values]


def _groups(layout: Layout) -> list[tuple[str, Sequence[Row]]]:
    rows = layout.results.rows
    if layout.results.grid.search:
        return [(f"the best {_SHOWN}" if len(rows) > _SHOWN else "", rows[:_SHOWN])]
    values = layout.values(layout.down)
    groups = [(layout.name(layout.down, value), layout.rows({layout.down: value})) for value in values]
    return [(title, rows) for title, rows in groups if rows]


def _name(layout: Layout, row: Row) -> str:
    """What tells a line from the others of its panel."""
    keys = [key for key in layout.results.keys if key != layout.down or layout.results.grid.search]
    return ", ".join(layout.name(key, row.choices[key]) for key in keys) or row.label


def _draw(axes: Axes, row: Row, style: Values) -> bool:
    epochs, low, middle, high = band(row)
    if low != high:
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.18, linewidth=0)
    axes.plot(epochs, middle, linewidth=1.8, marker="o" if len(epochs) < 4 else None, markersize=4, **style)
    return bool(epochs)


def _share_limits(axes: Sequence[Axes], results: Results) -> None:
    """Let the axis of all panels begin where all are after a third of their epochs: the rest is steep."""
    low, _ = axes[0].get_ylim()
    means = [middle for row in results.rows for _, _, middle, _ in [band(row)] if len(middle) >= 6]
    late = [value for middle in means for value in middle[len(middle) // 3 :]]
    if late and results.higher_is_better:
        axes[0].set_ylim(bottom=max(low, min(late) - 0.15 * (max(late) - min(late))))
    for panel in axes:
        if not panel.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # it is one of several
            panel.set_ylabel("")
