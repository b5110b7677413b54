"""Hermitian matrices: their coordinates in an orthonormal basis, and functions of their eigenvalues."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .norms import without_vanishing
from .precision import applied, without_autocast

_NEAR = 1e-2  # of two eigenvalues: below it four terms of a series have every digit


def hermitian(x: Tensor) -> Tensor:
    """The Hermitian part of square matrices, also of entries near the largest number."""
    return 0.5 * x + 0.5 * x.mH


def pack_hermitian(A: Tensor, scale: float = math.sqrt(2)) -> Tensor:
    """The lower triangle in real numbers, (..., n(n+1)/2) or n^2 of complex, those below the diagonal times ``scale``.

    With the default they are as long as the Hermitian matrix in the Frobenius norm.
    """
    i, j = torch.tril_indices(A.shape[-2], A.shape[-1], -1, device=A.device)
    below, diagonal = A[..., i, j] * scale, A.diagonal(dim1=-2, dim2=-1)
    parts = [below.real, below.imag, diagonal.real] if A.is_complex() else [below, diagonal]
    return torch.cat(parts, -1)


def unpack_triangle(c: Tensor, n: int, *, complex_: bool) -> tuple[Tensor, Tensor]:
    """The strictly lower matrix, (..., n, n), and the diagonal, (..., n), of such numbers, as they are."""
    m = n * (n - 1) // 2
    below = torch.complex(c[..., :m], c[..., m : 2 * m]) if complex_ else c[..., :m]
    i, j = torch.tril_indices(n, n, -1, device=c.device)
    flat = below.new_zeros((*c.shape[:-1], n * n)).index_copy(-1, i * n + j, below)
    return flat.unflatten(-1, (n, n)), c[..., -n:]


def unpack_hermitian(c: Tensor, n: int, *, complex_: bool) -> Tensor:
    """The inverse of `pack_hermitian`."""
    below, diagonal = unpack_triangle(c, n, complex_=complex_)
    return (below + below.mH) * math.sqrt(0.5) + torch.diag_embed(diagonal).to(below.dtype)


def log_gram(K: Tensor) -> Tensor:
    r"""Return :math:`\log(K K^H)` of square matrices of full rank.

    By the singular values of ``K``, which have twice the digits of the eigenvalues of the product. The derivative is
    finite also where singular values meet; the derivative of the derivative needs distinct ones.
    """
    result: Tensor = applied(_LogGram, K)[0]
    return result


def raised(x: Tensor, least: float) -> Tensor:
    """Return Hermitian matrices whose eigenvalues below ``least`` are raised to it, with the derivative of that."""
    result: Tensor = applied(_Raised, x, least)[0]
    return result


class _LogGram(torch.autograd.Function):
    @staticmethod
    def forward(K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        U, s, _ = torch.linalg.svd(without_vanishing(K))
        return (U * (2 * s.log()).unsqueeze(-2)) @ U.mH, s, U

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Tensor | None:
        if g is None:
            return None
        K, s, U = ctx.saved_tensors
        with without_autocast(K):
            if torch.is_grad_enabled():  # somebody asks for the derivative of this
                U, s, _ = torch.linalg.svd(K)
            w = s.square()
            turned = U.mH @ hermitian(g) @ U * _log_differences(w)
            return 2 * (U @ turned @ (U.mH @ K))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], K: Tensor) -> Any:
        return applied(_LogGram, K.movedim(in_dims[0], 0)), (0, 0, 0)


class _Raised(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
        w, V = torch.linalg.eigh(without_vanishing(x))
        return (V * w.clamp(min=least).unsqueeze(-2)) @ V.mH, w, V

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], *output[1:])
        ctx.least = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
        if g is None:
            return None, None
        x, w, V = ctx.saved_tensors
        with without_autocast(x):
            if torch.is_grad_enabled():
                w, V = torch.linalg.eigh(x)
            high, low = torch.maximum(w[..., :, None], w[..., None, :]), torch.minimum(w[..., :, None], w[..., None, :])
            mixed = (high > ctx.least) & (low < ctx.least)
            slope = (high - ctx.least) / torch.where(mixed, high - low, 1)
            slope = torch.where(mixed, slope, (low >= ctx.least).to(w.dtype))
            return V @ (V.mH @ hermitian(g) @ V * slope) @ V.mH, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, least: float) -> Any:
        return applied(_Raised, x.movedim(in_dims[0], 0), least), (0, 0, 0)


def _log_differences(w: Tensor) -> Tensor:
    """Divided differences of the logarithm at all pairs of positive numbers."""
    a, b = w.unsqueeze(-1), w.unsqueeze(-2)
    total = a + b
    d = (a - b) / total  # log a - log b = 2 artanh d
    far = d.abs() > _NEAR
    low = torch.minimum(a, b)
    ratio = torch.where(far, (a - b).abs() / low, 1)  # finite where d rounds to 1, the pole of artanh
    square = torch.where(far, 0, d).square()
    series = 1 + square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square / 9)))
    return torch.where(far, ratio.log1p() / ratio / low, 2 * series / total)
