"""What a run leaves behind: a table on the screen and ``results.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..tasks import Task
from .files import replacing


@dataclass(frozen=True)
class EpochRecord:
    """Scores of one epoch; ``seconds`` is the time of its training batches, validation left out.

    Examples
    --------
    >>> record = mr.training.EpochRecord(epoch=1, train_loss=2.3, val_loss=2.2, val_metric=0.2, seconds=0.5)
    >>> assert record.epoch == 1
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_metric: float
    seconds: float


@dataclass
class Result:
    """All that a report says about one network.

    Attributes
    ----------
    name : str
        The network.
    hidden_size, parameters : int
        Units, and trained degrees of freedom.
    constrained : bool
        Whether a weight of it lies on a manifold.
    history : list of EpochRecord
        One record for every finished epoch.
    test_loss, test_accuracy, defect, seconds_per_epoch : float or None
        Scores after the last finished epoch; the distance from orthogonality (largest over its constrained weights);
        the median epoch. None where there is none.
    matrix : str
        Which matrix the spectra are of.
    spectrum_start, spectrum_end : list of complex
        Its eigenvalues.
    failure : str or None
        Why training ended early, if it did.

    Examples
    --------
    >>> assert mr.training.Result("lstm", hidden_size=8, parameters=442).test_accuracy is None
    """

    name: str
    hidden_size: int
    parameters: int
    constrained: bool = False
    history: list[EpochRecord] = field(default_factory=list)
    test_loss: float | None = None
    test_accuracy: float | None = None
    defect: float | None = None
    seconds_per_epoch: float | None = None
    matrix: str = "W_hh"
    spectrum_start: list[complex] = field(default_factory=list)
    spectrum_end: list[complex] = field(default_factory=list)
    failure: str | None = None


def print_table(results: Sequence[Result], task: Task, console: Console) -> None:
    """Print one row for every network, the best test accuracy in bold.

    Parameters
    ----------
    results : sequence of Result
        The rows, in their order.
    task : Task
        Names the table; its baseline stands below.
    console : rich.console.Console
        Where to print.

    Examples
    --------
    >>> import io, rich.console
    >>> console = rich.console.Console(file=io.StringIO())
    >>> mr.training.print_table([mr.training.Result("lstm", 8, 442, test_accuracy=0.9)], mr.tasks.Digits(), console)
    >>> assert "90.0%" in console.file.getvalue()
    """
    table = Table(
        title=f"{task.name}, read in {task.length} steps",
        caption=f"a guesser has {task.baseline().metric:.0%}",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("network", vertical="bottom")
    for heading in ("test\naccuracy", "parameters", "hidden\nsize", "orthogonality\ndefect", "seconds\nper epoch"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = max((r.test_accuracy for r in results if r.test_accuracy is not None), default=None)
    for r in results:
        accuracy = _shown(r.test_accuracy, ".1%")
        table.add_row(
            r.name,
            f"[bold]{accuracy}[/bold]" if r.test_accuracy == best and best is not None else accuracy,
            f"{r.parameters:,}",
            str(r.hidden_size),
            _shown(r.defect, ".1e"),
            _shown(r.seconds_per_epoch, ".2f"),
        )
    console.print(table)
    for r in results:
        if r.failure:
            console.print(f"{r.name}: {r.failure}", style="yellow", highlight=False, soft_wrap=True)


def write_results(path: Path, results: Sequence[Result], about: Mapping[str, Any]) -> None:
    """Write results as JSON, atomically: a reader sees the old file or the new one, never half of it.

    Parameters
    ----------
    path : Path
        The file; it is replaced if it exists.
    results : sequence of Result
        They become the list ``results``; eigenvalues are pairs of real and imaginary part, what is not finite is null.
    about : mapping
        Further top-level entries, such as settings and versions.

    Raises
    ------
    OSError
        If the file can't be written; an existing one is left as it was.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "r.json")
    ...     mr.training.write_results(path, [mr.training.Result("lstm", 8, 442)], {"seed": 0})
    ...     assert '"lstm"' in path.read_text()
    """
    write_json(path, {**about, "results": [asdict(r) for r in results]})


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document as JSON, atomically; what is not finite is null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_plain(document), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _shown(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
