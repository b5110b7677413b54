"""Points of `SPD`: their Cholesky factors, the ends of steps, and what stands for a matrix that is not one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from ..errors import DtypeError, NonFiniteError, OffManifoldError, ShapeError
from ..linalg.checks import on_numbers
from ..linalg.hermitian import hermitian, raised
from ..linalg.norms import largest_part, power_of_two_below
from ..linalg.precision import double, full_precision, without_autocast

_P = ParamSpec("_P")
_R = TypeVar("_R")

_HALF = (torch.float16, torch.bfloat16)
_INSIDE = 4.0  # roundings times the size, as a part of the largest eigenvalue, from which the smallest is positive


def rounded_once(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a method that ends at a point with autocast off, and with a half precision point as it is.

    `full_precision` would pass it in float32, where another set of matrices is positive definite.
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
    """Return the time on a geodesic as it multiplies coordinates; raises unless it is real and fits the batch."""
    if not isinstance(t, Tensor):
        return t
    if t.is_complex():
        raise DtypeError(f"The time on a geodesic is real.\nGot {t.dtype}.\nPass its real part.")
    if any(a != b and 1 not in (a, b) for a, b in zip(t.shape[::-1], batch[::-1], strict=False)):
        raise ShapeError(
            f"The times on a geodesic broadcast with the batch of the points.\nExpected {tuple(batch)}, got "
            f"{tuple(t.shape)}.\nReshape one of them."
        )
    return t.to(torch.float64).unsqueeze(-1)


def cholesky(x: Tensor, name: str) -> Tensor:
    """Return the Cholesky factor in double precision; raises `OffManifoldError` if there is none."""
    L, info = torch.linalg.cholesky_ex(hermitian(double(x)))

    def check(info: Tensor) -> None:
        if bool((info != 0).any()):
            raise OffManifoldError(
                f"A point of SPD is positive definite to working precision.\nExpected a Cholesky factor of {name}, "
                f"got none for {int((info != 0).sum())} of {info.numel()} matrices.\n"
                "Use projx(x), or double precision if the matrix is ill-conditioned."
            )

    on_numbers(check, info)
    return L


def is_definite(x: Tensor) -> Tensor:
    """Whether matrices are finite and positive definite to working precision, scaled so that no entry overflows."""
    scaled = hermitian(double(x / power_of_two_below(largest_part(x))))
    return x.isfinite().flatten(-2).all(-1) & (torch.linalg.cholesky_ex(scaled).info == 0)


def end_of(factor: Tensor, like: Tensor) -> Tensor:
    """Return the point ``F F^H``; raises `NonFiniteError` if the dtype of ``like`` has no such point."""
    y = hermitian(factor @ factor.mH).to(like.dtype)

    def check(y: Tensor) -> None:
        bad = ~is_definite(y)
        if bool(bad.any()):
            raise NonFiniteError(
                f"A step on SPD ends at a matrix that is positive definite in {like.dtype}.\n"
                f"Got {int(bad.sum())} of {bad.numel()} that overflow, or are singular to working precision.\n"
                "Lower the learning rate, or use float64."
            )

    on_numbers(check, y)
    return y


def raised_to_positive(x: Tensor) -> Tensor:
    """Return the Hermitian part, and where that is not positive definite, it with small eigenvalues raised."""
    wide = double(x)
    scale = power_of_two_below(largest_part(wide))
    symmetric = hermitian(wide / scale)
    size = torch.linalg.matrix_norm(symmetric.detach(), 2, keepdim=True)

    def check(size: Tensor) -> None:
        if size.numel() and not float(size.min()) > 0:
            raise OffManifoldError(
                "A matrix without a Hermitian part has no positive definite matrix near it.\n"
                'Expected another one, got 0 or a skew-Hermitian matrix.\nPass init="haar" to constrain.'
            )

    on_numbers(check, size)
    unit = torch.finfo(x.dtype).eps
    smallest = torch.linalg.eigvalsh(symmetric.detach())[..., :1, None]
    moved = raised(symmetric / size, unit**0.5) * size
    inside = smallest > _INSIDE * x.shape[-1] * unit * size
    return (hermitian(torch.where(inside, symmetric, moved)) * scale).to(x.dtype)
