"""Reads IDX files, the format of MNIST: a magic number, the sizes of the axes, and the bytes."""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from .files import LARGEST_FILE, refuse, require_file, shown

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08


def find_idx(folder: Path, name: str) -> Path:
    """Return the path of an IDX file, plain or compressed with gzip.

    Raises
    ------
    OptionError
        If neither file exists.
    """
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise OptionError(
        f"The task needs four IDX files.\nExpected {name} or {name}.gz, found neither in {shown(folder)}.\n"
        "Put the files there, or pass their folder as data_dir."
    )


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read unsigned bytes with this number of axes. Gzip is detected by the content, not by the name.

    Raises
    ------
    OptionError
        If the file is damaged, truncated, larger than its header says, or has another format.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTES, axes])
    header = 4 + 4 * axes
    require_file(path)
    with open(path, "rb") as file, _unpacked(file) as stream:
        try:
            start = stream.read(header)
            if len(start) < header or start[:4] != magic:
                got = f"0x{start[:4].hex()}" if len(start) >= header else f"{len(start)} bytes"
                rule = f"An IDX file with {axes} axes needs to begin with 0x{magic.hex()} and {axes} sizes."
                refuse(path, rule, got, "Download the file again, and check that images and labels are not swapped.")
            sizes = np.frombuffer(start, ">u4", axes, offset=4).tolist()
            expected = math.prod(sizes)
            if expected > LARGEST_FILE:
                rule = f"An IDX file needs to have at most {LARGEST_FILE:,} bytes after the header."
                refuse(path, rule, f"sizes of {expected:,}", "The file is damaged. Download it again.")
            content = stream.read(expected + 1)  # not more, because a small file may unpack to any size
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            rule = "A compressed file needs to be a complete gzip file."
            refuse(
                path, rule, str(error) or type(error).__name__, "The file is truncated or damaged. Download it again."
            )
    if len(content) != expected:
        rule = f"The sizes of an IDX file need to match its bytes.\nExpected {expected:,} after the header."
        got = f"{len(content):,}{' or more' if len(content) > expected else ''}"
        refuse(path, rule, got, "The file is truncated or damaged. Download it again.")
    return np.frombuffer(content, np.uint8).reshape(sizes).copy()  # a copy, because an array over bytes is read-only


def _unpacked(file: io.BufferedReader) -> "io.BufferedReader | gzip.GzipFile":
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
