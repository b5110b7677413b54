"""Workers of a study, in one or several processes. Each claims a case, runs it, and stores how it ended."""

import errno
import itertools
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from ..errors import ManifoldError
from ..training.checkpoint import LAST, RUN, read_checkpoint
from ..training.mapping import read_run
from ..training.record import Epoch, RunRecord
from ..training.signals import StopRequested, StopSignal
from ..training.values import Values, presentable, print_any_text, say, without_secrets
from .claim import Attempt, Study
from .grid import canonical, folder_name
from .liveness import Superseded, heartbeat
from .store import StudyBusy, StudyLost

RUNS = "runs"  # folder with a folder for each run
_PAUSE = 2.0  # seconds between two searches for a free case
# System errors that would occur in every case. Any other error, such as a missing data file, fails its case only.
_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_OF_THE_MACHINE |= {errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT}

# A function that trains. It is called with the settings of a run and three keywords. ``folder`` stores the run, and the
# run is resumed from it. ``on_epoch`` must be called with every finished epoch. ``stop`` holds a request to stop.
Objective = Callable[..., RunRecord]


def train(mapping: Values, *, folder: Path, on_epoch: Callable[[Epoch], None], stop: StopSignal) -> RunRecord:
    """Train one network, or resume the run that an earlier worker left in the folder."""
    from ..training import run  # here, because Lightning takes seconds to import

    return run(read_run(mapping), folder=folder, resume=True, on_epoch=on_epoch, stop=stop)


class Pruned(Exception):
    """Raised when a run is worse than the median of earlier runs."""


@dataclass(frozen=True)
class Worker:
    """Runs cases of a study until every case has ended. Each run gets a folder in ``folder``.

    ``after_case`` is called with every attempt that ended, its record, and its duration in seconds.
    """

    study: Study
    objective: Objective
    folder: Path
    stop: StopSignal = field(default_factory=StopSignal)
    after_case: Callable[[Attempt, RunRecord, float], None] = lambda attempt, record, seconds: None

    def work(self) -> None:
        """Run case after case, and wait for the cases of other workers. Takes over the cases of workers that die.

        Raises `StopRequested` if it is stopped within a run. Another worker can then claim the case.
        """
        blocked: dict[str, float] = {}  # time until which a case is skipped, because its folder is locked
        while not self.stop.requested:
            attempt = None
            try:
                attempt = self.study.claim({key for key, until in blocked.items() if time.monotonic() < until})
                if attempt is not None:
                    self._run(attempt)
                elif len(self.study.ends()) == len(self.study.cases):
                    return
            except StudyBusy:  # a suspended worker may hold the lock for any time
                continue
            except BlockingIOError:  # a worker that counted as dead is only suspended, and still has the folder
                assert attempt is not None
                blocked[attempt.case.key] = time.monotonic() + 6 * self.study.heartbeat_interval
            if attempt is None:
                until = time.monotonic() + min(_PAUSE, self.study.heartbeat_interval)
                while time.monotonic() < until and not self.stop.requested:
                    time.sleep(0.05)

    def _run(self, attempt: Attempt) -> None:
        began = time.monotonic()
        try:
            with heartbeat(lambda count: self.study.beat(attempt, count), self.study.heartbeat_interval):
                record = self._record(attempt)
        except Superseded:
            return
        except (StopRequested, OSError):  # not caused by the case, see `_record`
            with suppress(OSError):
                self.study.release(attempt)
            raise
        if self.study.finish(attempt, record):
            self.after_case(attempt, record, time.monotonic() - began)

    def _record(self, attempt: Attempt) -> RunRecord:
        mapping = self.study.grid.run_mapping(attempt.choices, attempt.case.seed)
        folder = self.folder / folder_name(attempt.choices, attempt.case.seed, canonical(mapping))
        history: list[Epoch] = []

        def on_epoch(epoch: Epoch) -> None:
            history.append(epoch)
            if self.study.report(attempt, epoch["epoch"], epoch["val_metric"]):
                raise Pruned

        if attempt.is_retry:
            _make_room(folder)
        try:
            record = self.objective(mapping, folder=folder, on_epoch=on_epoch, stop=self.stop)
        except Pruned:
            record = RunRecord(_whole(history, folder), pruned=True)
        except (Superseded, StopRequested, StudyLost, BlockingIOError):
            raise
        except Exception as error:
            for cause in (error, error.__cause__):  # an `OptionError` about a folder or a file has such a cause
                if isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE:
                    raise cause from None
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                text = without_secrets("".join(traceback.format_exception(error)))
                (folder / "error.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
            words = without_secrets(" ".join(str(error).split()))
            failure = words if isinstance(error, ManifoldError) else f"{type(error).__name__}: {words}"
            record = RunRecord(_whole(history, folder), failure=failure[:400])
        if record.stopped:
            raise StopRequested
        if record.failure is None and (record.validation is None or not math.isfinite(record.validation)):
            record = replace(record, failure=f"the validation metric is {record.validation}")
        if record.failure is None and record.not_finite:
            record = replace(record, failure=record.not_finite)
        return record


def _make_room(folder: Path) -> None:
    """Move the files of a failed attempt aside, unless the retry can resume from its checkpoint."""
    try:
        read_checkpoint(folder / LAST)
    except ManifoldError:
        if folder.exists():
            names = (folder.with_name(f"{folder.name}.failed{number}") for number in itertools.count(1))
            folder.rename(next(name for name in names if not name.exists()))


def _whole(history: list[Epoch], folder: Path) -> list[Epoch]:
    """The whole history: the epochs before the checkpoint that was resumed from, and those of this attempt."""
    first = history[0]["epoch"] if history else math.inf
    if first > 1 and (folder / LAST).exists():
        with suppress(ManifoldError):  # the run failed because its checkpoint is damaged
            return [*(e for e in read_checkpoint(folder / LAST)[RUN]["history"] if e["epoch"] < first), *history]
    return history


def work_in_processes(count: int, work: Callable[[StopSignal], None], stop: StopSignal) -> None:
    """Call ``work`` in ``count`` processes and wait for them. A request to stop is passed on once."""
    context = get_context("spawn")  # a fork would share open connections
    receiver, sender = context.Pipe(duplex=False)
    processes = [context.Process(target=_work, args=(count, work, receiver)) for _ in range(count)]
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the workers, until they install their own handlers
    try:
        for process in processes:
            process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    receiver.close()
    while any(process.is_alive() for process in processes):
        for process in processes:
            if stop.requested:
                sender.close()
            process.join(timeout=0.1)
    sender.close()


def _work(count: int, work: Callable[[StopSignal], None], pipe: Connection) -> None:
    import torch

    os.setpgrp()  # otherwise Ctrl-C on the terminal would arrive here too, in addition to the parent's request
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    print_any_text()
    with StopSignal(also=pipe.poll) as stop:  # the parent closes its end of the pipe, also when it dies
        try:
            work(stop)
        except StopRequested:
            sys.exit(130)
        except (ManifoldError, OSError) as error:
            say(f"manifold-rnn: error: {presentable(' '.join(str(error).split()))}", to_errors=True)
            sys.exit(2)
