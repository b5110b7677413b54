"""What a study has found so far: its runs, and a row for every combination."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from .grid import Case, Grid, canonical
from .naming import headings, label
from .study import Study

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
_STATES = {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}


@dataclass(frozen=True)
class Run:
    """How one case ended.

    Attributes
    ----------
    choices : dict
        Values of what varies, by dotted key.
    seed : int
    state : str
        complete, pruned or failed.
    validation : float or None
        The metric at the lowest validation loss, or where the run was pruned.
    failure : str or None
        Why it failed.
    record : dict
        What the run left, see `Objective`.
    """

    choices: dict[str, Any]
    seed: int
    state: str
    validation: float | None
    failure: str | None
    record: dict[str, Any]

    @property
    def history(self) -> list[dict[str, Any]]:
        """Its epochs."""
        return self.record.get("history") or []

    @property
    def epochs(self) -> int:
        """The last epoch that it has ended."""
        return self.history[-1]["epoch"] if self.history else 0

    @property
    def seconds(self) -> float:
        """Of training, validation left out."""
        return sum(epoch.get("seconds") or 0.0 for epoch in self.history)


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation of a sample, and best of some numbers; None where there are too few."""

    mean: float | None = None
    deviation: float | None = None
    best: float | None = None

    @classmethod
    def of(cls, numbers: Sequence[float], higher_is_better: bool = True) -> "Spread":
        """Measure."""
        if not numbers:
            return cls()
        best = max(numbers) if higher_is_better else min(numbers)
        return cls(mean(numbers), stdev(numbers) if len(numbers) > 1 else None, best)


@dataclass(frozen=True)
class Row:
    """A combination with all its runs; numbers are over those that are complete."""

    label: str
    choices: dict[str, Any]
    runs: list[Run]
    test: Spread
    validation: Spread
    parameters: int | None
    seconds_per_step: float | None
    seconds: float | None

    @property
    def complete(self) -> list[Run]:
        """Those of its runs that are."""
        return [run for run in self.runs if run.state == COMPLETE]

    @property
    def remark(self) -> str:
        """What happened to the others."""
        failures = [f"seed {run.seed}: {run.failure}" for run in self.runs if run.state == FAILED]
        pruned = [run for run in self.runs if run.state == PRUNED]
        return "; ".join([*(f"seed {run.seed}: pruned after epoch {run.epochs}" for run in pruned), *failures])


@dataclass(frozen=True)
class Results:
    """Everything that reports show.

    Attributes
    ----------
    study : str
    about : dict
        The task: ``task``, ``metric``, ``higher_is_better``, ``baseline``.
    grid : Grid
    cases : int
        Runs that the study has when it is complete.
    runs : list of Run
        Those that have ended.
    rows : list of Row
        The best first, by the mean validation metric.
    """

    study: str
    about: dict[str, Any]
    grid: Grid
    cases: int
    runs: list[Run]
    rows: list[Row] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """What varies: the dotted keys with more than one value."""
        return [key for key in (*self.grid.grid, *self.grid.search) if self._varies(key)]

    @property
    def listed(self) -> list[str]:
        """Those of them whose values are a list, and no range."""
        return [key for key in self.keys if len(self.values(key)) > 1]

    @property
    def titles(self) -> dict[str, str]:
        """A heading for each of them."""
        return headings(self.keys)

    @property
    def higher_is_better(self) -> bool:
        """Of the metric."""
        return bool(self.about["higher_is_better"])

    def values(self, key: str) -> list[Any]:
        """Return the values that a key takes, in the order of the file."""
        space = self.grid.search.get(key)
        return list(space.get("choices", ())) if space else list(self.grid.grid.get(key, ()))

    def label(self, choices: Mapping[str, Any]) -> str:
        """Return what tells a combination from the others."""
        return label({key: value for key, value in choices.items() if self._varies(key)} or choices)

    def shown(self, value: float | None) -> str:
        """Return the metric as text: what is right as a percentage, an error as it is."""
        if value is None:
            return "-"
        return f"{100 * value:.1f}%" if self.higher_is_better else f"{value:.3g}"

    def shown_spread(self, spread: Spread) -> str:
        """Return mean ± deviation."""
        if spread.mean is None or spread.deviation is None:
            return self.shown(spread.mean)
        if self.higher_is_better:
            return f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}%"
        return f"{spread.mean:.3g} ± {spread.deviation:.1g}"

    def _varies(self, key: str) -> bool:
        return len(self.values(key)) != 1


def gather(study: Study) -> Results:
    """Read what a study has found so far."""
    ends = study.ends()
    runs = [_run(case, ends[case.key]) for case in study.cases if case.key in ends]
    results = Results(study.name, study.about, study.grid, len(study.cases), runs)
    results.rows.extend(_rows(results))
    return results


def _run(case: Case, trial: FrozenTrial) -> Run:
    attributes = trial.user_attrs
    state = _STATES[trial.state]
    return Run(
        choices=attributes["choices"],
        seed=case.seed,
        state=state,
        validation=trial.value if state != FAILED else None,
        failure=attributes.get("failure"),
        record=attributes.get("record") or {},
    )


def _rows(results: Results) -> list[Row]:
    groups: dict[str, list[Run]] = {}
    for run in results.runs:
        groups.setdefault(canonical(run.choices), []).append(run)
    rows = [_row(results, runs) for runs in groups.values()]
    sign = -1 if results.higher_is_better else 1
    return sorted(rows, key=lambda row: (row.validation.mean is None, sign * (row.validation.mean or 0.0)))


def _row(results: Results, runs: list[Run]) -> Row:
    complete = [run for run in runs if run.state == COMPLETE]
    return Row(
        label=results.label(runs[0].choices),
        choices=runs[0].choices,
        runs=runs,
        test=Spread.of(_given(complete, "test_metric"), results.higher_is_better),
        validation=Spread.of([r.validation for r in complete if r.validation is not None], results.higher_is_better),
        parameters=next((run.record["parameters"] for run in runs if run.record.get("parameters")), None),
        seconds_per_step=Spread.of(_given(complete, "seconds_per_step")).mean,
        seconds=Spread.of([run.seconds for run in complete]).mean,
    )


def _given(runs: Sequence[Run], key: str) -> list[float]:
    return [run.record[key] for run in runs if run.record.get(key) is not None]


def shown_duration(seconds: float | None) -> str:
    """Return a duration as text."""
    if seconds is None:
        return "-"
    for unit, size, below in (("ms", 1e-3, 1.0), ("s", 1.0, 100.0), ("min", 60.0, 6000.0), ("h", 3600.0, float("inf"))):
        if seconds < below:
            return f"{seconds / size:.{1 if seconds / size >= 10 else 2}f} {unit}"
    return "-"
