"""Several workers on one machine, each a process."""

import os
import signal
import sys
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

import optuna

from ..errors import ManifoldError
from ..training.signals import StopRequested, StopSignal, stop_on_signals

if TYPE_CHECKING:
    from .comparison import Comparison


def work_in_processes(comparison: "Comparison", stop: StopSignal) -> None:
    """Start the workers and wait for them; when a stop is requested, pass the request on once."""
    context = get_context("spawn")  # a fork would share open connections
    started: list[tuple[BaseProcess, Connection]] = []
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the workers, until they have their own handlers
    try:
        for _ in range(comparison.settings.workers):
            receiver, sender = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_work, args=(comparison, receiver))
            process.start()
            receiver.close()
            started.append((process, sender))
    finally:
        signal.signal(signal.SIGINT, handler)
    while any(process.is_alive() for process, _ in started):
        for process, sender in started:
            if stop.requested and not sender.closed:
                sender.close()
            process.join(timeout=0.1)


def _work(comparison: "Comparison", pipe: Connection) -> None:
    import torch

    os.setpgrp()  # or the terminal's Ctrl-C would come here too, beside the parent's
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // comparison.settings.workers))
    with stop_on_signals(also=pipe.poll) as stop:  # the parent closes its end, also when it dies
        try:
            with closing(comparison.open()) as study:
                comparison.worker(study, stop).work()
        except StopRequested:
            sys.exit(130)
        except (ManifoldError, OSError) as error:
            print(f"manifold-rnn: error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
