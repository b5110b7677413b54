"""Hermitian matrices: their coordinates in an orthonormal basis, and functions of their eigenvalues."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .norms import without_vanishing
from .precision import applied, without_autocast

_NEAR = 1e-2  # relative distance of two eigenvalues below which four terms of a series are exact to rounding
_TOGETHER = 0.1  # the same for three eigenvalues; beyond it a quotient loses at most one digit
_TERMS = 15


def hermitian(x: Tensor) -> Tensor:
    """Return the Hermitian part of square matrices, also if entries are near the largest number."""
    return 0.5 * x + 0.5 * x.mH


def pack_hermitian(A: Tensor, scale: float = math.sqrt(2)) -> Tensor:
    """Return the lower triangle as real numbers, (..., n(n+1)/2), or n^2 if complex, scaled below the diagonal.

    With the default scale, the numbers have the Frobenius norm of the Hermitian matrix.
    """
    i, j = torch.tril_indices(A.shape[-2], A.shape[-1], -1, device=A.device)
    below, diagonal = A[..., i, j] * scale, A.diagonal(dim1=-2, dim2=-1)
    parts = [below.real, below.imag, diagonal.real] if A.is_complex() else [below, diagonal]
    return torch.cat(parts, -1)


def unpack_triangle(c: Tensor, n: int, *, complex_: bool) -> tuple[Tensor, Tensor]:
    """Return the strictly lower matrix, (..., n, n), and the diagonal, (..., n), of such numbers, without scaling."""
    m = n * (n - 1) // 2
    below = torch.complex(c[..., :m], c[..., m : 2 * m]) if complex_ else c[..., :m]
    i, j = torch.tril_indices(n, n, -1, device=c.device)
    flat = below.new_zeros((*c.shape[:-1], n * n)).index_copy(-1, i * n + j, below)
    return flat.unflatten(-1, (n, n)), c[..., -n:]


def unpack_hermitian(c: Tensor, n: int, *, complex_: bool) -> Tensor:
    """Invert `pack_hermitian`."""
    below, diagonal = unpack_triangle(c, n, complex_=complex_)
    return (below + below.mH) * math.sqrt(0.5) + torch.diag_embed(diagonal).to(below.dtype)


def log_gram(K: Tensor) -> Tensor:
    r"""Return :math:`\log(K K^H)` of square matrices of full rank.

    It uses the singular values of ``K``, which have twice the digits of the eigenvalues of the product. First and
    second derivatives are finite also where singular values coincide; third ones need distinct singular values.
    Sources: Higham (2008), theorem 3.11, for the first, and Higham and Relton (2014) for the second.
    """
    result: Tensor = applied(_LogGram, K)[0]
    return result


def raised(x: Tensor, least: float) -> Tensor:
    """Return Hermitian matrices with eigenvalues below ``least`` raised to it. Can be differentiated twice."""
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
            if torch.is_grad_enabled():  # a second derivative is requested
                slope: Tensor = applied(_LogGramSlope, K, g)[0]
                return slope
            return _log_gram_slope(K, g, s, U)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], K: Tensor) -> Any:
        return applied(_LogGram, K.movedim(in_dims[0], 0)), (0, 0, 0)


class _LogGramSlope(torch.autograd.Function):
    """The gradient of `log_gram`: maps ``K`` and the gradient ``g`` of the result to the gradient of ``K``."""

    @staticmethod
    def forward(K: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        U, s, _ = torch.linalg.svd(without_vanishing(K))
        return _log_gram_slope(K, g, s, U), s, U

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, c: Tensor | None, *_: None) -> tuple[Tensor | None, Tensor | None]:
        if c is None:
            return None, None
        K, g, s, U = ctx.saved_tensors
        with without_autocast(K):
            if torch.is_grad_enabled():
                U, s, _ = torch.linalg.svd(K)
            w = s.square()
            G, H = (U.mH @ hermitian(z) @ U for z in (g, 2 * c @ K.mH))
            first, second = _log_difference(*_pairs(w)), _second_log_difference(*_triples(w))
            of_K = 2 * (U @ (G * first) @ (U.mH @ c) + U @ _second_derivative(second, G, H) @ (U.mH @ K))
            return of_K, U @ (H * first) @ U.mH

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], K: Tensor, g: Tensor) -> Any:
        K, g = (
            z.expand(info.batch_size, *z.shape) if d is None else z.movedim(d, 0)
            for z, d in zip((K, g), in_dims, strict=True)
        )
        return applied(_LogGramSlope, K, g), (0, 0, 0)


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
                slope: Tensor = applied(_RaisedSlope, x, g, ctx.least)[0]
                return slope, None
            return _raised_slope(g, w, V, ctx.least), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, least: float) -> Any:
        return applied(_Raised, x.movedim(in_dims[0], 0), least), (0, 0, 0)


class _RaisedSlope(torch.autograd.Function):
    """The gradient of `raised`: maps ``x`` and the gradient ``g`` of the result to the gradient of ``x``."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
        w, V = torch.linalg.eigh(without_vanishing(x))
        return _raised_slope(g, w, V, least), w, V

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:2], *output[1:])
        ctx.least = inputs[2]

    @staticmethod
    def backward(ctx: Any, c: Tensor | None, *_: None) -> tuple[Tensor | None, Tensor | None, None]:
        if c is None:
            return None, None, None
        x, g, w, V = ctx.saved_tensors
        with without_autocast(x):
            if torch.is_grad_enabled():
                w, V = torch.linalg.eigh(x)
            G, H = (V.mH @ hermitian(z) @ V for z in (g, c))
            of_x = V @ _second_derivative(_second_raised_difference(*_triples(w), ctx.least), G, H) @ V.mH
            return of_x, V @ (H * _raised_difference(*_pairs(w), ctx.least)) @ V.mH, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None, None], x: Tensor, g: Tensor, least: float) -> Any:
        x, g = (
            z.expand(info.batch_size, *z.shape) if d is None else z.movedim(d, 0)
            for z, d in zip((x, g), in_dims[:2], strict=True)
        )
        return applied(_RaisedSlope, x, g, least), (0, 0, 0)


