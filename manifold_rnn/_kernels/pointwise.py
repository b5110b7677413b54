"""Functions of each number by the library, which are faster than torch's for the few numbers of one time step."""

import ctypes
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from .._torch import is_watched
from .loading import library

_NAMES = {torch.float32: "tanh_float", torch.float64: "tanh_double"}
_ARGUMENTS = (ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int64,) * 4)
_THREADS_FROM = 1 << 15  # numbers from which torch shares the work among its threads

Tanh: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def tanh_like(z: Tensor) -> Tanh:
    """Return a function that writes tanh of a tensor to another one of the same shape, and returns that one.

    Parameters
    ----------
    z : Tensor, shape (B, n), real
        A tensor of the size, dtype and device of those to come. Their last axis has stride 1, and all other axes can
        be flattened to one without a copy.
    """
    name, compiled = _NAMES.get(z.dtype), library()
    shared = torch.get_num_threads() > 1 and z.numel() >= _THREADS_FROM
    if name is None or compiled is None or shared or z.device.type != "cpu" or is_watched(z):
        return _by_torch
    call = compiled[name]
    call.argtypes = _ARGUMENTS

    def tanh(z: Tensor, out: Tensor) -> Tensor:
        flat, into = (z, out) if z.ndim == 2 else (z.flatten(0, -2), out.flatten(0, -2))
        call(flat.data_ptr(), into.data_ptr(), *flat.shape, flat.stride(0), into.stride(0))
        return out

    return tanh


def _by_torch(z: Tensor, out: Tensor) -> Tensor:
    return torch.tanh(z, out=out)
