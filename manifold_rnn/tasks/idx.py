"""IDX files, the format of MNIST: a magic number, the sizes of the axes, and the bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from .files import refuse, shown

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08


def find_idx(folder: Path, name: str) -> Path:
    """Return the path of an IDX file, as it is or with gzip.

    Raises
    ------
    OptionError
        If there is neither.
    """
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise OptionError(
        f"Four IDX files are needed.\nExpected {name} or {name}.gz, found neither in {shown(folder)}.\n"
        "Put the files there, or name their folder as data_dir."
    )


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read unsigned bytes with so many axes; gzip is told by the content, not by the name.

    Raises
    ------
    OptionError
        If the file is damaged, truncated, or holds something else.
    """
    content = _unpacked(path)
    magic = bytes([0, 0, _UNSIGNED_BYTES, axes])
    header = 4 + 4 * axes
    if len(content) < header or content[:4] != magic:
        got = f"0x{content[:4].hex()}" if len(content) >= header else f"{len(content)} bytes"
        rule = f"An IDX file of bytes with {axes} axes begins with 0x{magic.hex()} and {axes} sizes."
        refuse(path, rule, got, "Fetch the file again, and check that images and labels were not swapped.")
    sizes = np.frombuffer(content, ">u4", axes, offset=4).tolist()
    expected = math.prod(sizes)
    if len(content) != header + expected:
        rule = f"An IDX file has as many bytes as its sizes say.\nExpected {expected:,} after the header."
        refuse(path, rule, f"{len(content) - header:,}", "The file is truncated or damaged: fetch it again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes).copy()  # from bytes it could not be written


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        rule = "A file that begins as gzip has to be one to its end."
        refuse(path, rule, str(error) or type(error).__name__, "The file is truncated or damaged: fetch it again.")
