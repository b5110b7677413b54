"""What a comparison trains, and what its reports say of the task."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import ManifoldError, OptionError
from ..tasks import Task
from ..training.mapping import read_run
from ..training.record import Epoch, RunRecord
from ..training.signals import StopSignal
from .case_names import label
from .grid import Choices, Grid


class Objective(Protocol):
    """What trains: called with the settings of a run, a folder to keep it in and to resume from, and two callbacks.

    ``on_epoch`` is called with every finished epoch, and ``stop`` holds a request to stop.
    """

    def __call__(
        self, mapping: dict[str, Any], *, folder: Path, on_epoch: Callable[[Epoch], None], stop: StopSignal
    ) -> RunRecord:
        """Train."""


def train(mapping: dict[str, Any], *, folder: Path, on_epoch: Callable[[Epoch], None], stop: StopSignal) -> RunRecord:
    """Run, or resume what a worker before has left in the folder."""
    from ..training.runs import run  # here, because Lightning takes seconds to import

    return run(read_run(mapping), folder=folder, resume=True, on_epoch=on_epoch, stop=stop)


def describe(grid: Grid) -> dict[str, Any]:
    """Return what reports say of the task, after reading the settings of every combination.

    Raises
    ------
    OptionError
        If a combination is no run, the data is not there, or they are measured in different ways.
    """
    tasks: dict[str, Task] = {}
    for choices in _samples(grid):
        try:
            task = read_run(grid.run_mapping(choices, grid.seeds[0])).task
        except OptionError as error:
            raise OptionError(f"{label(choices)}: {error}"[:400]) from error
        if task not in tasks.values():
            task.splits()  # else the first run would say what is missing, and then all others
            tasks.setdefault(task.metric_name, task)
    if len(tasks) > 1:
        raise OptionError(
            f"A comparison needs one metric. Got tasks with {' and '.join(tasks)}. Write a file for each."
        )
    (task,) = tasks.values()
    return {
        "task": task.name,
        "metric": task.metric_name,
        "higher_is_better": task.higher_is_better,
        "baseline": _baseline(task),
    }


def _samples(grid: Grid) -> list[Choices]:
    """All combinations of a grid; of a search, every choice and every end of a range with the first of the others."""
    if grid.grid:
        return [case.choices or {} for case in grid.cases() if case.seed == grid.seeds[0]]
    ends = {key: space.get("choices") or [space["low"], space["high"]] for key, space in grid.search.items()}
    first = {key: values[0] for key, values in ends.items()}
    return [{**first, key: value} for key, values in ends.items() for value in values]


def _baseline(task: Task) -> Mapping[str, float] | None:
    try:
        return task.baseline()._asdict()
    except ManifoldError:
        return None
