"""Where the files of a task are, and how a file that does not fit is refused."""

import os
from pathlib import Path
from typing import NoReturn

from ..errors import OptionError

VARIABLE = "MANIFOLD_RNN_DATA"
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
        If neither is.
    """
    path = Path(path).expanduser()
    base = data_dir or os.environ.get(VARIABLE)
    places = [path] if base is None else [path, Path(base) / path, Path(base) / subfolder / path]
    for place in places:
        if place.is_file():
            return place
    where = "" if base is None else f" nor below {shown(Path(base))}"
    raise OptionError(
        f"{task} reads a file.\nFound none at {shown(path)}{where}.\nCheck the path, data_dir, or {VARIABLE}."
    )


def refuse(path: Path, rule: str, got: str, change: str) -> NoReturn:
    """Raise `OptionError` about a file."""
    raise OptionError(f"{rule}\nGot {got}, in {shown(path)}.\n{change}")


def shown(path: Path) -> str:
    """Return a path, the beginning cut off if it is long."""
    text = str(path)
    return f"'{text}'" if len(text) <= _SHOWN else f"'...{text[-_SHOWN:]}'"
