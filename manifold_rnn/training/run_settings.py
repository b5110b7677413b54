"""What a training run can be told: read from a nested mapping, as a YAML file gives it, and written back as one."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..errors import OptionError
from ..tasks import Task
from .catalogue import TASKS
from .flags import parse_mapping
from .run_parts import NetworkSettings, OptimizerSettings, ScheduleSettings, require, require_name

PARTS: dict[str, type] = {
    "network": NetworkSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
}


@dataclass(frozen=True)
class RunSettings:
    """Everything that a training run depends on.

    Parameters
    ----------
    task : Task
        What is learned.
    network : NetworkSettings
    optimizer : OptimizerSettings
    schedule : ScheduleSettings
    epochs : int
        Passes over the training set.
    max_steps : int, optional
        Stop after so many steps, if the epochs are not over before.
    batch_size : int
        Sequences in a training batch, of each process.
    clip : float, optional
        Largest norm of the whole gradient; longer ones are shortened to it.
    patience : int, optional
        Stop after so many epochs without a lower validation loss.
    precision : str
        float32, float64, or bfloat16 (automatic mixed precision; constrained weights are computed in float32).
    accelerator : str
        cpu, gpu, or auto.
    devices : int
        Processes on this machine, each with a replica; more than one under torchrun.
    nodes : int
        Machines.
    strategy : str
        auto or ddp.
    seed : int
        Of the starting weights and of the order of the batches.
    output : str
        Folder for checkpoints, logs and results.
    checkpoint_every : float, optional
        Seconds between two checkpoints inside an epoch; null for one at the end of each epoch only.
    log_every : int
        Steps between two entries of the log.

    Raises
    ------
    OptionError
        If a value is out of range.

    Examples
    --------
    >>> network = mr.training.NetworkSettings(zoo="scornn", hidden_size=16)
    >>> settings = mr.training.RunSettings(mr.tasks.Digits(), network, epochs=3)
    >>> assert settings.optimizer.name == "adam"
    """

    task: Task
    network: NetworkSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 32
    clip: float | None = None
    patience: int | None = None
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    seed: int = 0
    output: str = "runs/run"
    checkpoint_every: float | None = 60.0
    log_every: int = 50

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "devices", "nodes", "log_every", "max_steps", "patience"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, "an integer of at least 1", value)
        for key in ("clip", "checkpoint_every"):
            value = getattr(self, key)
            require(value is None or value > 0, key, "a positive number, or null", value)
        require_name("precision", self.precision, ("float32", "float64", "bfloat16"))
        require(0 <= self.seed < 2**32, "seed", "an integer from 0 to 2^32 - 1", self.seed)


def read_run(mapping: Mapping[str, Any]) -> RunSettings:
    """Read settings from a nested mapping of plain values.

    Parameters
    ----------
    mapping : mapping
        As a YAML file gives it: ``task``, ``network``, ``optimizer`` and ``schedule`` are mappings too, the first with
        the ``name`` of a task and its fields.

    Returns
    -------
    RunSettings

    Raises
    ------
    OptionError
        If a key or a value is wrong; the message has the right ones.

    Examples
    --------
    >>> settings = mr.training.read_run({"task": {"name": "digits"}, "network": {"zoo": "exprnn"}, "clip": 1})
    >>> assert settings.network.zoo == "exprnn" and settings.clip == 1.0
    """
    kind = task_kind(mapping)
    values = parse_mapping(mapping, {"task": kind, **PARTS, "": RunSettings})
    task = _task(kind, values.pop("task", {}))
    return RunSettings(task, **{key: part(**values.pop(key, {})) for key, part in PARTS.items()}, **values)


def as_mapping(settings: RunSettings) -> dict[str, Any]:
    """Return the nested mapping of plain values that `read_run` makes these settings of.

    Parameters
    ----------
    settings : RunSettings

    Returns
    -------
    dict

    Examples
    --------
    >>> mapping = {"task": {"name": "copying", "delay": 20}, "network": {"cell": "lstm"}, "epochs": 3}
    >>> settings = mr.training.read_run(mapping)
    >>> assert mr.training.read_run(mr.training.as_mapping(settings)) == settings
    """
    names = {kind: name for name, kind in TASKS.items()}
    task = {"name": names[type(settings.task)]}
    task |= {f.name: getattr(settings.task, f.name) for f in fields(settings.task)}  # type: ignore[arg-type]
    rest = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "task"}
    parts = {key: asdict(value) if key in PARTS else value for key, value in rest.items()}
    plain: dict[str, Any] = _plain({"task": task, **parts})
    return plain


def task_kind(mapping: Mapping[str, Any]) -> type[Task]:
    """Return the task that a mapping names.

    Raises
    ------
    OptionError
        If it names none that is known.
    """
    task = mapping.get("task")
    if not isinstance(task, Mapping) or "name" not in task:
        raise OptionError(f"task.name needs one of {', '.join(TASKS)}. Got {task!r}.")
    require_name("task.name", task["name"], TASKS)
    return TASKS[task["name"]]


def _task(kind: type[Task], values: dict[str, Any]) -> Task:
    for f in fields(kind):  # type: ignore[arg-type]
        needed = f.default is MISSING and f.default_factory is MISSING
        if needed and values.get(f.name) is None:
            raise OptionError(f"task.{f.name} is needed by {kind.__name__}. Got none.")
    return kind(**{key: value for key, value in values.items() if key != "name"})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
