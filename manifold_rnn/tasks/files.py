"""Where the files of a task are, and how a file that does not fit is refused."""

import os
import stat
from pathlib import Path
from typing import NoReturn

from ..errors import OptionError

VARIABLE = "MANIFOLD_RNN_DATA"
LARGEST_FILE = 2**30  # bytes; the largest corpora of the field have 10^9
_SHOWN = 100


def data_folder(task: str, data_dir: str | Path | None, *subfolders: str) -> Path:
    """Return the folder of a task: that of the argument or of the environment, or a subfolder of these names in it.

    Raises
    ------
    OptionError
        If none is named, or it does not exist.
    """
    chosen = data_dir or os.environ.get(VARIABLE)
    if not chosen:
        raise OptionError(
            f"{task} reads files, and downloads nothing.\n"
            f"Expected a folder as data_dir, or in the environment variable {VARIABLE}; got neither.\nName the folder."
        )
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        raise OptionError(
            f"{task} reads files from a folder.\nGot {shown(folder)}, which is none.\nCheck data_dir, or {VARIABLE}."
        )
    return next((folder / name for name in subfolders if (folder / name).is_dir()), folder)


def find_file(task: str, path: str | Path, data_dir: str | Path | None, subfolder: str) -> Path:
    """Return a path as it is, or below the folder of the task, whichever is a file.

    Raises
    ------
    OptionError
        If neither is, or it is larger than any text to learn.
    """
    path = Path(path).expanduser()
    base = data_dir or os.environ.get(VARIABLE)
    places = [path] if base is None else [path, Path(base) / path, Path(base) / subfolder / path]
    for place in places:
        if place.exists() and not place.is_dir():
            require_file(place)
            return place
    where = "" if base is None else f" nor below {shown(Path(base))}"
    raise OptionError(
        f"{task} reads a file.\nFound none at {shown(path)}{where}.\nCheck the path, data_dir, or {VARIABLE}."
    )


def require_file(path: Path) -> None:
    """Raise `OptionError` unless a path is a regular file of a size that can be read at once."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        refuse(path, "Data is read from regular files.", "a pipe or a device", "Copy its content into a file.")
    if state.st_size > LARGEST_FILE:
        rule = f"A file of data has at most {LARGEST_FILE:,} bytes."
        refuse(path, rule, f"{state.st_size:,}", "Use a part of it.")


def refuse(path: Path, rule: str, got: str, change: str) -> NoReturn:
    """Raise `OptionError` about a file."""
    raise OptionError(f"{rule}\nGot {got}, in {shown(path)}.\n{change}")


def shown(path: Path) -> str:
    """Return a path, the beginning cut off if it is long."""
    text = str(path)
    return f"'{text}'" if len(text) <= _SHOWN else f"'...{text[-_SHOWN:]}'"
