"""Points of `SPD`: Cholesky factors, ends of steps, and replacements of matrices that are not positive definite."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from .._torch import transform_level
from ..errors import DtypeError, NonFiniteError, OffManifoldError, ShapeError
from ..linalg.checks import on_numbers
from ..linalg.hermitian import hermitian, raised
from ..linalg.norms import largest_part, unit_of
from ..linalg.precision import double, full_precision, may_read_device, without_autocast

_P = ParamSpec("_P")
_R = TypeVar("_R")

_HALF = (torch.float16, torch.bfloat16)
_INSIDE = 4.0  # eigenvalues above this many roundings, times the size and the norm, are positive


def rounded_once(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a method that returns a point without autocast, and without converting half precision to float32.

    `full_precision` would convert it, and in float32 another set of matrices is positive definite.
    """
    widened = full_precision(method)

    @functools.wraps(method)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        x = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        if x is None or x.dtype not in _HALF:
            return widened(*args, **kwargs)
        with without_autocast(x):
            return method(*args, **kwargs)

    return guarded


def as_time(t: float | Tensor, batch: torch.Size) -> float | Tensor:
    """Return the time on a geodesic in the shape of coordinates; raises unless it is real and fits the batch."""
    if not isinstance(t, Tensor):
        return t
    if t.is_complex():
        raise DtypeError(f"The time on a geodesic must be real.\nGot {t.dtype}.\nPass its real part.")
    if any(a != b and 1 not in (a, b) for a, b in zip(t.shape[::-1], batch[::-1], strict=False)):
        raise ShapeError(
            f"The times on a geodesic must broadcast with the batch of the points.\nExpected {tuple(batch)}, got "
            f"{tuple(t.shape)}.\nReshape one of them."
        )
    return t.to(torch.float64).unsqueeze(-1)


def cholesky(x: Tensor, name: str) -> Tensor:
    """Return the Cholesky factor in double precision; raises `OffManifoldError` if there is none."""
    L, info = torch.linalg.cholesky_ex(hermitian(double(x)))

    def check(info: Tensor) -> None:
        if bool((info != 0).any()):
            raise OffManifoldError(
                f"A point of SPD must be positive definite to working precision.\nExpected {name} to have a Cholesky "
                f"factor, got none for {int((info != 0).sum())} of {info.numel()} matrices.\n"
                "Use projx(x), or double precision if the matrix is ill-conditioned."
            )

    on_numbers(check, info)
    return L


def is_definite(x: Tensor) -> Tensor:
    """Return whether matrices are finite and positive definite, after scaling them so that no entry overflows."""
    scaled = hermitian(double(x / unit_of(x)))
    return x.isfinite().flatten(-2).all(-1) & (torch.linalg.cholesky_ex(scaled).info == 0)


def end_of(factor: Tensor, like: Tensor) -> Tensor:
    """Return the point ``F F^H`` in the dtype of ``like``; raises `NonFiniteError` if it overflows or underflows."""
    x = hermitian(factor @ factor.mH)
    return _rounded(x, like.dtype, "A step on SPD must end at", "Lower the learning rate, or use float64.")


def _rounded(x: Tensor, dtype: torch.dtype, what: str, advice: str) -> Tensor:
    """Return a positive definite matrix in ``dtype``. If rounding makes it indefinite, a multiple of I is added.

    The multiple is the norm of the rounding errors, which bounds how far they move an eigenvalue. The derivative is
    that of rounding, the identity. Raises `NonFiniteError` with ``what`` and ``advice`` if an entry overflows or
    underflows.
    """
    y = x.to(dtype)
    wide, rounded = x.detach(), y.detach().to(x.dtype)
    largest = rounded.diagonal(dim1=-2, dim2=-1).real.amax(-1)[..., None, None]
    own = _INSIDE * x.shape[-1] * torch.finfo(x.dtype).eps * largest  # error of a Cholesky factor in double precision
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    definite = is_definite(rounded - 0.5 * own * eye)
    if may_read_device() and transform_level() is None and bool(definite.all()):
        return y
    lift = torch.linalg.matrix_norm(wide - rounded, keepdim=True) + 2 * torch.finfo(dtype).eps * largest + own
    y = torch.where(definite[..., None, None], y, (x + lift * eye).to(dtype))

    def check(y: Tensor) -> None:
        bad = ~is_definite(y)
        if bool(bad.any()):
            largest = float(largest_part(y).nan_to_num(torch.inf).max())
            raise NonFiniteError(
                f"{what} a matrix with entries in the range of {dtype}.\n"
                f"Got {int(bad.sum())} of {bad.numel()} that overflow or underflow; the largest is {largest:.3g}.\n"
                f"{advice}"
            )

    on_numbers(check, y)
    return y


def raised_to_positive(x: Tensor) -> Tensor:
    """Return the Hermitian part; if it is not positive definite, its small eigenvalues are raised."""
    wide = double(x)
    scale = unit_of(wide)
    symmetric = hermitian(wide / scale)
    size = torch.linalg.matrix_norm(symmetric.detach(), 2, keepdim=True)

    def check(size: Tensor) -> None:
        if size.numel() and not float(size.min()) > 0:
            raise OffManifoldError(
                "A matrix whose Hermitian part is 0 has no positive definite matrix near it.\n"
                'Expected another matrix, got 0 or a skew-Hermitian one.\nPass init="haar" to constrain.'
            )

    on_numbers(check, size)
    unit = torch.finfo(x.dtype).eps
    smallest = torch.linalg.eigvalsh(symmetric.detach())[..., :1, None]
    moved = raised(symmetric / size, unit**0.5) * size
    inside = smallest > _INSIDE * x.shape[-1] * unit * size
    y = hermitian(torch.where(inside, symmetric, moved)) * scale
    return _rounded(y, x.dtype, "The projection on SPD must be", "Rescale the matrix.")
