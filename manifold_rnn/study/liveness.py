"""Tests whether a worker is alive: by its lock on the same machine, by its heartbeat on another one."""

import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock


class Superseded(Exception):
    """Raised when another worker has taken over this case."""


def identity() -> str:
    """Return the path of a file that this process keeps locked. The system releases the lock when the process ends."""
    return _own_lock(os.getpid()).lock_file


def remove_identity() -> None:
    """Remove the file of `identity`, after the end of an attempt."""
    _own_lock(os.getpid()).release()
    Path(identity()).unlink(missing_ok=True)
    _own_lock.cache_clear()


def is_known_dead(worker: str) -> bool:
    """Return whether a worker ran on this machine and its process has ended."""
    if Path(worker).exists():
        with suppress(OSError), FileLock(worker, blocking=False):  # an error: the lock is held, or is another user's
            return True
    return False


@cache
def _own_lock(process: int) -> FileLock:
    lock = FileLock(Path(tempfile.gettempdir(), f"manifold-rnn-{uuid.uuid4().hex}.lock"), thread_local=False)
    lock.acquire()
    return lock


@contextmanager
def heartbeat(beat: Callable[[int], None], interval: float) -> Iterator[None]:
    """Call ``beat`` with 1, 2, 3... in a thread while the block runs, until the call raises `Superseded`."""
    stop = threading.Event()

    def call() -> None:
        count = 0
        with suppress(Superseded):
            while not stop.wait(interval):
                count += 1
                beat(count)

    thread = threading.Thread(target=call, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)
