"""Chooses the precision of matrix algebra, and tells whether it may read numbers or must record gradients."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .._torch import apply_function, is_batched, is_forward_mode, is_symbolic, is_watched, transform_level
from ..errors import DtypeError
from .forward_mode import with_forward_mode

_P = ParamSpec("_P")
_R = TypeVar("_R")

_HALF = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}
_FULL = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def full_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run ``function`` without autocast and with tensors in float32, complex64 or better; cast the results back."""

    @functools.wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        x: Any = args[0] if args else None
        if not isinstance(x, Tensor):
            x = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        if x is None:
            raise DtypeError(
                f"{function.__name__} needs tensors.\n"
                f"Got {', '.join(type(a).__name__ for a in args) or 'nothing'}.\n"
                "Convert with torch.as_tensor first."
            )
        if x.dtype not in _FULL:
            return _widened(function, x.dtype, *args, **kwargs)
        if torch.is_autocast_enabled(device := autocast_device(x)):
            with torch.autocast(device, enabled=False):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    return guarded


def _widened(function: Callable[..., _R], half: torch.dtype, *args: Any, **kwargs: Any) -> _R:
    if half not in _HALF:
        raise DtypeError(
            f"{function.__name__} needs real or complex floating point tensors.\n"
            f"Expected float32, float64, complex64, complex128 or a half precision, got {half}.\n"
            "Convert with .to(torch.float32) first."
        )
    result: Any = full_precision(function)(*map(_widen, args), **{k: _widen(v) for k, v in kwargs.items()})
    if isinstance(result, Tensor):
        return result.to(half) if result.dtype == _HALF[half] else result  # type: ignore[return-value]
    return tuple(r.to(half) if r.dtype == _HALF[half] else r for r in result)  # type: ignore[return-value]


def _widen(a: Any) -> Any:
    return a.to(_HALF[a.dtype]) if isinstance(a, Tensor) and a.dtype in _HALF else a


def recorded(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Call ``function.apply(*args)``, or only its forward if nothing records it, which saves the dispatch."""
    return applied(function, *args) if recording() else function.forward(*args)


def applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Call ``function.apply(*args)``, also in forward mode."""
    if not torch.compiler.is_compiling() and is_forward_mode():
        return with_forward_mode(function).apply(*args)
    return apply_function(function, *args)


def recording() -> bool:
    """Return whether a derivative may be requested, or the code is transformed."""
    transformed = torch.compiler.is_compiling() or transform_level() is not None or is_forward_mode()
    return torch.is_grad_enabled() or transformed


def batched(*gradients: Tensor | None) -> bool:
    """Return whether `vmap` produced a gradient that reaches a backward pass; it must not be written in place."""
    if torch.compiler.is_compiling():  # compiled code computes one gradient at a time
        return False
    return any(g is not None and is_batched(g) for g in gradients)


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Return a context without autocast for products; an adjoint needs it where ``backward`` runs under autocast."""
    device = autocast_device(x)
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()


def autocast_device(x: Tensor) -> str:
    """Return autocast's name for the device of ``x``, since autocast does not support the meta device."""
    return "cpu" if x.is_meta else x.device.type


_fixed = contextvars.ContextVar("manifold_rnn_fixed_iterations", default=False)


@contextlib.contextmanager
def fixed_iterations() -> Iterator[None]:
    """Context in which no algorithm reads a number from the device: iteration counts are fixed at safe values.

    Use it for CUDA graph capture (``capturable=True`` in the optimizers). Compiled code always works this way.

    Examples
    --------
    >>> with mr.linalg.fixed_iterations(): W = mr.linalg.expm_skew(torch.zeros(2, 2))
    >>> assert torch.equal(W, torch.eye(2))
    """
    token = _fixed.set(True)
    try:
        yield
    finally:
        _fixed.reset(token)


def may_read_device() -> bool:
    """Return whether an algorithm may read a number to choose its path: not while compiling, capturing or tracing."""
    return not (torch.compiler.is_compiling() or _fixed.get() or is_symbolic())


def is_readable(x: Tensor) -> bool:
    """Return whether reading a number of ``x`` costs almost nothing."""
    return x.device.type == "cpu" and may_read_device() and not is_watched(x)


def host_max(x: Tensor) -> float:
    """Return the largest entry of ``x`` as a Python number, 0 for an empty tensor."""
    return float(x.detach().max()) if x.numel() else 0.0


def largest_norm(x: Tensor) -> float:
    """Return the largest Frobenius norm in a batch of matrices, as a Python number."""
    if x.numel() == x.shape[-2] * x.shape[-1]:  # one matrix takes one kernel
        return float(torch.linalg.vector_norm(x.detach()))
    return host_max(torch.linalg.matrix_norm(x))


def double(x: Tensor) -> Tensor:
    """Return ``x`` in double precision, for a step that would lose digits in single precision."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def at_least_single(x: Tensor) -> Tensor:
    """Return ``x``, with half precision converted to single, since LAPACK and FFT do not support half."""
    return x.to(_HALF.get(x.dtype, x.dtype))


_COMPLEX = {torch.float16: torch.complex32, torch.float32: torch.complex64, torch.float64: torch.complex128}


def complex_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return ``dtype.to_complex()``, which compiled code does not support."""
    return _COMPLEX.get(dtype, dtype)
