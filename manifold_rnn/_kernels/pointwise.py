"""Elementwise parts of the steps of gated cells, computed by the library without temporary tensors."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch

from .loading import library

_TYPES = {torch.float32: "float", torch.float64: "double"}
# how many addresses, sizes and floating-point numbers each function takes
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
    """Return the functions of `gates.cpp` for a dtype, by name, or None if no library is installed.

    Their arguments are addresses of rows of adjacent numbers, sizes and options.
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
