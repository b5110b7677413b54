"""Finds the files of a task, and raises errors about files that cannot be used."""

import os
import stat
from pathlib import Path
from typing import NoReturn

from ..errors import OptionError

VARIABLE = "MANIFOLD_RNN_DATA"
LARGEST_FILE = 2**30  # bytes; the largest corpora of the field have 10^9
_SHOWN = 100


def data_folder(task: str, data_dir: str | Path | None, *subfolders: str) -> Path:
    """Return the folder of a task, from the argument or the environment variable, or a subfolder in it.

    Raises
    ------
    OptionError
        If no folder is given, or it does not exist.
    """
    chosen = data_dir or os.environ.get(VARIABLE)
    if not chosen:
        raise OptionError(
            f"{task} needs a folder of files. Nothing is downloaded.\n"
            f"Expected a folder as data_dir, or in the environment variable {VARIABLE}; got neither.\nPass the folder."
        )
    folder = expanded("data_dir" if data_dir else VARIABLE, chosen)
    if not folder.is_dir():
        raise OptionError(
            f"{task} needs a folder of files.\nGot {shown(folder)}, which is not a folder.\n"
            f"Check data_dir, or {VARIABLE}."
        )
    return next((folder / name for name in subfolders if (folder / name).is_dir()), folder)


def find_file(task: str, path: str | Path, data_dir: str | Path | None, subfolder: str) -> Path:
    """Return a path, or the same path below the folder of the task, whichever is a file.

    Raises
    ------
    OptionError
        If neither is a file, or the file is too large.
    """
    path = expanded("path", path)
    base = data_dir or os.environ.get(VARIABLE)
    folder = expanded("data_dir" if data_dir else VARIABLE, base) if base else None
    places = [path] if folder is None else [path, folder / path, folder / subfolder / path]
    for place in places:
        if place.exists() and not place.is_dir():
            require_file(place)
            return place
    where = "" if folder is None else f" nor below {shown(folder)}"
    raise OptionError(
        f"{task} needs a file.\nFound none at {shown(path)}{where}.\nCheck the path, data_dir, or {VARIABLE}."
    )


def expanded(key: str, path: str | Path) -> Path:
    """Return a path with the home folder instead of ``~``. Raises `OptionError` if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OptionError(
            f"`{key}` begins with the home folder of an unknown user.\nGot {shown(Path(path))}.\nWrite the whole path."
        ) from error


def require_file(path: Path) -> None:
    """Raise `OptionError` unless a path is a regular file that is small enough to read."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        refuse(path, "Data needs to be in a regular file.", "a pipe or a device", "Copy its content into a file.")
    if state.st_size > LARGEST_FILE:
        rule = f"A data file needs to have at most {LARGEST_FILE:,} bytes."
        refuse(path, rule, f"{state.st_size:,}", "Use a part of the file.")


def refuse(path: Path, rule: str, got: str, change: str) -> NoReturn:
    """Raise `OptionError` about a file: the rule, what was found, and what to change."""
    raise OptionError(f"{rule}\nGot {got}, in {shown(path)}.\n{change}")


def shown(path: Path) -> str:
    """Return a path as text. If it is long, the beginning is cut off."""
    text = str(path)
    return f"'{text}'" if len(text) <= _SHOWN else f"'...{text[-_SHOWN:]}'"
