"""Several workers on one machine, each a process."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

import optuna

from ...errors import ManifoldError
from .worker import Stopped, stop_on_signals

if TYPE_CHECKING:
    from .command import Job


def work_in_processes(job: "Job", stop: Callable[[], bool]) -> None:
    """Start the workers and wait for them; when asked to stop, ask each of them once."""
    context = get_context("spawn")  # a fork would share open connections
    started: list[tuple[BaseProcess, Connection]] = []
    with _interrupt_ignored():  # by the new ones, until they have their own handlers
        for _ in range(job.settings.workers):
            hears, tells = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_work, args=(job, hears))
            process.start()
            hears.close()
            started.append((process, tells))
    while any(process.is_alive() for process, _ in started):
        if stop():
            _ask(started)
        for process, _ in started:
            process.join(timeout=0.1)


def _ask(started: list[tuple[BaseProcess, Connection]]) -> None:
    """By the pipe, for between two runs, and by the signal, for between two batches."""
    for process, tells in started:
        if not tells.closed:
            tells.close()
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)


def _work(job: "Job", hears: Connection) -> None:
    import torch

    os.setpgrp()  # or the terminal's Ctrl-C would come here too, beside the parent's
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.settings.workers))
    with stop_on_signals() as asked:
        try:
            with closing(job.open()) as study:
                job.worker(study, lambda: asked() or hears.poll()).work()  # its end is closed when the parent dies, too
        except Stopped:
            sys.exit(130)
        except (ManifoldError, OSError) as error:
            print(f"manifold-rnn: error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)


@contextmanager
def _interrupt_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
