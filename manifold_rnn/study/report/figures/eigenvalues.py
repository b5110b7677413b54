"""Eigenvalues of the recurrent matrices, before and after training."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from ....training.record import RunRecord
from ...results import Results, Row
from .layout import Layout
from .theme import INK, LINE, MUTED, panels

_SHOWN = 12


def draw_eigenvalues(results: Results) -> Figure | None:
    """Draw the eigenvalues of the first run of each of the best combinations; None if there are none."""
    runs = {row.label: (row, run) for row in results.rows for run in row.complete[:1] if run.spectrum_end}
    if not runs:
        return None
    layout, chosen = Layout(results), list(runs.values())[:_SHOWN]
    figure, axes = panels(len(chosen), 2.6, 2.9, columns=4)
    for panel, (row, run) in zip(axes, chosen, strict=True):
        _draw(panel, row, run, layout.colour(row))
    return figure


def _draw(axes: Axes, row: Row, run: RunRecord, colour: str) -> None:
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=LINE, linewidth=1.2))
    for values, style in ((run.spectrum_start, {"facecolors": "none", "edgecolors": MUTED}), (run.spectrum_end, {})):
        real, imaginary = [pair[0] for pair in values], [pair[1] for pair in values]
        axes.scatter(real, imaginary, s=14, **(style or {"color": colour}))
    reach = 1.06 * max(1.1, *(abs(part) for pair in (*run.spectrum_start, *run.spectrum_end) for part in pair))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=(), yticks=(), aspect="equal", facecolor="none")
    axes.spines[:].set_visible(False)
    axes.set_title(f"{row.label}: {run.matrix}", color=INK, fontsize=9)
