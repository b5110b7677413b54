"""Pictures of a run: learning curves, and where the eigenvalues of the recurrent matrices went."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..tasks import Task
from .files import replacing
from .report import Result

_GREY = "#8a8f98"
# Okabe and Ito's palette: told apart by every kind of colour vision
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def plot_curves(path: Path, results: Sequence[Result], task: Task) -> None:
    r"""Draw training loss and validation accuracy over epochs, and save them as PNG.

    Parameters
    ----------
    path : Path
        The file, replaced atomically.
    results : sequence of Result
        One line each.
    task : Task
        Names the picture; its baseline is dotted.

    Raises
    ------
    OSError
        If the file can't be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "c.png")
    ...     mr.training.plot_curves(path, [mr.training.Result("lstm", 8, 442)], mr.tasks.Digits())
    ...     assert path.read_bytes().startswith(b"\x89PNG")
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    used: list[str] = []
    for result, colour in zip(results, _colours(results), strict=True):
        epochs = [record.epoch for record in result.history]
        line = ("-", "--", ":")[used.count(colour) % 3]  # a colour that comes again is another line
        used.append(colour)
        style = {"color": colour, "linestyle": line, "label": result.name, "linewidth": 1.8}
        style |= {"marker": "o" if len(epochs) < 4 else None}
        left.plot(epochs, [record.train_loss for record in result.history], **style)
        right.plot(epochs, [record.val_metric for record in result.history], **style)
    left.axhline(task.baseline().loss, color="0.6", linestyle=":", linewidth=1.2)
    right.axhline(task.baseline().metric, color="0.6", linestyle=":", linewidth=1.2, label="guesser")
    left.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy", yscale="log")
    right.set(title="Validation accuracy", xlabel="epoch", ylim=(0, 1.02))
    right.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(f"{task.name}, read in {task.length} steps", fontsize=13)
    _save(figure, path)


def plot_eigenvalues(path: Path, results: Sequence[Result]) -> None:
    r"""Draw the eigenvalues of each recurrent matrix at the start and at the end around the unit circle, as PNG.

    Parameters
    ----------
    path : Path
        The file, replaced atomically.
    results : sequence of Result
        One panel each; a circle of an unconstrained matrix's panel is a yardstick only.

    Raises
    ------
    OSError
        If the file can't be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "e.png")
    ...     mr.training.plot_eigenvalues(path, [mr.training.Result("exprnn", 2, 41, spectrum_start=[1j, -1j])])
    ...     assert path.read_bytes().startswith(b"\x89PNG")
    """
    rows = max(1, ceil(len(results) / 4))
    columns = max(1, ceil(len(results) / rows))
    figure = Figure(figsize=(3.4 * columns, 3.7 * rows + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, result, colour in zip(panels, results, _colours(results), strict=False):
        _draw_spectrum(axes, result, colour)
    for axes in panels[len(results) :]:
        axes.set_visible(False)
    figure.suptitle("Eigenvalues of the recurrent matrix: hollow at the start, full at the end", fontsize=12)
    _save(figure, path)


def _draw_spectrum(axes: Axes, result: Result, colour: str) -> None:
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor="0.75", linewidth=1.2))
    start, end = result.spectrum_start, result.spectrum_end
    axes.scatter([z.real for z in start], [z.imag for z in start], s=26, facecolors="none", edgecolors="0.55", zorder=2)
    axes.scatter([z.real for z in end], [z.imag for z in end], s=14, color=colour, zorder=3)
    reach = 1.06 * max([1.1, *(max(abs(z.real), abs(z.imag)) for z in (*start, *end))])
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=(-1, 0, 1), yticks=(-1, 0, 1), aspect="equal")
    axes.set_title(f"{result.name}: {result.matrix}", fontsize=11)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.grid(color="0.93", linewidth=0.8)
    axes.set_axisbelow(True)


def _colours(results: Sequence[Result]) -> list[str]:
    constrained = [result.name for result in results if result.constrained]
    lookup = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(constrained)}
    return [lookup.get(result.name, _GREY) for result in results]


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
