"""Checks of the arguments of matrix functions: shapes, dtypes, devices and finite entries."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._torch import transform_level
from ..errors import DeviceError, DtypeError, NonFiniteError, ShapeError
from .precision import applied, may_read_device

LONGEST = 2.0**40  # longest tangent vector: beyond it double precision leaves less than four correct digits
_SINGULAR = 4  # rounding units up to which a singular value is 0
_FIND = "Find the first operation that produced them, e.g. with torch.autograd.set_detect_anomaly(True)."


def require_matrix(x: Tensor, name: str, *, tall: bool = False, advice: str = "Reshape or transpose it first.") -> None:
    """Raise `ShapeError` unless the last two axes are a square (or, with ``tall``, tall) matrix of at least one row."""
    n, p = x.shape[-2:] if x.ndim >= 2 else (0, 0)
    if p < 1 or n < p or (n != p and not tall):
        kind = "square or tall" if tall else "square"
        raise ShapeError(
            f"{name} needs {kind} matrices in the last two axes, of at least 1 x 1.\n"
            f"Expected shape (..., n, {'p), n >= p >= 1' if tall else 'n), n >= 1'}; got {tuple(x.shape)}.\n"
            f"{advice}"
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
            f"{name} needs both operands to have one dtype.\n"
            f"Expected {x.dtype}, got {y.dtype}.\nConvert one with .to(dtype)."
        )
    if x.shape[-2:] != y.shape[-2:]:
        raise ShapeError(
            f"{name} needs both operands to have one matrix shape.\n"
            f"Expected (..., {', '.join(map(str, x.shape[-2:]))}), got {tuple(y.shape)}.\n"
            "Check which tensor belongs to which point."
        )
    if any(a != b and 1 not in (a, b) for a, b in zip(x.shape[-3::-1], y.shape[-3::-1], strict=False)):
        raise ShapeError(
            f"{name} needs batch axes that broadcast.\nExpected those of {tuple(x.shape)}, got {tuple(y.shape)}.\n"
            "Expand or reshape one of the two."
        )


def require_finite(x: Tensor, name: str, advice: str = _FIND) -> None:
    """Raise `NonFiniteError`, with advice, if an entry is NaN or infinite. Reads one number from the device."""

    def check(x: Tensor) -> None:
        finite = torch.isfinite(x)
        if not bool(finite.all()):
            raise NonFiniteError(
                f"{name} needs finite entries.\nGot NaN or infinity in {int((~finite).sum())} of {x.numel()} entries, "
                f"shape {tuple(x.shape)}.\n{advice}"
            )

    on_numbers(check, x)


def require_regular(sizes: Tensor, name: str) -> None:
    """Raise `NonFiniteError` in an adjoint if the smallest of these sizes of a matrix is 0 beside the largest."""
    singular = sizes.amin(-1) <= _SINGULAR * torch.finfo(sizes.dtype).eps * sizes.amax(-1)
    require_derivative(singular, name, "at a matrix that is singular to working precision")


def require_derivative(missing: Tensor, name: str, where: str) -> None:
    """Raise `NonFiniteError` in an adjoint if a derivative is missing.

    Nothing is read from other devices: a backward pass there runs in a thread that does not see `fixed_iterations`.
    """

    def check(missing: Tensor) -> None:
        if bool(missing.any()):
            raise NonFiniteError(
                f"{name} has no derivative {where}.\nStart from another matrix, or do not differentiate through it."
            )

    if missing.device.type == "cpu":
        on_numbers(check, missing)


class TooFar(Exception):
    """Raised if a tangent vector is so long that the caller must add it to the point in double precision."""


def require_length(u: Tensor, name: str, longest: float = LONGEST) -> None:
    """Raise `NonFiniteError` unless ``u`` is finite and short enough for a map."""

    def check(u: Tensor) -> None:
        size = float(u.abs().max()) if u.numel() else 0.0
        if not size <= longest:  # NaN included
            raise NonFiniteError(
                f"{name} needs finite matrices with entries of at most {longest:.1e}.\n"
                f"Got {size:.3g}; beyond this bound, rounding errors or overflow leave no correct digit.\n"
                "Lower the learning rate or clip the gradient."
            )

    on_numbers(check, u)


def on_numbers(check: Callable[[Tensor], None], x: Tensor) -> None:
    """Run ``check(x)`` if `may_read_device` allows it. The check may read numbers even under ``vmap``."""
    if may_read_device() and not x.is_meta:
        applied(_OnNumbers, x, check)


def read_number(number: Callable[[Tensor], float], x: Tensor) -> float:
    """Return ``number(x)`` of the whole batch, also under ``vmap``; only call it if `may_read_device`."""
    if transform_level() is None:
        return number(x)
    found: list[float] = []
    on_numbers(lambda whole: found.append(number(whole)), x)
    return found[0]


class _OnNumbers(torch.autograd.Function):
    """Gives a check the whole batch, since ``vmap`` passes the unwrapped tensor to custom functions."""

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
        return applied(_OnNumbers, x.movedim(in_dims[0], 0), check), None
