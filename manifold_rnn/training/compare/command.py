"""``manifold-rnn compare``: opens the study, works on it, and writes the report."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from ..files import open_folder
from .grid import Grid, read_grid
from .objective import describe, train
from .processes import work_in_processes
from .report import REPORT, require_own, write_report
from .results import FAILED, Results, gather, shown_duration
from .settings import CompareSettings
from .storage import open_store
from .study import Attempt, End, Study
from .worker import Objective, Stopped, Worker, stop_on_signals


def run_compare(settings: CompareSettings, objective: Objective = train, about: Mapping[str, Any] | None = None) -> int:
    r"""Work on a study until every case has ended, and write what it found.

    The same command on any number of machines works on the same study, if they share its storage; after an
    interruption it goes on. The output folder gets ``report.html``, the table as ``table.md`` and ``table.csv``, every
    run with its history in ``results.json``, the pictures as SVG, and a folder for each run.

    Parameters
    ----------
    settings : CompareSettings
    objective : Objective
        What trains; by default `run`.
    about : mapping, optional
        What the report says of another objective: ``task``, ``metric``, ``higher_is_better``, ``baseline``.

    Returns
    -------
    int
        Exit status: 0; 1 if a run failed, or some have not ended; 130 if interrupted.

    Raises
    ------
    OptionError
        If the file is wrong, the folder can't be written, the storage can't be reached, or the study has another grid.
        Nothing has been changed then.

    Examples
    --------
    >>> import contextlib, io, pathlib, tempfile
    >>> text = "base: {task: {name: digits}, network: {zoo: scornn, hidden_size: 4}, epochs: 1, batch_size: 512}"
    >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
    ...     path = pathlib.Path(folder, "small.yaml")
    ...     _ = path.write_text(f"{text}\ngrid: {{network.retraction: [cayley]}}")
    ...     assert mr.training.run_compare(mr.training.CompareSettings(str(path), output=folder)) == 0
    ...     assert pathlib.Path(folder, "report.html").exists() and "1/1" in said.getvalue()
    """
    grid = read_grid(settings.grid)
    job = Job(settings, grid, dict(about) if about is not None else describe(grid), objective)
    with _quiet(), closing(job.open()) as study:
        console = Console(highlight=False, soft_wrap=True)
        before = len(study.ends())
        console.print(f"{job.settings.name}: {len(study.cases)} runs, of which {before} have ended before")
        stopped = _work(job, study)
        results = gather(study)
        write_report(results, job.folder)
        _tell_best(results, job.folder, console)
    if stopped:
        return 130
    return int(len(results.runs) < results.cases or any(run.state == FAILED for run in results.runs))


@dataclass(frozen=True)
class Job:
    """What a process needs to join the work."""

    settings: CompareSettings
    grid: Grid
    about: dict[str, Any]
    objective: Objective

    @property
    def folder(self) -> Path:
        """Where everything is put."""
        return self.settings.folder

    def open(self) -> Study:
        """Open the folder, the storage and the study; each is refused before the next is touched."""
        settings = self.settings
        store = open_store(settings.storage, self.folder, settings.name) if settings.storage else None
        open_folder(self.folder)
        require_own(self.folder, settings.name)
        store = store or open_store(None, self.folder, settings.name)
        return Study(store, settings.name, self.grid, self.about, extend=settings.extend, patience=settings.patience)

    def worker(self, study: Study, stop: Any) -> Worker:
        """Return a worker that prints a line for every run that has ended."""
        return Worker(study, self.objective, self.folder / "runs", stop, _Teller(study, self.about))


def _work(job: Job, study: Study) -> bool:
    """Work, here or in processes, and return whether that was interrupted."""
    with stop_on_signals() as stop:
        if job.settings.workers > 1:
            work_in_processes(job, stop)
        elif job.settings.workers == 1:
            try:
                job.worker(study, stop).work()
            except Stopped:
                return True
        return stop()


@dataclass(frozen=True)
class _Teller:
    study: Study
    about: Mapping[str, Any]

    def __call__(self, attempt: Attempt, end: End, seconds: float) -> None:
        ends, cases = len(self.study.ends()), len(self.study.cases)
        shown = Results("", dict(self.about), self.study.grid, cases, [])
        how = f"failed: {end.failure}" if end.failure else f"{self.about['metric']} {shown.shown(end.value)}"
        how += ", pruned" if end.pruned else ""
        place, name = f"{ends:>{len(str(cases))}}/{cases}", shown.label(attempt.choices)
        print(f"{place}  {name}, seed {attempt.case.seed}   {how}   {shown_duration(seconds)}", flush=True)


def _tell_best(results: Results, folder: Path, console: Console) -> None:
    for row in [row for row in results.rows if row.complete][:1]:
        metric = results.about["metric"]
        console.print(f"Best by validation: {row.label}, test {metric} {results.shown_spread(row.test)}", style="bold")
    failed = sum(run.state == FAILED for run in results.runs)
    left = results.cases - len(results.runs)
    notes = [f"{failed} failed"] * bool(failed) + [f"{left} not yet ended: the same command goes on"] * bool(left)
    console.print(f"Report: {folder / REPORT}" + (f" ({', '.join(notes)})" if notes else ""))


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