def _pairs(w: Tensor) -> tuple[Tensor, Tensor]:
    return w.unsqueeze(-1), w.unsqueeze(-2)


def _triples(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return w[..., :, None, None], w[..., None, :, None], w[..., None, None, :]


def _second_derivative(second: Tensor, G: Tensor, H: Tensor) -> Tensor:
    """Return the second derivative of a matrix function in its eigenvectors, along two Hermitian directions."""
    pairs = G[..., :, :, None] * H[..., None, :, :] + H[..., :, :, None] * G[..., None, :, :]
    return (second * pairs).sum(-2)


def _log_gram_slope(K: Tensor, g: Tensor, s: Tensor, U: Tensor) -> Tensor:
    w = s.square()
    turned = U.mH @ hermitian(g) @ U * _log_difference(*_pairs(w))
    return 2 * (U @ turned @ (U.mH @ K))


def _log_difference(a: Tensor, b: Tensor) -> Tensor:
    """Return the divided difference of the logarithm at two positive numbers."""
    total = a + b
    d = (a - b) / total  # log a - log b = 2 artanh d
    far = d.abs() > _NEAR
    low = torch.minimum(a, b)
    ratio = torch.where(far, (a - b).abs() / low, 1)  # finite also where d rounds to 1, the pole of artanh
    square = torch.where(far, 0, d).square()
    series = 1 + square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square / 9)))
    return torch.where(far, ratio.log1p() / ratio / low, 2 * series / total)


def _second_log_difference(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    r"""Return the second divided difference of the logarithm at three positive numbers.

    For three close numbers with mean ``m``, let :math:`h_j` be the complete symmetric polynomials of the relative
    distances from the mean. Then the result is :math:`-m^{-2} \sum_j (-1)^j h_j / (j + 2)`.
    """
    high, mid, low = _sorted(a, b, c)
    m = (high + mid + low) / 3
    far = high - low > _TOGETHER * m
    gap = torch.where(far, high - low, 1)
    by_quotient = (_log_difference(high, mid) - _log_difference(mid, low)) / gap
    x, y, z = (torch.where(far, 0, (part - m) / m) for part in (high, mid, low))
    e2, e3 = x * y + y * z + z * x, x * y * z  # the sum of x, y and z is 0
    h: list[Tensor] = [torch.ones_like(m), torch.zeros_like(m), -e2]
    for _ in range(_TERMS - 3):
        h.append(-e2 * h[-2] + e3 * h[-3])
    series = sum(((-1) ** j / (j + 2) * part for j, part in enumerate(h)), torch.zeros_like(m))
    return torch.where(far, by_quotient, -series / m.square())


def _raised_slope(g: Tensor, w: Tensor, V: Tensor, least: float) -> Tensor:
    return V @ (V.mH @ hermitian(g) @ V * _raised_difference(*_pairs(w), least)) @ V.mH


def _raised_difference(a: Tensor, b: Tensor, least: float) -> Tensor:
    """Return the divided difference of the maximum of a number and ``least``."""
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    mixed = (high > least) & (low < least)
    slope = (high - least) / torch.where(mixed, high - low, 1)
    return torch.where(mixed, slope, (low >= least).to(a.dtype))


def _second_raised_difference(a: Tensor, b: Tensor, c: Tensor, least: float) -> Tensor:
    """Return the second divided difference of this maximum, 0 unless there are numbers on both sides."""
    high, mid, low = _sorted(a, b, c)
    mixed = (high > least) & (low < least)
    change = _raised_difference(high, mid, least) - _raised_difference(mid, low, least)
    return torch.where(mixed, change / torch.where(mixed, high - low, 1), 0)


def _sorted(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three numbers in descending order."""
    a, b, c = torch.broadcast_tensors(a, b, c)
    high, low = torch.maximum(torch.maximum(a, b), c), torch.minimum(torch.minimum(a, b), c)
    return high, torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c)), low
