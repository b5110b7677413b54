"""What the steps of gated cells do between two products, by the library: for each number, without temporary tensors."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch

from .loading import library

_TYPES = {torch.float32: "float", torch.float64: "double"}
# numbers of addresses, of sizes and of floating-point numbers that the functions take
_ARGUMENTS = {
    "tanh": (2, 4, 0),
    "lstm_forward": (5, 2, 0),
    "lstm_backward": (6, 2, 0),
    "lem_forward": (3, 2, 1),
    "relax_forward": (4, 3, 0),
    "relax_backward": (6, 3, 1),
    "reset_forward": (4, 2, 0),
    "complex_lstm_forward": (5, 2, 0),
    "nru_forward": (3, 4, 1),
}

Functions: TypeAlias = dict[str, Callable[..., object]]


@cache
def functions(dtype: torch.dtype) -> Functions | None:
    """Return the functions of `gates.cpp` for numbers of a dtype, by their names, or None without a library.

    Their arguments are addresses of numbers that are next to each other in a row, sizes and options.
    """
    suffix, compiled = _TYPES.get(dtype), library()
    if suffix is None or compiled is None:
        return None
    result: Functions = {}
    for name, (addresses, sizes, numbers) in _ARGUMENTS.items():
        function = compiled[f"{name}_{suffix}"]
        function.argtypes = (
            *(ctypes.c_void_p,) * addresses,
            *(ctypes.c_int64,) * sizes,
            *(ctypes.c_double,) * numbers,
        )
        function.restype = None
        result[name] = function
    return result
