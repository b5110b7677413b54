"""Scores against time, scores along the ranges of a search, and eigenvalues."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from ...training.values import Values
from ..results import Results
from .curves import band
from .layout import Layout
from .theme import INK, LINE, MUTED, metric_axis, panels

_SPECTRA = 12


def draw_time(results: Results) -> Figure | None:
    """Draw the validation metric over seconds, and the test metric over seconds a step; None if there is neither."""
    timed = [row for row in results.rows if row.complete and row.seconds]
    if not timed:
        return None
    layout = Layout(results)
    figure, (left, right) = panels(2, 5.2, 3.7, columns=2)
    for row in timed:
        colour, marker, is_best = layout.colour(row), layout.marker(row), row is results.rows[0]
        epochs, _, middle, _ = band(row)
        each = (row.seconds or 0.0) / max(len(run.history) for run in row.complete)
        seconds = [epoch * each for epoch in epochs]
        left.plot(seconds, middle, color=colour, linewidth=1.3, alpha=0.85)
        left.plot(seconds[-1:], middle[-1:], color=colour, marker=marker, markersize=6)
        if row.seconds_per_step is not None and row.test_mean is not None:
            edge: Values = {"markeredgecolor": INK if is_best else "none", "markeredgewidth": 1.6}
            at, error = (1000 * row.seconds_per_step, row.test_mean), row.test_deviation
            right.errorbar(*at, yerr=error, color=colour, marker=marker, markersize=9 if is_best else 7, **edge)
    left.set(title="Over the time of training", xlabel="seconds of training")
    right.set(title="Against the time of a step", xlabel="milliseconds a step", xlim=(0, None))
    metric_axis(left, results, "validation")
    metric_axis(right, results, "test")
    figure.legend(handles=_handles(layout), loc="outside right center")
    return figure


def draw_ranges(results: Results) -> Figure | None:
    """Draw the validation metric against every number that a search draws; None if there is none."""
    keys = [key for key, space in results.grid.search.items() if "choices" not in space]
    if not keys or not any(row.complete for row in results.rows):
        return None
    layout = Layout(results)
    figure, axes = panels(len(keys), 3.7, 3.0)
    for panel, key in zip(axes, keys, strict=True):
        for row in results.rows:
            values = [run.validation or 0.0 for run in row.complete]
            panel.scatter([row.choices[key]] * len(values), values, color=layout.colour(row), marker=layout.marker(row))
        panel.set(title=results.titles[key], xlabel=key)
        panel.set_xscale("log" if results.grid.search[key].get("log") else "linear")
        metric_axis(panel, results, "validation")
    return figure


def draw_eigenvalues(results: Results) -> Figure | None:
    """Draw the eigenvalues of the first run of each of the best combinations; None if there are none."""
    firsts = [(row, run) for row in results.rows for run in row.complete[:1] if run.spectrum_end][:_SPECTRA]
    if not firsts:
        return None
    layout = Layout(results)
    figure, axes = panels(len(firsts), 2.6, 2.9, columns=4)
    for panel, (row, run) in zip(axes, firsts, strict=True):
        panel.add_patch(Circle((0, 0), 1, fill=False, edgecolor=LINE, linewidth=1.2))
        for pairs, face, edge in ((run.spectrum_start, "none", MUTED), (run.spectrum_end, layout.colour(row), "none")):
            real, imaginary = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            panel.scatter(real, imaginary, s=14, facecolors=face, edgecolors=edge)
        reach = 1.06 * max(1.1, *(abs(part) for pair in (*run.spectrum_start, *run.spectrum_end) for part in pair))
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=(), yticks=(), aspect="equal")
        panel.spines[:].set_visible(False)
        panel.set_title(f"{row.label}: {run.matrix}", fontsize=9)
    return figure


def _handles(layout: Layout) -> list[Line2D]:
    handles = []
    for key in (layout.across, layout.down):
        for value in layout.values(key) if key else []:
            for row in layout.rows({key: value})[:1]:
                is_across = key == layout.across
                style = (layout.colour(row), "o") if is_across else (MUTED, layout.marker(row))
                label = layout.name(key, value)
                handles.append(Line2D([], [], linestyle="none", color=style[0], marker=style[1], label=label))
    return handles
