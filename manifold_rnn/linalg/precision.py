"""Guards in front of matrix algebra: single precision or better, autocast off, shapes and entries checked."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, NonFiniteError, ShapeError

_P = ParamSpec("_P")
_R = TypeVar("_R")

_HALF = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}
_FULL = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def full_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run ``function`` with autocast off and its tensors in float32 / complex64 or better; cast the results back."""

    @functools.wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        x: Any = args[0] if args else None
        if not isinstance(x, Tensor):
            x = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        if x is None:
            raise DtypeError(
                f"{function.__name__} works on tensors.\n"
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
            f"{function.__name__} works on real or complex floating point tensors.\n"
            f"Expected float32, float64, complex64, complex128 or a half precision, got {half}.\n"
            "Convert with .to(torch.float32) first."
        )
    result: Any = full_precision(function)(*map(_widen, args), **{k: _widen(v) for k, v in kwargs.items()})
    if isinstance(result, Tensor):
        return result.to(half) if result.dtype == _HALF[half] else result  # type: ignore[return-value]
    return tuple(r.to(half) if r.dtype == _HALF[half] else r for r in result)  # type: ignore[return-value]


def _widen(a: Any) -> Any:
    return a.to(_HALF[a.dtype]) if isinstance(a, Tensor) and a.dtype in _HALF else a


def require_matrix(x: Tensor, name: str, *, tall: bool = False) -> None:
    """Raise `ShapeError` unless the last two axes are a square (or, with ``tall``, tall) matrix of at least one row."""
    n, p = x.shape[-2:] if x.ndim >= 2 else (0, 0)
    if p < 1 or n < p or (n != p and not tall):
        kind = "square or tall" if tall else "square"
        raise ShapeError(
            f"{name} needs {kind} matrices in the last two axes, of at least 1 x 1.\n"
            f"Expected shape (..., n, {'p), n >= p >= 1' if tall else 'n), n >= 1'}; got {tuple(x.shape)}.\n"
            "Reshape or transpose it first."
        )


def require_same(x: Tensor, y: Tensor, name: str) -> None:
    """Raise unless two operands share dtype, device and matrix shape (their batch axes must broadcast)."""
    if x.device != y.device:
        raise DeviceError(
            f"{name} needs both operands on one device.\n"
            f"Expected {x.device}, got {y.device}.\nMove one with .to(device)."
        )
    if x.dtype != y.dtype:
        raise DtypeError(
            f"{name} needs both operands of one dtype.\n"
            f"Expected {x.dtype}, got {y.dtype}.\nConvert one with .to(dtype)."
        )
    if x.shape[-2:] != y.shape[-2:]:
        raise ShapeError(
            f"{name} needs both operands of one matrix shape.\n"
            f"Expected (..., {x.shape[-2]}, {x.shape[-1]}), got {tuple(y.shape)}.\n"
            "Check which tensor belongs to which point."
        )
    if any(a != b and 1 not in (a, b) for a, b in zip(x.shape[-3::-1], y.shape[-3::-1], strict=False)):
        raise ShapeError(
            f"{name} needs batch axes that broadcast.\nExpected those of {tuple(x.shape)}, got {tuple(y.shape)}.\n"
            "Expand or reshape one of the two."
        )


def require_finite(x: Tensor, name: str) -> None:
    """Raise `NonFiniteError` if an entry is NaN or infinite; reads one number from the device."""

    def check(x: Tensor) -> None:
        finite = torch.isfinite(x)
        if not bool(finite.all()):
            raise NonFiniteError(
                f"{name} needs finite entries.\n"
                f"Got NaN or infinity in {int((~finite).sum())} of {x.numel()} entries, shape {tuple(x.shape)}.\n"
                "Find the first operation that produced them, e.g. with torch.autograd.set_detect_anomaly(True)."
            )

    on_numbers(check, x)


def on_numbers(check: Callable[[Tensor], None], x: Tensor) -> None:
    """Run ``check(x)``, which may read numbers also where ``vmap`` forbids it; not where `may_read_device` does."""
    if may_read_device() and not x.is_meta:
        _OnNumbers.apply(x, check)


class _OnNumbers(torch.autograd.Function):
    """A custom function is what ``vmap`` hands the unwrapped batch to."""

    @staticmethod
    def forward(x: Tensor, check: Callable[[Tensor], None]) -> Tensor:
        check(x)
        return x.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, check: Callable[[Tensor], None]) -> tuple[Tensor, None]:
        return _OnNumbers.apply(x.movedim(in_dims[0], 0), check), None


def recorded(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply(*args)``; its forward alone where nobody records, as in an optimizer: it saves the dispatch."""
    if not recording():
        return function.forward(*args)
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    # what apply comes to here, but for its look at the signature, which costs as much as a small product
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def recording() -> bool:
    """Whether anybody may ask for a derivative, or transforms the code."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return True
    return torch._C._functorch.maybe_current_level() is not None


def batched(*gradients: Tensor | None) -> bool:
    """Whether `vmap` stands behind a gradient that reaches a backward pass, where it may not be written into."""
    functorch = torch._C._functorch
    kinds = functorch.is_batchedtensor, functorch.is_legacy_batchedtensor  # autograd's own maps make the second
    return any(g is not None and kind(g) for g in gradients for kind in kinds)


def is_watched(*tensors: Tensor) -> bool:
    """Whether somebody looks at every operation on these: a mode, or tensors with a dispatch of their own."""
    own = any(type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__ for t in tensors)
    return own or torch._C._len_torch_dispatch_stack() > 0


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Context in which autocast leaves products alone; an adjoint needs it where ``backward`` runs under autocast."""
    device = autocast_device(x)
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()


def autocast_device(x: Tensor) -> str:
    """What autocast calls the device of ``x``; it knows no meta device."""
    return "cpu" if x.is_meta else x.device.type


_fixed = contextvars.ContextVar("manifold_rnn_fixed_iterations", default=False)


@contextlib.contextmanager
def fixed_iterations() -> Iterator[None]:
    """Within this context no algorithm reads a number from the device: iteration counts are fixed at their safe values.

    For CUDA graph capture (``capturable=True`` in the optimizers). Compiled code behaves so by itself.

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
    """Whether an algorithm may look at a number to choose its iteration count: not while compiling or capturing."""
    return not (torch.compiler.is_compiling() or _fixed.get())


def host_max(x: Tensor) -> float:
    """Largest entry of ``x`` as a Python number, 0 for an empty tensor."""
    return float(x.detach().max()) if x.numel() else 0.0


def largest_norm(x: Tensor) -> float:
    """Largest Frobenius norm in a batch of matrices, as a Python number."""
    if x.numel() == x.shape[-2] * x.shape[-1]:  # one matrix, in one kernel
        return float(torch.linalg.vector_norm(x.detach()))
    return host_max(torch.linalg.matrix_norm(x))


def double(x: Tensor) -> Tensor:
    """``x`` in double precision, for a step that would lose digits in single."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)
