"""The product of a point with a map of a skew-symmetric matrix in coordinates, and its adjoints. Each is one call.

The functions take one real matrix each and record no gradients. `linalg.translation` decides when to use them.
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
    """The struct `Translation` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "even_degree", "odd_degree", "shared", "twice")),
        *((name, ctypes.c_void_p) for name in ("x", "W", "M", "Ft", "work")),
        *((name, _Numbers) for name in ("even", "odd")),
    )


class _Adjoint(ctypes.Structure):
    """The struct `Adjoint` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "down", "right", "count")),
        *((name, ctypes.c_void_p) for name in ("g", "c", "M", "Ft", "gc", "work")),
        ("terms", _Numbers),
    )


class Polynomials(NamedTuple):
    """The coefficients of an even polynomial in ``B`` (of powers of ``B^2``) and of an odd one (of those times ``B``).

    The even one has a degree of at least 1. If ``shared``, the two differ only in their first coefficient.
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
    """The buffer of a thread. It is reused, because new memory at each call would miss the processor's caches."""

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
    """Return the tensor with adjacent numbers in memory. The caller must keep it alive while it uses its address."""
    if x.is_contiguous() and x.dtype == dtype and not x.is_neg():  # three checks cost less than three calls
        return x
    return x.to(dtype).resolve_neg().contiguous()


def can_be_compiled(x: Tensor) -> bool:
    """Return whether the functions can take a tensor: a real one on a CPU, if the library is installed."""
    return x.dtype in _NAMES and x.device.type == "cpu" and library() is not None


def halve_and_square(c: Tensor, n: int) -> float:
    """Store half of the matrix with these coordinates, and its square, for `translate`. Return the square's norm."""
    c = _dense(c, c.dtype)
    return float(_function("halve_and_square", c.dtype)(c.data_ptr(), _memory(n, c.dtype).data_ptr(), n))


def translate(x: Tensor, polynomials: Polynomials, *, twice: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``W``, ``M`` and ``F^T`` for ``F = even + odd``.

    ``W`` and ``M`` are ``x F`` and ``x + x F``; if ``twice``, they are ``x F F`` and ``x F``. The polynomials are
    evaluated at the matrix that this thread last passed to `halve_and_square`.
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
    """Return the coordinates of ``p(ad_B^2) skew(M^T g F^T)``, where ``terms`` are the coefficients of ``p``."""
    return _adjoint("adjoint_of_exponential", g, c, M, Ft, terms)


def _adjoint(name: str, g: Tensor, c: Tensor, M: Tensor, Ft: Tensor, terms: tuple[float, ...]) -> Tensor:
    n, dtype, g = len(M), g.dtype, g.resolve_neg()
    c, M, Ft = _dense(c, dtype), _dense(M, dtype), _dense(Ft, dtype)  # hooks on saved tensors may change the strides
    gc = torch.empty_like(c)
    pointers = g.data_ptr(), c.data_ptr(), M.data_ptr(), Ft.data_ptr(), gc.data_ptr(), _memory(n, dtype).data_ptr()
    struct = _Adjoint(n, *g.stride(), len(terms), *pointers, _numbers(terms))
    _function(name, dtype)(ctypes.byref(struct))
    return gc
