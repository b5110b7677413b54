"""Files and folders that a run writes: tried before work begins, and replaced all at once."""

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OptionError


def open_folder(output: str | Path) -> Path:
    """Make the output folder if it is missing, try whether files can be put there, and return its path.

    Raises
    ------
    OptionError
        If not.
    """
    folder = Path(output)
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OptionError(f"--output needs a folder that can be written. Got '{folder}': {reason}.") from error
    return folder


def occupy(folder: Path, holder: object) -> Callable[[], None]:
    """Keep other processes from writing to a folder until the returned function is called, or ``holder`` is gone.

    The system ends it with the process, however that ends. Where there are no such locks, nothing is kept.

    Raises
    ------
    BlockingIOError
        If another process writes there.
    """
    try:
        import fcntl
    except ImportError:
        return lambda: None
    descriptor = os.open(folder, os.O_RDONLY)
    release = weakref.finalize(holder, os.close, descriptor)
    try:
        with contextlib.suppress(NotImplementedError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        release()
        raise BlockingIOError(
            f"Another process is training in '{folder}'. Wait for it, or choose another --output."
        ) from None
    except OSError:  # a file system without locks
        pass
    return release


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and move it to ``path`` if the block ends well.

    A ``durable`` file is on the disk, and not only in the system's memory, when it takes the place of the old one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def clear_temporaries(folder: Path, name: str) -> None:
    """Remove what a writer of this file left behind when it was killed."""
    for left in folder.glob(f".{name}.*.tmp"):
        left.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # where a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
