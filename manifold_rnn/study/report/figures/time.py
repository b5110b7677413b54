"""What accuracy costs: the metric against the time of training, and against that of a step."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...results import Results, Row
from .curves import band
from .layout import Layout
from .theme import INK, MUTED, dress, legend, metric_axis, panels


def draw_time(results: Results) -> Figure | None:
    """Draw the validation metric over seconds, and the test metric over seconds a step; None if there is neither."""
    timed = [row for row in results.rows if row.complete and row.seconds]
    if not timed:
        return None
    layout = Layout(results)
    figure, (left, right) = panels(2, 5.2, 3.7, columns=2)
    for row in timed:
        _line(left, row, layout)
        _point(right, row, layout, best=row is results.rows[0])
    for axes, title in ((left, "Over the time of training"), (right, "Against the time of a step")):
        dress(axes)
        metric_axis(axes, results)
        axes.set_title(title, color=INK, fontsize=11)
    metric = results.about["metric"]
    left.set(xlabel="seconds of training", ylabel=f"validation {metric}")
    right.set(xlabel="milliseconds a step", ylabel=f"test {metric}", xlim=(0, None))
    legend(figure, _handles(layout))
    return figure


def _line(axes: Axes, row: Row, layout: Layout) -> None:
    epochs, _, middle, _ = band(row)
    each = (row.seconds or 0.0) / max(len(run.history) for run in row.complete)
    seconds = [epoch * each for epoch in epochs]
    axes.plot(seconds, middle, color=layout.colour(row), linewidth=1.3, alpha=0.85)
    if seconds:
        axes.plot(seconds[-1:], middle[-1:], color=layout.colour(row), marker=layout.marker(row), markersize=6)


def _point(axes: Axes, row: Row, layout: Layout, best: bool) -> None:
    if row.seconds_per_step is None or row.test.mean is None:
        return
    axes.errorbar(
        1000 * row.seconds_per_step,
        row.test.mean,
        yerr=row.test.deviation,
        color=layout.colour(row),
        marker=layout.marker(row),
        markersize=9 if best else 7,
        markeredgecolor=INK if best else "none",
        markeredgewidth=1.6,
        elinewidth=1,
        capsize=0,
    )


def _handles(layout: Layout) -> list[Line2D]:
    found = []
    for key, draw in ((layout.across, layout.colour), (layout.down, layout.marker)):
        for value in layout.values(key) if key else []:
            row = next(iter(layout.rows({key: value})), None)
            if row is None:
                continue
            name = layout.name(key, value)
            colour, marker = (draw(row), "o") if key == layout.across else (MUTED, draw(row))
            found.append(Line2D([], [], linestyle="none", color=colour, marker=marker, markersize=7, label=name))
    return found
