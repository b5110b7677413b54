"""What a worker does: claim a case, run it, write how it ended, until none is left."""

import math
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from ...errors import ManifoldError
from ..checkpoints import LAST, read_checkpoint
from .grid import canonical
from .liveness import Heart
from .naming import folder_name
from .study import Attempt, End, Study, Superseded

OnEpoch = Callable[[int, dict[str, float]], None]
_PAUSE = 2.0  # seconds between two looks for something to do


class Objective(Protocol):
    """What trains: called with a run's mapping, a folder to keep it in and go on from, and a call for every epoch.

    It returns plain values: ``history``, the epochs with ``val_loss``, ``val_metric`` and ``seconds``; ``test_loss``,
    ``test_metric``, ``parameters``, ``seconds_per_step``; ``failure``, why it ended early; and ``stopped``, whether
    that was asked for.
    """

    def __call__(self, mapping: dict[str, Any], *, folder: Path, on_epoch: OnEpoch) -> dict[str, Any]:
        """Train."""


class Pruned(Exception):
    """A run is worse than the median of those before it."""


class Stopped(Exception):
    """The user wants the worker to stop."""


@dataclass(frozen=True)
class Worker:
    """Works on a study until every case has ended.

    Parameters
    ----------
    study : Study
    objective : Objective
    folder : Path
        Each run gets a folder in it.
    stop : callable
        Whether to stop.
    tell : callable
        Called with every attempt that ended, how, and its seconds.
    """

    study: Study
    objective: Objective
    folder: Path
    stop: Callable[[], bool] = lambda: False
    tell: Callable[[Attempt, End, float], None] = lambda attempt, end, seconds: None

    def work(self) -> None:
        """Run case after case; wait for those of others, which this worker takes over if they die.

        Raises
        ------
        Stopped
            If it was stopped within a run; the case is left to whoever comes next.
        """
        while not self.stop():
            attempt = self.study.claim()
            if attempt is not None:
                self._run(attempt)
            elif len(self.study.ends()) == len(self.study.cases):
                return
            else:
                self._wait(min(_PAUSE, self.study.beats_every))

    def _run(self, attempt: Attempt) -> None:
        began = time.monotonic()
        try:
            with Heart(lambda count: self.study.beat(attempt, count), self.study.beats_every):
                end = self._end(attempt)
        except Superseded:
            return
        except (Stopped, OSError):  # a full disk is not the case's fault
            with suppress(OSError):
                self.study.release(attempt)
            raise
        if self.study.finish(attempt, end):
            self.tell(attempt, end, time.monotonic() - began)

    def _end(self, attempt: Attempt) -> End:
        mapping = self.study.grid.run_mapping(attempt.choices, attempt.case.seed)
        folder = self.folder / folder_name(attempt.choices, attempt.case.seed, canonical(mapping))
        watch = _Watch(self, attempt)
        try:
            record = self.objective(mapping, folder=folder, on_epoch=watch)
        except Pruned:
            history = _whole(watch.history, folder)
            return End(_plain({"history": history}), history[-1]["val_metric"], pruned=True)
        except (Superseded, Stopped, OSError):
            raise
        except SystemExit as leaving:
            if leaving.code is None:  # so Lightning leaves a run when a batch system ends the job
                raise Stopped from leaving
            raise
        except Exception as error:
            _write_down(folder, error)
            words = " ".join(str(error).split())
            failure = words if isinstance(error, ManifoldError) else f"{type(error).__name__}: {words}"
            return End(_plain({"history": _whole(watch.history, folder)}), failure=failure[:400])
        if record.get("stopped"):
            raise Stopped
        return _judged(record)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stop():
            time.sleep(0.05)


@dataclass
class _Watch:
    """Follows a run epoch by epoch, and ends it for three reasons."""

    worker: Worker
    attempt: Attempt
    history: list[dict[str, float]] = field(default_factory=list)

    def __call__(self, epoch: int, scores: dict[str, float]) -> None:
        self.history.append({"epoch": epoch, **scores})
        self.worker.study.report(self.attempt, epoch, scores["val_metric"])
        if self.worker.stop():
            raise Stopped
        if self.worker.study.should_prune(self.attempt):
            raise Pruned


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C, and the signal by which batch systems end a job, into a flag; the second one ends the program."""
    asked = threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            sys.exit(130)
        asked.set()

    def on_terminate(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)  # to whoever handles that now: training stops after its batch

    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, on_interrupt), signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _judged(record: Mapping[str, Any]) -> End:
    """A run's value is the validation metric of the epoch whose network was tested, that of the lowest loss."""
    history, failure = record.get("history") or [], record.get("failure")
    tested = min(history, key=lambda epoch: epoch["val_loss"], default=None)
    value = tested["val_metric"] if tested else None
    if failure is None and (value is None or not math.isfinite(value)):
        failure = f"the validation metric is {value}"
    return End(_plain(record), None if failure else value, failure)


def _whole(history: list[dict[str, float]], folder: Path) -> list[dict[str, float]]:
    """The epochs of this attempt after those before it went on from a checkpoint, which that still knows."""
    first = history[0]["epoch"] if history else math.inf
    if first > 1 and (folder / LAST).exists():
        with suppress(ManifoldError):  # a damaged one is why the run failed
            return [*(epoch for epoch in read_checkpoint(folder / LAST)["history"] if epoch["epoch"] < first), *history]
    return history


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_down(folder: Path, error: Exception) -> None:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
