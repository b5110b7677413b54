"""Which programs run a scan on a GPU, and how large their tiles are."""

import math
from dataclasses import dataclass

_HELD_BYTES = 128 << 10  # of a matrix in registers: half of those that a multiprocessor has
_CACHED_BYTES = 160 << 10  # of a matrix that stays in the cache of a multiprocessor
_LARGEST_ROW = 1024
_CYCLE = 6e-4  # microseconds


@dataclass(frozen=True)
class Plan:
    """Programs and tiles of a scan.

    Parameters
    ----------
    rows : int
        Rows of the batch in a program. If 1, it has all columns to itself.
    columns, depth : int
        Of the tiles of the matrix.
    members : int
        Programs that share rows, and wait for each other after each step.
    held : bool
        Whether a program of one row keeps the matrix in registers.
    warps : int
        Of a program.
    """

    rows: int
    columns: int
    depth: int
    members: int = 1
    held: bool = False
    warps: int = 4


def choose(B: int, n: int, parts: int, itemsize: int, processors: int) -> Plan:
    """Return the plan whose step should take least time.

    Parameters
    ----------
    B, n : int
        Batch and hidden size.
    parts : int
        2 for complex numbers, else 1.
    itemsize : int
        Bytes of a real number.
    processors : int
        Multiprocessors of the device.
    """
    plans = [*_by_row(n, parts), *_by_tile(B, n, parts, processors)]
    return min(plans, key=lambda plan: _microseconds(plan, B, n, parts, itemsize, processors))


def _by_row(n: int, parts: int) -> list[Plan]:
    block = max(16, 1 << (n - 1).bit_length())
    if block > _LARGEST_ROW:
        return []
    if 4 * parts * block**2 <= _HELD_BYTES:
        return [Plan(1, block, block, held=True, warps=max(1, min(16, parts * block**2 // 2048)))]
    return [Plan(1, block, 8192 // block, warps=8 * parts)]


def _by_tile(B: int, n: int, parts: int, processors: int) -> list[Plan]:
    plans = []
    for rows, columns in ((16, 16), (16, 32), (16, 64), (32, 16), (32, 32), (32, 64), (64, 32), (64, 64)):
        if parts == 2 and rows * columns > 512:
            continue  # would not fit in the registers
        tiles, groups = math.ceil(n / columns), math.ceil(B / rows)
        most = max(1, min(tiles, processors // groups))  # those that wait for each other have to run at once
        members = math.ceil(tiles / math.ceil(tiles / most))  # no more than what is needed for as many rounds
        plans.append(Plan(rows, columns, 32 // parts, members, warps=max(4, min(8, rows * columns // 256))))
    return plans


def _microseconds(plan: Plan, B: int, n: int, parts: int, itemsize: int, processors: int) -> float:
    """An estimate of one step of the recurrence, by cycles: latencies, products, bytes of the matrix."""
    products, matrix = parts**2 * n, parts * n**2 * itemsize
    if plan.rows == 1:
        streamed = 0.0 if plan.held else matrix / (96 if matrix <= _CACHED_BYTES else 32)
        return math.ceil(B / processors) * (500 + products * n / 128 + streamed) * _CYCLE
    groups, rounds = math.ceil(B / plan.rows), math.ceil(math.ceil(n / plan.columns) / plan.members)
    tile = plan.rows * plan.columns
    rate = min(64, tile // (2 * plan.warps)) if itemsize == 4 else 256  # small tiles wait for shared memory
    meeting = 3500 if plan.members > 1 else 0
    step = 400 + rounds * (400 + tile * products / rate) + meeting
    return math.ceil(groups * plan.members / processors) * step * _CYCLE
