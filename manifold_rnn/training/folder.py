"""The folder of a run. It is checked first and locked during the run, and its files are replaced atomically."""

import errno
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
    """Return the path of the previous version of a file, such as last.previous.ckpt."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


_FILES = [CONFIG, LOGS, *(name for file in (LAST, BEST, RESULT) for name in (file, previous(Path(file)).name))]
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, [*_FILES, 'probe']))})\.\d+\.tmp")
_ATTEMPT = re.compile(r"attempt-\d+")
_PRINTED = re.compile(r".+\.(out|err|log|[oe]\d+)")  # files with a run's output, from a shell or a batch system


def require_own(folder: Path) -> None:
    """Raise `OptionError` if a folder contains files, but not those of a run, or one of another kind. Changes nothing.

    Log files with the printed output are allowed, also before the run starts.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return  # `open_folder` creates it, or raises
    patterns = (_TEMPORARY, _ATTEMPT, _PRINTED)
    own = {".lock", "error.txt"} | {name for name in names if any(pattern.fullmatch(name) for pattern in patterns)}
    foreign = names - own - {*_FILES}
    if names - own == {LOGS} and ".lock" not in names and not _is_empty(folder / LOGS):
        foreign = {LOGS}  # a run that died before it wrote its settings has locked the folder, or its log is empty
    elif CONFIG in names and (names & {LAST, previous(Path(LAST)).name, RESULT} or _is_written(folder / CONFIG)):
        foreign = set()  # a run, where users may keep other files too
    if foreign:
        raise OptionError(
            f"`output` needs a new folder, an empty one, or that of a run.\n"
            f"Got '{folder}', which contains other files, such as '{min(foreign)}'.\nChoose another `output`."
        )
    for name in sorted(names & {*_FILES}):
        kind, is_of_it = ("folder", Path.is_dir) if name == LOGS else ("regular file", Path.is_file)
        if not is_of_it(folder / name):
            raise OptionError(
                f"`output` needs a folder where {name} is a {kind}.\nGot '{folder / name}', which is something else.\n"
                "Move it away, or choose another `output`."
            )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _is_written(config: Path) -> bool:
    """Whether a run wrote these settings. They then begin with the number of their format."""
    if not config.is_file():
        return False
    with open(config, "rb") as file:
        return file.read(len(KEY) + 1).decode(errors="replace") == f"{KEY}:"


def open_folder(folder: Path, key: str = "output") -> None:
    """Create a folder for output if it is missing. Raises `OptionError` if it cannot be written."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OptionError(f"`{key}` needs a folder that can be written. Got '{folder}': {reason}.") from error


def lock_folder(folder: Path) -> FileLock:
    """Prevent other processes from training in a folder, until the returned lock is released or this process ends."""
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
    """Remove incomplete files of killed processes. The folder must be locked."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def move_aside(folder: Path) -> None:
    """Move the files of a run into the first free subfolder attempt-1, attempt-2, ... The folder must be locked."""
    present = [folder / name for name in (*_FILES, "error.txt") if (folder / name).exists()]
    if present:
        number = 1 + max((int(path.name[8:]) for path in folder.iterdir() if _ATTEMPT.fullmatch(path.name)), default=0)
        aside = folder / f"attempt-{number}"
        aside.mkdir()
        for path in present:
            os.replace(path, aside / path.name)


def resume_command(folder: str | Path, flag: str = "--resume") -> str:
    """Return the command that resumes a run or starts it again. It also works after the folder was moved."""
    return f"manifold-rnn fit --config {quote(f'{folder}/{CONFIG}')} --output {quote(str(folder))} {flag}"


@contextmanager
def replacing(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder. The file is moved to ``path`` if the block raises no exception.

    The new file is flushed to the disk before it replaces the old one. With ``keep``, the old file stays as `previous`.
    After an `OSError` the old file is unchanged. Devices, pipes and folders are not replaced.
    """
    for target in (path, previous(path)) if keep else (path,):
        if target.exists() and not target.is_file():
            raise OSError(errno.EEXIST, f"'{target}' cannot be replaced, because it is not a regular file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        if keep and path.exists():
            _keep(path)
        os.replace(temporary, path)
        if os.name != "nt":  # Windows cannot open a folder
            _sync(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        reason = f"{error.strerror}: '{path}' cannot be written. The old file is kept"
        raise OSError(error.errno, reason) from error
    finally:
        temporary.unlink(missing_ok=True)


def _keep(path: Path) -> None:
    link = path.with_name(f".{previous(path).name}.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # no links here: then readers use the previous file if the newest is missing
        link = path
    os.replace(link, previous(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
