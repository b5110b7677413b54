"""The record of a run, which training writes and which comparisons and reports read."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Self, TypedDict

from ..errors import OptionError
from ..tasks import Task
from .folder import replacing
from .formats import KEY, RECORD
from .signals import StopRequested, StopSignal
from .values import Value, Values, plain

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
_DIGEST = "sha256"


class Epoch(TypedDict):
    """Scores of one epoch, counted from 1. ``seconds`` is the time of its training batches, without validation."""

    epoch: int
    train_loss: float
    val_loss: float
    val_metric: float
    seconds: float


@dataclass
class RunRecord:
    """The result of a run.

    Attributes
    ----------
    history : list of dict
        A mapping for each finished epoch: ``epoch``, ``train_loss``, ``val_loss``, ``val_metric``, ``seconds`` of
        training.
    test_loss, test_metric : float or None
        Scores of the network with the lowest validation loss.
    hidden_size, parameters : int or None
        Number of units of a layer, and of trained degrees of freedom.
    seconds_per_step : float or None
        Mean time of a training step.
    defect : float or None
        Largest defect of a constrained weight after the last step. None if no weight is constrained.
    matrix : str
        Name of the matrix whose eigenvalues are recorded.
    spectrum_start, spectrum_end : list of pairs of float
        Real and imaginary parts of the eigenvalues of this matrix, before the first and after the last step.
    failure : str or None
        Reason why training ended early. None if it did not.
    stopped : bool
        Whether the user or a batch system stopped the run.
    pruned : bool
        Whether a comparison ended the run because it was worse than the median of earlier runs.
    choices : dict
        In a comparison, the values that vary, by dotted key.
    seed : int
        Seed of the run.
    environments : list of dict
        The environment of each part of the run: versions, threads, and ``data`` with a digest of the sets. ``scan`` and
        ``accelerator`` are added if a batch was trained. A part that resumes in an equal environment adds no entry.

    Examples
    --------
    >>> record = mr.training.RunRecord(parameters=3, failure="the loss is not finite")
    >>> assert record.history == [] and record.state == "failed"
    """

    history: list[Epoch] = field(default_factory=list)
    test_loss: float | None = None
    test_metric: float | None = None
    hidden_size: int | None = None
    parameters: int | None = None
    seconds_per_step: float | None = None
    defect: float | None = None
    matrix: str = ""
    spectrum_start: list[list[float]] = field(default_factory=list)
    spectrum_end: list[list[float]] = field(default_factory=list)
    failure: str | None = None
    stopped: bool = False
    pruned: bool = False
    choices: Values = field(default_factory=dict)
    seed: int = 0
    environments: list[Values] = field(default_factory=list)

    @property
    def state(self) -> str:
        """How the run ended, "complete", "pruned" or "failed". A number that is not finite counts as a failure."""
        if self.failure is not None or self.not_finite:
            return FAILED
        return PRUNED if self.pruned else COMPLETE

    @property
    def not_finite(self) -> str:
        """The name and the value of the first number that is not finite, or "" if there is none."""
        numbers = asdict(self)
        for epoch in numbers["history"]:  # JSON stores null for such a number, also in the two spectra
            epoch |= {key: math.nan for key in ("train_loss", "val_loss", "val_metric") if epoch.get(key, 0.0) is None}
        for spectrum in ("spectrum_start", "spectrum_end"):
            numbers[spectrum] = [[math.nan if part is None else part for part in pair] for pair in numbers[spectrum]]
        return next((f"{name} is {value}" for name, value in _leaves(numbers, "") if not math.isfinite(value)), "")

    @property
    def epochs(self) -> int:
        """The number of the last finished epoch."""
        return self.history[-1]["epoch"] if self.history else 0

    @property
    def seconds(self) -> float:
        """Time of all training batches."""
        return sum(epoch["seconds"] or 0.0 for epoch in self.history)

    @property
    def validation(self) -> float | None:
        """Validation metric at the lowest validation loss. That of the last epoch if pruned, None if the run failed."""
        if self.failure is not None or not self.history:
            return None
        if self.pruned:
            return self.history[-1]["val_metric"]
        finite = [epoch for epoch in self.history if epoch["val_loss"] is not None and math.isfinite(epoch["val_loss"])]
        return min(finite, key=lambda epoch: epoch["val_loss"])["val_metric"] if finite else None

    def as_dict(self) -> Values:
        """Return plain values for JSON. A number that is not finite becomes null."""
        return {KEY: RECORD.current, **plain(asdict(self))}

    def as_digested_dict(self) -> Values:
        """Return the plain values of `as_dict` with their digest, which `from_dict` checks."""
        values = self.as_dict()
        return {**values, _DIGEST: _digest(values)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Value]) -> Self:
        """Return the record from the values of `as_dict`.

        Raises `OptionError` if a newer version wrote them, or if their digest does not match.
        """
        RECORD.require(values.get(KEY, 1), "A result")
        content = {key: value for key, value in values.items() if key != _DIGEST}
        if values.get(_DIGEST, digest := _digest(content)) != digest:
            raise OptionError("A result is damaged: its digest does not match its content.")
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


def shown_metric(task: Task, value: float) -> str:
    """Return the name and the value of a metric: an accuracy as a percentage, an error as a number."""
    return f"{task.metric_name} {value:.1%}" if task.higher_is_better else f"{task.metric_name} {value:.4g}"


def shown_progress(state: Mapping[str, Value], epochs: int) -> str:
    """Return the progress in a checkpoint, such as "1 of 3 epochs and 4 of 10 batches of the next"."""
    batches = f" of {state['batches']}" if "batches" in state else ""  # older checkpoints do not have it
    rest = f" and {state['batch']}{batches} batches of the next" if state["batch"] else ""
    return f"{len(state['history'])} of {epochs} epochs{rest}"


def write_record(path: Path, record: RunRecord, stop: StopSignal) -> None:
    """Write a record as JSON with a digest. Raises `StopRequested` only before the file exists."""
    values = record.as_digested_dict()
    with replacing(path) as temporary:
        temporary.write_text(_json(values), encoding="utf-8")
        if stop.requested:
            raise StopRequested


def read_record(path: Path) -> RunRecord:
    """Read a record that `write_record` wrote. Raises `OptionError` if the file is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        digest = values.pop(_DIGEST)
    except OSError as error:
        raise OptionError(f"The result '{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # not UTF-8, JSON or a mapping, or no digest
        raise OptionError(f"The result '{path}' is damaged: it is not a record with a digest. Train again.") from error
    if digest != _digest(values):
        raise OptionError(f"The result '{path}' is damaged: its digest does not match its content. Train again.")
    return RunRecord.from_dict(values)


def write_json(path: Path, document: Values) -> None:
    """Write a document as JSON, atomically. A number that is not finite becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(_json(document), encoding="utf-8")


def _json(document: Values) -> str:
    return f"{json.dumps(plain(document), indent=2, allow_nan=False)}\n"


def _digest(values: Values) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _leaves(value: Value, name: str) -> Iterator[tuple[str, float]]:
    """Every float in a nested value, with its dotted name."""
    if isinstance(value, float):
        yield name, value
    items = value.items() if isinstance(value, dict) else enumerate(value, 1) if isinstance(value, list | tuple) else ()
    for key, inner in items:
        yield from _leaves(inner, f"{name}.{key}" if name else str(key))
