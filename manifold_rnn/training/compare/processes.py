"""Several workers on one machine, each a process."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from multiprocessing import get_context
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
    processes = [context.Process(target=_work, args=(job, os.getpid())) for _ in range(job.settings.workers)]
    for process in processes:
        process.start()
    asked = False
    while any(process.is_alive() for process in processes):
        if stop() and not asked:
            asked = True
            _interrupt(processes)
        for process in processes:
            process.join(timeout=0.1)


def _interrupt(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)


def _work(job: "Job", parent: int) -> None:
    import torch

    os.setpgrp()  # or the terminal's Ctrl-C would come here too, beside the parent's
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.settings.workers))
    with stop_on_signals() as asked:
        try:
            with closing(job.open()) as study:
                job.worker(study, lambda: asked() or os.getppid() != parent).work()
        except Stopped:
            sys.exit(130)
        except (ManifoldError, OSError) as error:
            print(f"manifold-rnn: error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
