"""A point times a map of a skew-symmetric matrix, from its coordinates, and the adjoints, each in one compiled call.

The functions take one real matrix each and record nothing; `linalg.translation` says when they serve.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .loading import library

_NAMES = {torch.float32: "float", torch.float64: "double"}
_Numbers = ctypes.POINTER(ctypes.c_double)


class _Translation(ctypes.Structure):
    """The struct `Translation` of the source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "even_degree", "odd_degree", "shared", "twice")),
        *((name, ctypes.c_void_p) for name in ("x", "B", "W", "M", "Ft", "work")),
        *((name, _Numbers) for name in ("even", "odd")),
    )


class _Adjoint(ctypes.Structure):
    """The struct `Adjoint` of the source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "down", "right", "count")),
        *((name, ctypes.c_void_p) for name in ("g", "c", "M", "Ft", "gc", "work")),
        ("terms", _Numbers),
    )


class Polynomials(NamedTuple):
    """The coefficients of an even and an odd polynomial in ``B``: of the powers of ``B^2``, and of those times ``B``.

    The even one has a degree of at least 1. If ``shared``, both differ in their first coefficient only.
    """

    even: Sequence[float]
    odd: Sequence[float]
    shared: bool


@cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., Any]:
    compiled = library()
    assert compiled is not None
    function = compiled[f"{name}_{_NAMES[dtype]}"]
    if name == "halve_and_square":
        function.argtypes, function.restype = [ctypes.c_void_p] * 3 + [ctypes.c_int64], ctypes.c_double
    else:
        function.restype = None
    return function


@cache
def _room(n: int) -> int:
    compiled = library()
    assert compiled is not None
    room = compiled["translation_room_float"]
    room.argtypes, room.restype = [ctypes.c_int64], ctypes.c_int64
    return int(room(n))


@cache
def _numbers(values: tuple[float, ...]) -> Any:
    return (ctypes.c_double * len(values))(*values)


def can_be_compiled(x: Tensor) -> bool:
    """Whether the functions serve a tensor: real, on a CPU, and in an installation that has them."""
    return x.dtype in _NAMES and x.device.type == "cpu" and library() is not None


def halve_and_square(c: Tensor, n: int) -> tuple[Tensor, Tensor, float]:
    """Return ``B``, half of the matrix with the coordinates, memory that has its square, and the norm of that."""
    work, B, c = c.new_empty(_room(n)), c.new_empty(n, n), c.contiguous()
    size = _function("halve_and_square", c.dtype)(c.data_ptr(), B.data_ptr(), work.data_ptr(), n)
    return B, work, float(size)


def translate(
    x: Tensor, B: Tensor, work: Tensor, polynomials: Polynomials, *, twice: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``W``, ``M`` and ``F^T`` for ``F = even + odd``: ``x F`` and ``x + x F``, or ``x F F`` and ``x F``."""
    n = x.shape[-1]
    W, M, Ft = (x.new_empty(n, n) for _ in range(3))
    x = x.contiguous()
    even, odd, shared = polynomials
    tensors = (t.data_ptr() for t in (x, B, W, M, Ft, work))
    sizes = n, len(even) - 1, len(odd) - 1, shared, twice
    struct = _Translation(*sizes, *tensors, _numbers(tuple(even)), _numbers(tuple(odd)))
    _function("translate", x.dtype)(ctypes.byref(struct))
    return W, M, Ft


def adjoint_of_cayley(g: Tensor, c: Tensor, M: Tensor, Ft: Tensor) -> Tensor:
    """Return the coordinates of ``M^T g (I + F^T) / 4``."""
    return _adjoint("adjoint_of_cayley", g, c, M, Ft, (0.0,))


def adjoint_of_exponential(g: Tensor, c: Tensor, M: Tensor, Ft: Tensor, terms: Sequence[float]) -> Tensor:
    """Return the coordinates of the polynomial in ``ad_B^2`` with these coefficients, of ``skew(M^T g F^T)``."""
    return _adjoint("adjoint_of_exponential", g, c, M, Ft, tuple(terms))


def _adjoint(name: str, g: Tensor, c: Tensor, M: Tensor, Ft: Tensor, terms: tuple[float, ...]) -> Tensor:
    n, g, c = len(M), g.resolve_neg(), c.contiguous()
    gc, work = c.new_empty(c.shape), c.new_empty(_room(n))
    tensors = (t.data_ptr() for t in (g, c, M, Ft, gc, work))
    struct = _Adjoint(n, *g.stride(), len(terms), *tensors, _numbers(terms))
    _function(name, c.dtype)(ctypes.byref(struct))
    return gc
