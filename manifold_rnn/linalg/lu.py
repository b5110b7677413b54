"""Inverses, solutions and determinants of batches by LU factorizations.

With several threads on a CPU, torch factorizes the matrices of a batch in parallel. From about 150 rows on, oneMKL
fails there (https://github.com/pytorch/pytorch/issues/141358). Results are wrong, the call raises an error about
pivots, or it does not return. This module factorizes such matrices one after the other, also inside `torch.vmap`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._torch import is_forward_mode, is_transformed
from .precision import applied

_BATCHED_UP_TO = 128  # rows of matrices that torch may factorize in parallel


def inverse(A: Tensor) -> Tensor:
    """Return the inverse, with NaN or infinity for a singular matrix."""
    return inverse_ex(A)[0]


def inverse_ex(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverse, and for each matrix a number that is 0 if it exists."""
    inverse, info = applied(_Inverse, A) if _is_mapped(A) else _Inverse.forward(A)
    return inverse, info


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """Return ``A^-1 B`` or ``B A^-1``.

    Forward mode, where torch's second derivative is wrong, and large matrices in `torch.vmap` take the inverse.
    """
    if _is_mapped(A) or (not torch.compiler.is_compiling() and is_forward_mode()):
        return inverse(A) @ B if left else B @ inverse(A)
    return _each(lambda A, B: (torch.linalg.solve_ex(A, B, left=left)[0],), A, B)[0]


def slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sign of the determinant, and the logarithm of its modulus."""
    sign, logarithm = applied(_Slogdet, A) if _is_mapped(A) else _Slogdet.forward(A)
    return sign, logarithm


def lu_factor(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors and the pivots as `lu_solve` takes them; a singular matrix has a pivot of 0.

    Call both in custom functions with a rule for `torch.vmap` only, which see the whole batch.
    """
    LU, pivots = _each(lambda A: tuple(torch.linalg.lu_factor_ex(A))[:2], A)
    return LU, pivots


def lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, *, adjoint: bool = False) -> Tensor:
    """Return ``A^-1 B``, or ``A^-H B``, from the factors of ``A``."""
    return _each(
        lambda LU, p, B: (torch.linalg.lu_solve(LU, p[..., 0], B, adjoint=adjoint),), LU, pivots[..., None], B
    )[0]


def _each(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Call a function of matrices with whole batches where torch serves, and else with one matrix after the other."""
    A = tensors[0]
    if A.device.type != "cpu" or A.ndim == 2 or A.shape[-1] <= _BATCHED_UP_TO or not _has_threads():
        return function(*tensors)
    batch = torch.broadcast_shapes(*(X.shape[:-2] for X in tensors))
    count = math.prod(batch)
    if count < 2:
        return function(*tensors)
    flat = (X.expand(*batch, *X.shape[-2:]).reshape(count, *X.shape[-2:]).unbind() for X in tensors)
    results = zip(*(function(*matrices) for matrices in zip(*flat, strict=True)), strict=True)
    return tuple(torch.stack(parts).reshape(*batch, *parts[0].shape) for parts in results)


def _has_threads() -> bool:
    return torch.compiler.is_compiling() or torch.get_num_threads() > 1


def _is_mapped(A: Tensor) -> bool:
    """Return whether a transform may hide a batch of large matrices, as `torch.vmap` does."""
    if torch.compiler.is_compiling() or A.device.type != "cpu" or A.shape[-1] <= _BATCHED_UP_TO:
        return False
    return is_transformed() and _has_threads()


class _Inverse(torch.autograd.Function):
    """The inverse, which sees the whole batch that `torch.vmap` hides."""

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor]:
        inverse, info = _each(lambda A: tuple(torch.linalg.inv_ex(A)), A)
        return inverse, info

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: None) -> Tensor:
        (W,) = ctx.saved_tensors
        return -(W.mH @ g @ W.mH)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], A: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return inverse_ex(A.movedim(in_dims[0], 0)), (0, 0)


class _Slogdet(torch.autograd.Function):
    """The determinant, which sees the whole batch that `torch.vmap` hides."""

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor]:
        sign, logarithm = _each(lambda A: tuple(torch.linalg.slogdet(A)), A)
        return sign, logarithm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, g_sign: Tensor, g: Tensor) -> Tensor:
        A, sign = ctx.saved_tensors
        slope = torch.complex(g, (g_sign * sign.conj()).imag) if A.is_complex() else g  # of log det A
        return slope[..., None, None] * inverse(A).mH

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], A: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return slogdet(A.movedim(in_dims[0], 0)), (0, 0)
