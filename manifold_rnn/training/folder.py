"""The folder of a run: tried before work begins, locked while a process works in it, its files replaced at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from filelock import FileLock, Timeout

from ..errors import OptionError

CONFIG = "run.yaml"


def open_folder(folder: Path) -> None:
    """Make the output folder if it is missing; raise `OptionError` if it cannot be written."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OptionError(f"`output` needs a folder that can be written. Got '{folder}': {reason}.") from error


def lock_folder(folder: Path) -> FileLock:
    """Keep other processes from training in a folder until the returned lock is released, or this process ends."""
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(
            f"Another process is training in '{folder}'. Wait for it, or choose another `output`."
        ) from None
    return lock


def resume_command(folder: str | Path) -> str:
    """Return the command that resumes a run, wherever its folder was moved to."""
    return f"manifold-rnn fit --config {quote(f'{folder}/{CONFIG}')} --output {quote(str(folder))} --resume"


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and move it to ``path`` if the block raises nothing.

    A ``durable`` file is on the disk, and not only in the system's memory, before it replaces the old one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable and os.name != "nt":  # where a folder cannot be opened
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
