"""The processes that share a run: which one this is, and how they part."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from ..errors import OptionError
from .run_settings import RunSettings


def processes(settings: RunSettings) -> tuple[int, int]:
    """Return which process this is, and how many share the run.

    Raises
    ------
    OptionError
        If the settings ask for more, or fewer, than torchrun has started.
    """
    wanted, started = settings.devices * settings.nodes, int(os.environ.get("WORLD_SIZE", "1"))
    if wanted != started:
        raise OptionError(
            f"devices times nodes is the number of processes.\nExpected {started}, got {wanted}.\n"
            "Start them with torchrun --nproc-per-node DEVICES -m manifold_rnn fit ..."
        )
    return int(os.environ.get("RANK", "0")) if wanted > 1 else 0, wanted


@contextmanager
def leaving_together() -> Iterator[None]:
    """Take down the process group that was made within, after the slowest process has come to the end.

    One that is left to the end of the program may abort it: its threads still read from a process that has gone.
    """
    had_one = _is_in_a_group()
    try:
        yield
        if _is_in_a_group() and not had_one:
            distributed.barrier()
    finally:
        if _is_in_a_group() and not had_one:
            distributed.destroy_process_group()


def _is_in_a_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()
