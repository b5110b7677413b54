"""The record of a run: what training, comparisons and reports know of it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Self, TypedDict

from ..tasks import Task
from .folder import replacing
from .formats import KEY, RECORD
from .values import Value, Values, plain

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"


class Epoch(TypedDict):
    """Scores of one epoch, counted from 1; ``seconds`` is the time of its training batches, without validation."""

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
        For each finished epoch: ``epoch``, ``train_loss``, ``val_loss``, ``val_metric``, ``seconds`` of training.
    test_loss, test_metric : float or None
        Scores of the network with the lowest validation loss.
    hidden_size, parameters : int or None
        Units of a layer, and trained degrees of freedom.
    seconds_per_step : float or None
        Mean over all training steps.
    defect : float or None
        Largest defect of a constrained weight after the last step; None if there is none.
    matrix : str
        Name of the matrix that has the eigenvalues.
    spectrum_start, spectrum_end : list of pairs of float
        Real and imaginary parts of its eigenvalues before the first and after the last step.
    failure : str or None
        Why training ended early, if it did.
    stopped : bool
        Whether the user, or a batch system, stopped the run.
    pruned : bool
        Whether a comparison ended the run because it was worse than the median of those before it.
    choices : dict
        In a comparison: the values of what varies, by dotted key.
    seed : int
        Seed of the run.

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

    @property
    def state(self) -> str:
        """The end of the run, which is "complete", "pruned" or "failed"."""
        return FAILED if self.failure is not None else PRUNED if self.pruned else COMPLETE

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
        """Validation metric at the lowest validation loss, or of the last epoch of a pruned run; None if it failed."""
        if self.failure is not None or not self.history:
            return None
        if self.pruned:
            return self.history[-1]["val_metric"]
        finite = [epoch for epoch in self.history if epoch["val_loss"] is not None and math.isfinite(epoch["val_loss"])]
        return min(finite, key=lambda epoch: epoch["val_loss"])["val_metric"] if finite else None

    def as_dict(self) -> Values:
        """Return plain values for JSON, in which a number that is not finite is null."""
        return {KEY: RECORD.current, **plain(asdict(self))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Value]) -> Self:
        """Return the record that `as_dict` made these values of; `OptionError` if a newer version of it did."""
        RECORD.require(values.get(KEY, 1), "A result")
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


def shown_metric(task: Task, value: float) -> str:
    """Return the metric's name and a value: an accuracy as a percentage, an error as it is."""
    return f"{task.metric_name} {value:.1%}" if task.higher_is_better else f"{task.metric_name} {value:.4g}"


def write_json(path: Path, document: Values) -> None:
    """Write a document as JSON, atomically; a number that is not finite becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(f"{json.dumps(plain(document), indent=2, allow_nan=False)}\n", encoding="utf-8")
