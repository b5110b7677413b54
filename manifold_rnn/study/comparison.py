"""``compare``: opens the study of a comparison, runs its cases, and writes the report."""

from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import optuna
from rich.console import Console

from ..errors import ManifoldError, OptionError
from ..tasks import Task
from ..tasks.memory import require_task_in_memory
from ..training.build import require_run_in_memory
from ..training.folder import open_folder
from ..training.mapping import read_run
from ..training.record import FAILED, RunRecord
from ..training.signals import StopRequested, StopSignal
from ..training.values import Value, Values, presentable, print_any_text, say
from .claim import Attempt, Study
from .grid import Grid, canonical, folder_name, label, read_grid
from .report import REPORT, own, print_table, require_own, require_own_names, write_report
from .results import Results, gather, shown_duration
from .settings import CompareSettings
from .store import StudyBusy, folder_lock, open_store, reaching
from .trials import is_failed
from .worker import RUNS, Objective, Worker, train, work_in_processes


def compare(
    settings: CompareSettings,
    *,
    grid: Grid | None = None,
    objective: Objective = train,
    about: Mapping[str, Value] | None = None,
) -> int:
    r"""Work on a study until every case has ended, print the table, and write the report.

    Machines that share a storage can run the same command to work on the same study. After an interruption, the same
    command resumes the study. The output folder contains ``report.html``, the figures as SVG, and a folder for each
    run. The table is in ``table.md`` and ``table.csv``, and ``results.json`` contains every run with its history.

    Parameters
    ----------
    settings : CompareSettings
        Settings of the comparison.
    grid : Grid, optional
        Comparison to run. Default: that of the file ``settings.grid``.
    objective : callable
        Function that trains one network. Default: `manifold_rnn.training.run`. It is called with the settings as a
        mapping, and with the keywords ``folder``, ``on_epoch`` and ``stop``. It returns a
        `manifold_rnn.training.RunRecord`.
    about : mapping, optional
        Description of another objective for the report: ``task``, ``metric``, ``higher_is_better``, ``baseline``.

    Returns
    -------
    int
        Exit status: 0 after success, 1 if a run failed or has not ended, 130 after an interruption.

    Raises
    ------
    OptionError
        If the file is wrong, the folder cannot be written, the storage cannot be reached, or the study has another
        grid. In these cases nothing has been changed.

    Examples
    --------
    >>> import contextlib, io, pathlib, tempfile
    >>> text = "base: {task: {name: Digits}, network: {zoo: scornn, hidden_size: 4}, epochs: 1, batch_size: 512}"
    >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
    ...     path = pathlib.Path(folder, "small.yaml")
    ...     _ = path.write_text(f"{text}\ngrid: {{network.retraction: [cayley]}}")
    ...     assert mr.study.compare(mr.study.CompareSettings(str(path), output=folder)) == 0
    ...     assert pathlib.Path(folder, "report.html").exists() and "1/1" in printed.getvalue()
    """
    grid = grid or read_grid(settings.grid)
    comparison = Comparison(settings, grid, dict(about) if about is not None else describe(grid), objective)
    print_any_text()
    console = _LastingConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
    with closing(comparison.open()) as study, StopSignal() as stop:
        if settings.retry_failed or settings.retry is not None:
            study.retry(_failed_cases(study, settings.retry or "*"))
        gather(study)  # raises on a damaged result, before hours of work
        before = f"{len(study.cases)} runs, of which {len(study.ends())} have ended before"
        left_out = grid.combinations() - len({case.point for case in study.cases})
        equal = f"; {left_out} combinations are equal to others and are run only once" * bool(left_out)
        console.print(f"{presentable(settings.name)}: {before}{equal}")
        with suppress(StopRequested):
            if settings.workers > 1:
                work_in_processes(settings.workers, comparison.work, stop)
            elif settings.workers == 1:
                comparison.work(stop)
        results = gather(study)
        write_report(results, settings.folder)
        print_table(results, console)
        _print_summary(results, settings.folder, console)
        if stop.requested:
            return 130
    return int(len(results.runs) < results.cases or any(run.state == FAILED for run in results.runs))


