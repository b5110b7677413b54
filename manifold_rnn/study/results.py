"""The results of a study so far: its runs, and a row for every combination."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

from ..training.record import COMPLETE, FAILED, PRUNED, RunRecord
from ..training.values import Value, Values, presentable
from .claim import Study
from .grid import Grid, canonical, headings, label
from .trials import stored_record


@dataclass(frozen=True)
class Row:
    """A combination with all its runs. Its numbers use the complete runs only, and are None if there are too few."""

    label: str
    choices: Values
    runs: list[RunRecord]
    complete: list[RunRecord]
    test_mean: float | None
    test_deviation: float | None
    test_best: float | None
    validation_mean: float | None
    validation_deviation: float | None
    validation_best: float | None
    seconds_per_step: float | None
    seconds: float | None
    parameters: int | None
    hidden_size: int | None
    defect: float | None
    remark: str  # how the incomplete runs ended


@dataclass(frozen=True)
class Results:
    """The data of a report: the runs that have ended, out of ``cases``, and the rows, the best first."""

    study: str
    about: Mapping[str, Value]
    grid: Grid
    cases: int
    runs: list[RunRecord]

    def __post_init__(self) -> None:
        about = {key: presentable(value) if isinstance(value, str) else value for key, value in self.about.items()}
        object.__setattr__(self, "about", about)

    @cached_property
    def rows(self) -> list[Row]:
        """A row for every combination that has a run, the best first."""
        groups: dict[str, list[RunRecord]] = {}
        for run in self.runs:
            groups.setdefault(canonical(run.choices), []).append(run)
        rows, sign = [self._row(runs) for runs in groups.values()], -1 if self.higher_is_better else 1
        return sorted(rows, key=lambda row: (row.validation_mean is None, sign * (row.validation_mean or 0.0)))

    @property
    def keys(self) -> list[str]:
        """The dotted keys that have more than one value."""
        return [key for key in (*self.grid.grid, *self.grid.search) if len(self.values(key)) != 1]

    @property
    def listed(self) -> list[str]:
        """The keys that vary over a list of values, not a range."""
        return [key for key in self.keys if len(self.values(key)) > 1]

    @property
    def titles(self) -> dict[str, str]:
        """A heading for each key that varies."""
        return headings(self.keys)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger metric is better."""
        return bool(self.about["higher_is_better"])

    def values(self, key: str) -> list[Value]:
        """Return the values that a key takes, in the order of the file."""
        space = self.grid.search.get(key)
        return list(space.get("choices", ())) if space else list(self.grid.grid.get(key, ()))

    def label(self, choices: Values) -> str:
        """Return the name of a combination."""
        return label({key: value for key, value in choices.items() if len(self.values(key)) != 1} or choices)

    def shown(self, value: float | None) -> str:
        """Return the metric as text: an accuracy as a percentage, an error as a number."""
        if value is None:
            return "-"
        return f"{100 * value:.1f}%" if self.higher_is_better else f"{value:.3g}"

    def shown_spread(self, mean: float | None, deviation: float | None) -> str:
        """Return mean ± deviation of the metric."""
        if mean is None or deviation is None:
            return self.shown(mean)
        if self.higher_is_better:
            return f"{100 * mean:.1f} ± {100 * deviation:.1f}%"
        return f"{mean:.3g} ± {deviation:.1g}"

    def _row(self, runs: list[RunRecord]) -> Row:
        complete = [run for run in runs if run.state == COMPLETE]
        pruned = [f"seed {run.seed}: pruned after epoch {run.epochs}" for run in runs if run.state == PRUNED]
        reasons = {run.seed: presentable(run.failure or run.not_finite) for run in runs if run.state == FAILED}
        failed = [f"seed {seed}: {reason}" for seed, reason in reasons.items()]
        return Row(
            self.label(runs[0].choices),
            runs[0].choices,
            runs,
            complete,
            *self._spread([run.test_metric for run in complete]),
            *self._spread([run.validation for run in complete]),
            seconds_per_step=self._spread([run.seconds_per_step for run in complete])[0],
            seconds=self._spread([run.seconds for run in complete])[0],
            parameters=next((run.parameters for run in runs if run.parameters), None),
            hidden_size=next((run.hidden_size for run in runs if run.hidden_size), None),
            defect=max((run.defect for run in runs if run.defect is not None), default=None),
            remark="; ".join([*pruned, *failed]),
        )

    def _spread(self, numbers: Sequence[float | None]) -> tuple[float | None, float | None, float | None]:
        """Mean, sample standard deviation, and best of the numbers that are not None."""
        known = [number for number in numbers if number is not None]
        best = (max if self.higher_is_better else min)(known, default=None)
        return mean(known) if known else None, stdev(known) if len(known) > 1 else None, best


def gather(study: Study) -> Results:
    """Read the results of a study so far. Raises `OptionError` if one of them is damaged."""
    ends = study.ends()
    runs = [stored_record(case, ends[case.key]) for case in study.cases if case.key in ends]
    return Results(study.name, study.about, study.grid, len(study.cases), runs)


def shown_duration(seconds: float | None) -> str:
    """Return a duration as text."""
    if seconds is None:
        return "-"
    for unit, size, below in (("ms", 1e-3, 1.0), ("s", 1.0, 100.0), ("min", 60.0, 6000.0), ("h", 3600.0, float("inf"))):
        if seconds < below:
            return f"{seconds / size:.{1 if seconds / size >= 10 else 2}f} {unit}"
    return "-"
