"""What a comparison trains, and what it has to know of it beforehand."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import ManifoldError, OptionError
from ...tasks import Task
from ..run_settings import read_run
from .grid import Grid
from .naming import label
from .worker import OnEpoch


def train(mapping: dict[str, Any], *, folder: Path, on_epoch: OnEpoch) -> dict[str, Any]:
    """Run, or go on with what a worker before has left in the folder."""
    from ..running import run  # here, because Lightning takes seconds to import

    return asdict(run(read_run(mapping), folder=folder, resume=True, on_epoch=on_epoch))


def describe(grid: Grid) -> dict[str, Any]:
    """Return what reports say of the task, after a look at every combination.

    Raises
    ------
    OptionError
        If one of them is no run, the data is not there, or they are measured in different ways.
    """
    found: dict[str, Task] = {}
    for choices in _samples(grid):
        try:
            task = read_run(grid.run_mapping(choices, grid.seeds[0])).task
        except OptionError as error:
            raise OptionError(f"{label(choices)}: {error}") from error
        if task not in found.values():
            task.splits()  # the first trial would say what is missing, and then all others
            found.setdefault(task.metric_name, task)
    if len(found) > 1:
        raise OptionError(f"A comparison needs one metric. Got tasks with {' and '.join(found)}. Make a file for each.")
    (task,) = found.values()
    return {
        "task": task.name,
        "metric": task.metric_name,
        "higher_is_better": task.higher_is_better,
        "baseline": _baseline(task),
    }


def _samples(grid: Grid) -> list[dict[str, Any]]:
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
