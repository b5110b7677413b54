"""Coordinates of real skew-symmetric matrices as torch operators without derivatives."""

import ctypes

import torch
from torch import Tensor

from .loading import library

_NAMES = {torch.float32: "float", torch.float64: "double"}
_OPERATORS = torch.library.Library("manifold_rnn", "FRAGMENT")
_OPERATORS.define("pack_skew(Tensor A) -> Tensor")
_OPERATORS.define("unpack_skew(Tensor c, int n) -> Tensor")


def can_be_compiled(x: Tensor) -> bool:
    """Return whether the operators can take a tensor: a real one on a CPU, if the library is installed."""
    return x.dtype in _NAMES and x.device.type == "cpu" and library() is not None


def _empty_coordinates(A: Tensor) -> Tensor:
    n = A.shape[-1]
    return A.new_empty(*A.shape[:-2], n * (n - 1) // 2)


def _empty_matrix(c: Tensor, n: int) -> Tensor:
    return c.new_empty(*c.shape[:-1], n, n)


def _pack(A: Tensor) -> Tensor:
    c = _empty_coordinates(A)
    _call("pack_skew", A.contiguous(), c, A.shape[-1])
    return c


def _unpack(c: Tensor, n: int) -> Tensor:
    A = _empty_matrix(c, n)
    _call("unpack_skew", c.contiguous(), A, n)
    return A


def _call(name: str, x: Tensor, y: Tensor, n: int) -> None:
    compiled, count = library(), max(x.numel(), y.numel()) // (n * n)
    assert compiled is not None
    pointers = map(ctypes.c_void_p, (x.data_ptr(), y.data_ptr()))
    compiled[f"{name}_{_NAMES[x.dtype]}"](*pointers, ctypes.c_int64(count), ctypes.c_int64(n))


_OPERATORS.impl("pack_skew", _pack, "CPU")
_OPERATORS.impl("unpack_skew", _unpack, "CPU")
torch.library.register_fake("manifold_rnn::pack_skew", _empty_coordinates, lib=_OPERATORS)
torch.library.register_fake("manifold_rnn::unpack_skew", _empty_matrix, lib=_OPERATORS)

pack_skew = torch.ops.manifold_rnn.pack_skew
unpack_skew = torch.ops.manifold_rnn.unpack_skew
