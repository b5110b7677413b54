"""Chooses how a scan is divided among GPU programs, and the size of their tiles."""

import math
from dataclasses import dataclass

_REGISTER_BYTES = 128 << 10  # largest matrix in registers: half of the registers of a multiprocessor
_CACHE_BYTES = 160 << 10  # largest matrix that stays in the cache of a multiprocessor
_LARGEST_ROW = 1024
_CYCLE = 6e-4  # microseconds


@dataclass(frozen=True)
class Tiling:
    """The programs of a scan and their tiles.

    Parameters
    ----------
    rows : int
        Number of rows of the batch in a program. A program with one row computes all columns.
    columns, depth : int
        Size of the tiles of the matrix.
    members : int
        Number of programs that share rows and wait for each other after each step.
    held : bool
        Whether a program of one row keeps the matrix in registers.
    warps : int
        Number of warps of a program.
    """

    rows: int
    columns: int
    depth: int
    members: int = 1
    held: bool = False
    warps: int = 4


def choose_tiling(B: int, n: int, parts: int, itemsize: int, processors: int) -> Tiling:
    """Return the tiling with the smallest estimated time of a step.

    Parameters
    ----------
    B, n : int
        Batch and hidden size.
    parts : int
        Number of real parts: 2 for complex numbers, else 1.
    itemsize : int
        Bytes of a real number, or of each part of a complex one.
    processors : int
        Number of multiprocessors of the device.
    """
    tilings = [*_one_row_tilings(n, parts), *_shared_tilings(B, n, parts, processors)]
    return min(tilings, key=lambda tiling: _microseconds(tiling, B, n, parts, itemsize, processors))


def _one_row_tilings(n: int, parts: int) -> list[Tiling]:
    block = max(16, 1 << (n - 1).bit_length())
    if block > _LARGEST_ROW:
        return []
    if 4 * parts * block**2 <= _REGISTER_BYTES:
        return [Tiling(1, block, block, held=True, warps=max(1, min(16, parts * block**2 // 2048)))]
    return [Tiling(1, block, 8192 // block, warps=8 * parts)]


def _shared_tilings(B: int, n: int, parts: int, processors: int) -> list[Tiling]:
    tilings = []
    for rows, columns in ((16, 16), (16, 32), (16, 64), (32, 16), (32, 32), (32, 64), (64, 32), (64, 64)):
        if parts == 2 and rows * columns > 512:
            continue  # would not fit in the registers
        tiles, groups = math.ceil(n / columns), math.ceil(B / rows)
        most = max(1, min(tiles, processors // groups))  # programs that wait for each other must run at once
        members = math.ceil(tiles / math.ceil(tiles / most))  # no more than needed for this number of rounds
        tilings.append(Tiling(rows, columns, 32 // parts, members, warps=max(4, min(8, rows * columns // 256))))
    return tilings


def _microseconds(tiling: Tiling, B: int, n: int, parts: int, itemsize: int, processors: int) -> float:
    """Estimate the time of one step from the cycles for latencies, products and reading the matrix."""
    products, matrix = parts**2 * n, parts * n**2 * itemsize
    if tiling.rows == 1:
        streamed = 0.0 if tiling.held else matrix / (96 if matrix <= _CACHE_BYTES else 32)
        return math.ceil(B / processors) * (500 + products * n / 128 + streamed) * _CYCLE
    groups, rounds = math.ceil(B / tiling.rows), math.ceil(math.ceil(n / tiling.columns) / tiling.members)
    tile = tiling.rows * tiling.columns
    rate = min(64, tile // (2 * tiling.warps)) if itemsize == 4 else 256  # small tiles wait for shared memory
    meeting = 3500 if tiling.members > 1 else 0
    step = 400 + rounds * (400 + tile * products / rate) + meeting
    return math.ceil(groups * tiling.members / processors) * step * _CYCLE
