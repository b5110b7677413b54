"""A point times a map of a skew-symmetric matrix, from its coordinates, and the adjoints, each in one compiled call.

The functions take one real matrix each and record nothing; `linalg.translation` says when they serve.
"""

import ctypes
import threading
from collections.abc import Callable
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
        *((name, ctypes.c_void_p) for name in ("x", "W", "M", "Ft", "work")),
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

    even: tuple[float, ...]
    odd: tuple[float, ...]
    shared: bool


def _function(name: str, dtype: torch.dtype) -> Callable[..., Any]:
    return _function_of(library(), name, dtype)


@cache
def _function_of(compiled: ctypes.CDLL | None, name: str, dtype: torch.dtype) -> Callable[..., Any]:
    assert compiled is not None
    function = compiled[f"{name}_{_NAMES[dtype]}"]
    if name == "halve_and_square":
        function.argtypes, function.restype = [ctypes.c_void_p] * 2 + [ctypes.c_int64], ctypes.c_double
    elif name == "translation_room":
        function.argtypes, function.restype = [ctypes.c_int64], ctypes.c_int64
    else:
        function.restype = None
    return function


class _Thread(threading.local):
    """The memory of a thread, kept since it would be far from the processor if it were new at every call."""

    def __init__(self) -> None:
        self.key: tuple[int, torch.dtype, ctypes.CDLL | None] | None = None
        self.memory = torch.empty(0)


_thread = _Thread()


def _memory(n: int, dtype: torch.dtype) -> Tensor:
    key = n, dtype, library()
    if _thread.key != key:
        room = _function("translation_room", dtype)(n)
        with torch.inference_mode(False):
            _thread.memory = torch.empty(room, dtype=dtype, device="cpu")
        _thread.key = key
    return _thread.memory


@cache
def _numbers(values: tuple[float, ...]) -> Any:
    return (ctypes.c_double * len(values))(*values)


def _dense(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor with its numbers as they are in memory, side by side; the caller holds it while a pointer is used."""
    if x.is_contiguous() and x.dtype == dtype and not x.is_neg():  # three looks cost less than three calls
        return x
    return x.to(dtype).resolve_neg().contiguous()


def can_be_compiled(x: Tensor) -> bool:
    """Whether the functions serve a tensor: real, on a CPU, and in an installation that has them."""
    return x.dtype in _NAMES and x.device.type == "cpu" and library() is not None


def halve_and_square(c: Tensor, n: int) -> float:
    """Leave half of the matrix with the coordinates, and its square, to `translate`; return the norm of the square."""
    c = _dense(c, c.dtype)
    return float(_function("halve_and_square", c.dtype)(c.data_ptr(), _memory(n, c.dtype).data_ptr(), n))


def translate(x: Tensor, polynomials: Polynomials, *, twice: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``W``, ``M`` and ``F^T`` for ``F = even + odd``: ``x F`` and ``x + x F``, or ``x F F`` and ``x F``.

    The polynomials are those of the matrix that this thread gave to `halve_and_square` last.
    """
    n, x = x.shape[-1], _dense(x, x.dtype)
    W, M, Ft = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    even, odd, shared = polynomials
    pointers = x.data_ptr(), W.data_ptr(), M.data_ptr(), Ft.data_ptr(), _memory(n, x.dtype).data_ptr()
    sizes = n, len(even) - 1, len(odd) - 1, shared, twice
    struct = _Translation(*sizes, *pointers, _numbers(even), _numbers(odd))
    _function("translate", x.dtype)(ctypes.byref(struct))
    return W, M, Ft


def adjoint_of_cayley(g: Tensor, c: Tensor, M: Tensor, Ft: Tensor) -> Tensor:
    """Return the coordinates of ``M^T g (I + F^T) / 4``."""
    return _adjoint("adjoint_of_cayley", g, c, M, Ft, (0.0,))


def adjoint_of_exponential(g: Tensor, c: Tensor, M: Tensor, Ft: Tensor, terms: tuple[float, ...]) -> Tensor:
    """Return the coordinates of the polynomial in ``ad_B^2`` with these coefficients, of ``skew(M^T g F^T)``."""
    return _adjoint("adjoint_of_exponential", g, c, M, Ft, terms)


def _adjoint(name: str, g: Tensor, c: Tensor, M: Tensor, Ft: Tensor, terms: tuple[float, ...]) -> Tensor:
    n, dtype, g = len(M), g.dtype, g.resolve_neg()
    c, M, Ft = _dense(c, dtype), _dense(M, dtype), _dense(Ft, dtype)  # hooks on saved tensors may change the layout
    gc = torch.empty_like(c)
    pointers = g.data_ptr(), c.data_ptr(), M.data_ptr(), Ft.data_ptr(), gc.data_ptr(), _memory(n, dtype).data_ptr()
    struct = _Adjoint(n, *g.stride(), len(terms), *pointers, _numbers(terms))
    _function(name, dtype)(ctypes.byref(struct))
    return gc
