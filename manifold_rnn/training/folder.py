"""The folder of a run: tried before work begins, locked while a process works in it, its files replaced at once."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from filelock import FileLock, Timeout

from ..errors import OptionError
from .formats import KEY

CONFIG, LAST, BEST, RESULT, LOGS = "run.yaml", "last.ckpt", "best.ckpt", "result.json", "logs"


def previous(path: Path) -> Path:
    """Return where the generation of a file before the newest is kept, such as last.previous.ckpt."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


_FILES = [CONFIG, LOGS, *(name for file in (LAST, BEST, RESULT) for name in (file, previous(Path(file)).name))]
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, [*_FILES, 'probe']))})\.\d+\.tmp")
_ATTEMPT = re.compile(r"attempt-\d+")
_PRINTED = re.compile(r".+\.(out|err|log|[oe]\d+)")  # what a batch system or a shell may keep of a run's lines


def require_own(folder: Path) -> None:
    """Raise `OptionError` if a folder holds files, but not those of a run; changes nothing.

    What is printed may be kept in the folder of a run, also before it starts.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return  # `open_folder` makes it, or says what is wrong
    patterns = (_TEMPORARY, _ATTEMPT, _PRINTED)
    own = {".lock", "error.txt"} | {name for name in names if any(pattern.fullmatch(name) for pattern in patterns)}
    if names - own == {LOGS}:
        foreign = {LOGS}
    elif CONFIG in names and (names & {LAST, previous(Path(LAST)).name, RESULT} or _is_written(folder / CONFIG)):
        return  # a run, in which the user may keep notes
    else:
        foreign = names - own - {*_FILES}
    if foreign:
        raise OptionError(
            f"`output` needs a new folder, an empty one, or that of a run.\n"
            f"Got '{folder}', which holds other files, such as '{min(foreign)}'.\nChoose another `output`."
        )


def _is_written(config: Path) -> bool:
    """Whether a run has written these settings, which then begin with the number of their format."""
    if not config.is_file():
        return False
    with open(config, "rb") as file:
        return file.read(len(KEY) + 1).decode(errors="replace") == f"{KEY}:"


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
    except OSError as error:
        raise OptionError(
            f"`output` needs a folder with a file .lock that can be locked.\n"
            f"Got '{folder}': {error.strerror or type(error).__name__}.\nRemove .lock, or choose another `output`."
        ) from error
    return lock


def remove_temporary(folder: Path) -> None:
    """Remove what processes that were killed have left half written; the folder is locked."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def move_aside(folder: Path) -> None:
    """Move the files of a run into the first free folder attempt-1, attempt-2, ... inside; the folder is locked."""
    present = [folder / name for name in (*_FILES, "error.txt") if (folder / name).exists()]
    if present:
        number = 1 + max((int(path.name[8:]) for path in folder.iterdir() if _ATTEMPT.fullmatch(path.name)), default=0)
        aside = folder / f"attempt-{number}"
        aside.mkdir()
        for path in present:
            os.replace(path, aside / path.name)


def resume_command(folder: str | Path, flag: str = "--resume") -> str:
    """Return the command that resumes a run, or starts it again, wherever its folder was moved to."""
    return f"manifold-rnn fit --config {quote(f'{folder}/{CONFIG}')} --output {quote(str(folder))} {flag}"


@contextmanager
def replacing(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and move it to ``path`` if the block raises nothing.

    The new file is on the disk, and not only in the system's memory, before it replaces the old one, which ``keep``
    keeps as `previous`. At an `OSError` the old file is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        if keep and path.exists():
            _keep(path)
        os.replace(temporary, path)
        if os.name != "nt":  # where a folder cannot be opened
            _sync(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        reason = f"{error.strerror}: '{path}' cannot be written, and its content of before is kept"
        raise OSError(error.errno, reason) from error
    finally:
        temporary.unlink(missing_ok=True)


def _keep(path: Path) -> None:
    link = path.with_name(f".{previous(path).name}.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # not every file system has links; readers look at the previous file if the newest is missing
        link = path
    os.replace(link, previous(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
