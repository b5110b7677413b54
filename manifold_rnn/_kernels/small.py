"""Optimizer steps of many small orthogonal weights in one call. Results are kept apart and written by a second call."""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .loading import library

RULES = {"descent": 0, "momentum": 1, "adam": 2}  # codes in the C++ source
RETRACTIONS = {"exp": 0, "cayley": 1, "qr": 2, "polar": 3}
MOST_ROWS = 256
_SIZES = ("count", "n", "rule", "retraction", "polish", "x_by_columns", "g_by_columns", "threads")
_NUMBERS = 8
_WORK = 1 << 21  # multiplications that justify one more thread
_NAMES = {torch.float32: "float", torch.float64: "double"}


class _Steps(ctypes.Structure):
    """The struct `Steps` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in ("x", "g", "m", "v", "buffer")),
        ("numbers", ctypes.c_double * _NUMBERS),
    )


@cache
def _functions(dtype: torch.dtype) -> tuple[Callable[..., Any], ...]:
    """Return the functions that give the memory a step needs, prepare a step and commit it."""
    compiled = library()
    assert compiled is not None
    room, prepare, commit = (compiled[f"small_{name}_{_NAMES[dtype]}"] for name in ("room", "prepare", "commit"))
    room.argtypes, room.restype, commit.restype = [ctypes.c_int64] * 3, ctypes.c_int64, None
    return room, prepare, commit


class SmallSteps:
    """The memory for steps of ``count`` real n x n matrices on a CPU, reused at every step."""

    def __init__(self, count: int, n: int, dtype: torch.dtype, *, by_columns: bool) -> None:
        room, self._prepare, self._commit = _functions(dtype)
        self._threads = max(1, min(torch.get_num_threads(), count, count * n**3 // _WORK))
        # the C++ source requires zeros here
        self._buffer = torch.zeros(room(count, n, self._threads), dtype=dtype, device="cpu")
        self._lists = [(ctypes.c_size_t * count)() for _ in range(4)]
        self._known: list[list[int] | None] = [None] * 4
        self._steps = _Steps(
            count, n, *[0] * (len(_SIZES) - 2), *map(ctypes.addressof, self._lists), self._buffer.data_ptr()
        )
        self._settings: tuple[int, ...] | None = None
        self._steps.x_by_columns = by_columns
        self._address = ctypes.byref(self._steps)

    def _point_to(self, which: int, addresses: list[int]) -> None:
        if addresses != self._known[which]:
            self._lists[which][:] = [*addresses]
            self._known[which] = addresses

    def prepare(
        self,
        x: list[int],
        g: list[int],
        moments: Sequence[list[int]],
        rule: int,
        retraction: int,
        polish: bool,
        g_by_columns: bool,
        numbers: Sequence[float],
    ) -> bool:
        """Compute a step from the addresses of weights, gradients and moments (0 for none). It writes to none of them.

        Returns
        -------
        bool
            True if the step succeeded; False if it is too long or something in it is not finite.
        """
        for which, addresses in enumerate((x, g, *moments)):
            self._point_to(which, addresses)
        steps = self._steps
        threads = 1 if self._threads == 1 else min(self._threads, torch.get_num_threads())
        settings = rule, retraction, polish, g_by_columns, threads
        if settings != self._settings:
            self._settings = settings
            steps.rule, steps.retraction, steps.polish, steps.g_by_columns, steps.threads = settings
        steps.numbers[: len(numbers)] = numbers
        return bool(self._prepare(self._address))

    def commit(self, moments: Sequence[list[int]]) -> None:
        """Write the results of the last `prepare` to the weights, and to the moments at these addresses."""
        for which, addresses in enumerate(moments, 2):
            self._point_to(which, addresses)
        self._commit(self._address)


def small_steps(params: Sequence[Tensor]) -> SmallSteps | None:
    """Return the memory for steps of equal weights, or None if the compiled step does not support them."""
    p = params[0]
    if p.dtype not in _NAMES or p.device.type != "cpu" or p.ndim != 2 or library() is None:
        return None
    by_columns = lies_by_columns(params)
    if not p.shape[0] == p.shape[1] <= MOST_ROWS or by_columns is None:
        return None
    return SmallSteps(len(params), p.shape[0], p.dtype, by_columns=by_columns)


def lies_by_columns(matrices: Sequence[Tensor]) -> bool | None:
    """Return whether real matrices of one shape are stored by columns without gaps; None if they differ."""
    stride = matrices[0].stride()
    if any(map(Tensor.is_neg, matrices)) or any(x.stride() != stride for x in matrices[1:]):
        return None
    if matrices[0].is_contiguous():
        return False
    return True if matrices[0].mT.is_contiguous() else None