@dataclass(frozen=True)
class Comparison:
    """Everything that a process needs to work on a study."""

    settings: CompareSettings
    grid: Grid
    about: Values
    objective: Objective

    def open(self, stop: StopSignal | None = None) -> Study:
        """Open the folder, the storage and the study. Waits, with a message, while another process holds the lock."""
        while True:
            try:
                return self._open()
            except StudyBusy as error:
                say(f"manifold-rnn: {error} Waiting. End or resume the other process.", to_errors=True)
                if stop is not None and stop.requested:
                    raise StopRequested from error

    def _open(self) -> Study:
        """Open each part in turn. An error leaves the later parts unchanged."""
        settings, folder = self.settings, self.settings.folder
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        store = None if settings.storage is None else open_store(settings.storage, folder, settings.name)
        open_folder(folder)
        require_own(folder, settings.name)
        open_folder(folder / RUNS)
        if store is None:
            store = open_store(None, folder, settings.name)
            names = optuna.get_all_study_names(store.storage)
            require_own_names(folder, settings.name, names)
        options: Values = {"extend": settings.extend, "patience": settings.patience}
        with ExitStack() as closed_after_error:
            study = closed_after_error.enter_context(
                closing(Study(store, settings.name, self.grid, self.about, **options))
            )
            with reaching(store), folder_lock(folder)():  # another study may have been opened at the same time
                own(Results(settings.name, self.about, self.grid, len(study.cases), []), folder)
            closed_after_error.pop_all()
        return study

    def work(self, stop: StopSignal) -> None:
        """Work until every case has ended, and print a line for each run."""
        results = Results("", self.about, self.grid, 0, [])

        def print_case(attempt: Attempt, record: RunRecord, seconds: float) -> None:
            score = f"{self.about['metric']} {results.shown(record.validation)}{', pruned' if record.pruned else ''}"
            outcome = score if record.failure is None else f"failed: {record.failure}"
            number = f"{len(study.ends()):>{len(str(len(study.cases)))}}/{len(study.cases)}"
            name = case_name(results, attempt.choices, attempt.case.seed)
            say(f"{number}  {name}   {presentable(outcome)}   {shown_duration(seconds)}")

        with closing(self.open(stop)) as study:
            Worker(study, self.objective, self.settings.folder / RUNS, stop, print_case).work()


class _LastingConsole(Console):
    """A console whose write errors do not end a comparison."""

    def print(self, *objects: Value, **options: Value) -> None:
        """Print, and ignore errors of the output stream."""
        with suppress(OSError):
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Print nothing more, where Rich ends the program."""
        self.quiet = True


def case_name(results: Results, choices: Values, seed: int) -> str:
    """Return the name of a case in printed lines."""
    return f"{results.label(choices)}, seed {seed}"


def _failed_cases(study: Study, pattern: str) -> list[str]:
    """The keys of the failed cases whose printed name or folder matches. Raises `OptionError` if none does."""
    results, names = Results("", study.about, study.grid, 0, []), {}
    for case in study.cases:
        if (end := study.ends().get(case.key)) and is_failed(end):
            choices = case.choices or end.user_attrs["choices"]
            run = canonical(study.grid.run_mapping(choices, case.seed))
            names[case.key] = (case_name(results, choices, case.seed), folder_name(choices, case.seed, run))
    keys = [key for key, both in names.items() if pattern in both or any(fnmatchcase(name, pattern) for name in both)]
    if not keys and pattern != "*":
        known = "; ".join(name for name, _ in names.values()) or "none"
        raise OptionError(f"`retry` needs the name of a failed case. Got {pattern!r:.80}. Failed: {known}."[:400])
    return keys


def _print_summary(results: Results, folder: Path, console: Console) -> None:
    for row in [row for row in results.rows if row.complete][:1]:
        test = results.shown_spread(row.test_mean, row.test_deviation)
        console.print(f"Best by validation: {row.label}, test {results.about['metric']} {test}", style="bold")
    failed = sum(run.state == FAILED for run in results.runs)
    left = results.cases - len(results.runs)
    again = [f"{failed} failed. Add --retry_failed to run them again."]
    notes = again * bool(failed) + [f"{left} have not ended. Repeat the command to resume."] * bool(left)
    console.print(f"Report: {folder / REPORT}" + (f" ({' '.join(notes)})" if notes else ""))


def describe(grid: Grid) -> Values:
    """Return the description of the task for reports. Reads the settings of every combination.

    Raises `OptionError` if a combination is not a valid run, data is missing, or the metrics differ.
    """
    tasks: dict[str, Task] = {}
    sizes: list[tuple[Task, int]] = []
    for choices in _samples(grid):
        try:
            settings = read_run(grid.run_mapping(choices, grid.seeds[0]))
            require_task_in_memory(settings.task)
            task, size = next((pair for pair in sizes if pair[0] == settings.task), (settings.task, None))
            if size is None:
                size = len(task.splits().train)  # or every run would fail on missing data
                sizes.append((task, size))
                tasks.setdefault(task.metric_name, task)
            require_run_in_memory(settings, size)
        except OptionError as error:
            raise OptionError(f"{label(choices)}: {error}"[:400]) from error
    if len(tasks) > 1:
        raise OptionError(
            f"A comparison needs one metric. Got tasks with {' and '.join(tasks)}. Write one file for each metric."
        )
    (task,) = tasks.values()
    about: Values = {"task": task.name, "metric": task.metric_name, "higher_is_better": task.higher_is_better}
    with suppress(ManifoldError):
        return {**about, "baseline": task.baseline()._asdict()}
    return {**about, "baseline": None}


def _samples(grid: Grid) -> list[Values]:
    """All combinations of a grid. For a search: every choice and both ends of every range, one key at a time."""
    if grid.grid:
        return [case.choices or {} for case in grid.cases() if case.seed == grid.seeds[0]]
    ends = {key: space.get("choices") or [space["low"], space["high"]] for key, space in grid.search.items()}
    first = {key: values[0] for key, values in ends.items()}
    return [{**first, key: value} for key, values in ends.items() for value in values]
