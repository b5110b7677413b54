"""The exponential of a skew-Hermitian matrix, with its own adjoint."""

import math
from typing import Any

import torch
from torch import Tensor

from .orthogonalize import polish
from .precision import full_precision, host_max, may_read_device, without_autocast
from .product import multiply_add
from .skew import skew

_FIXED_SQUARINGS = 12  # where no number may be read from the device: norms up to about 3000 in float32, 900 in float64
_WIDEN_ABOVE = 5  # more squarings than this are done in double: each doubles the rounding error
_RADIUS = {torch.float32: 0.8, torch.float64: 0.65}  # remainder of the Taylor polynomial below the rounding unit


@full_precision
def expm_skew(A: Tensor) -> Tensor:
    r"""Exponential of a skew-Hermitian matrix.

    .. math:: \exp(A) = \bigl(p(2^{-s}A)\bigr)^{2^s}, \qquad p \text{ a Taylor polynomial}.

    The gradient is not that of these steps but the exact adjoint, whose every step is an average of isometries:

    .. math::
        \frac{\partial L}{\partial A} = \varphi(\operatorname{ad}_A)\operatorname{skew}(W^H G), \quad
        \varphi(z) = \frac{e^z - 1}{z}, \quad \varphi(2z) = \tfrac12 (e^z + 1)\,\varphi(z), \quad
        e^{\operatorname{ad}_B} K = e^B K e^{-B}.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        Real or complex; its skew-Hermitian part is used.

    Returns
    -------
    Tensor, shape (..., n, n)
        Special orthogonal (real) or unitary (complex).

    Raises
    ------
    ShapeError, DtypeError
        If ``A`` is not a batch of square matrices of floating point.

    Notes
    -----
    About 2 to 10 matrix products forward and 5 to 25 backward, growing with the norm; norms above about 25 in single
    precision are computed in double. Where no number may be read from the device (compiled code, `fixed_iterations`)
    12 squarings are always made, and a norm beyond their reach gives NaN. Source: Higham (2005) for scaling and
    squaring, Higham (2008) chapter 10 for the derivative.

    Examples
    --------
    >>> W = mr.linalg.expm_skew(torch.tensor([[0.0, -torch.pi], [torch.pi, 0.0]]))
    >>> assert torch.allclose(W, -torch.eye(2), atol=1e-6)
    """
    W: Tensor = _Expm.apply(skew(A))[0]
    return W


class _Expm(torch.autograd.Function):
    """``A -> (exp A, B = 2^-s A, |B|, s, exp B, exp 2B, ...)``; all but the first are kept for the adjoint."""

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, ...]:
        B, bound, squarings, powers = _powers(A)
        W = powers[-1]
        if W.dtype in (torch.float32, torch.complex64) and len(powers) > 2:
            W = polish(W)  # every squaring doubles the defect; one step removes it
        return W.to(A.dtype, copy=True), B, bound, squarings, *powers[:-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Tensor | None:
        if g is None:
            return None
        A, *kept = ctx.saved_tensors
        result: Tensor = _Adjoint.apply(A, g, *(t.detach() for t in kept))
        return result

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], A: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        out = _Expm.apply(A.movedim(in_dims[0], 0))
        return out, (0,) * len(out)


class _Adjoint(torch.autograd.Function):
    """``(A, G) -> dL/dA``, given what the exponential kept."""

    @staticmethod
    def forward(A: Tensor, G: Tensor, W: Tensor, B: Tensor, bound: Tensor, s: Tensor, *powers: Tensor) -> Tensor:
        with without_autocast(A):
            K = _phi_ad(B, skew(W.mH @ G).to(B.dtype), _largest(bound))
            for k, E in enumerate(powers):
                K = _where_due(s, k, multiply_add(K, E @ K, E.mH, beta=0.5, alpha=0.5), K)
            return skew(K).to(A.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, G = ctx.saved_tensors
        with without_autocast(A):  # second derivatives are rare: the block formula, differentiated by torch
            dA, dG = torch.func.vjp(adjoint_by_block_exponential, A, G)[1](g)
        return dA, dG, *(None for _ in ctx.needs_input_grad[2:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        size = info.batch_size
        front = [a.expand(size, *a.shape) if d is None else a.movedim(d, 0) for a, d in zip(args, in_dims, strict=True)]
        result: Tensor = _Adjoint.apply(*front)
        return result, 0


def adjoint_by_block_exponential(A: Tensor, G: Tensor) -> Tensor:
    r"""The same adjoint by one exponential of twice the size, the naive reference: the upper right block of
    :math:`\exp\begin{pmatrix} A^H & G \\ 0 & A^H \end{pmatrix}`, made skew-Hermitian."""
    n = A.shape[-1]
    upper = torch.cat([A.mH, G], -1)
    lower = torch.cat([torch.zeros_like(G), A.mH], -1)
    return skew(torch.linalg.matrix_exp(torch.cat([upper, lower], -2))[..., :n, n:])


def _powers(A: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """``B = 2^-s A``, a bound of its norm, the ``s`` of every matrix, and ``exp(B), exp(2B), ..., exp(A)``."""
    A2 = A @ A
    bound = torch.linalg.matrix_norm(A2, keepdim=True).sqrt()  # |A|^2 = |A^2| for a normal A
    if not A.is_complex():
        bound = bound * 0.5**0.25  # eigenvalues come in pairs
    squarings = torch.ceil(torch.log2(bound / _RADIUS[bound.dtype])).nan_to_num(0.0, 0.0, 0.0).clamp(0, 60)
    most = int(host_max(squarings)) if may_read_device() else _FIXED_SQUARINGS
    if most > _WIDEN_ABOVE and bound.dtype == torch.float32 and may_read_device():
        return _powers(A.to(torch.complex128 if A.is_complex() else torch.float64))
    if not may_read_device():
        A = torch.where(squarings > most, torch.nan, A)
    scale = torch.exp2(-squarings)
    bound = bound * scale
    powers = [_taylor(A * scale, A2 * scale.square(), _largest(bound))]
    for k in range(most):
        E = powers[-1]
        powers.append(_where_due(squarings, k, E @ E, E))
    return A * scale, bound, squarings, powers


def _largest(bound: Tensor) -> float:
    return min(host_max(bound), _RADIUS[bound.dtype]) if may_read_device() else _RADIUS[bound.dtype]


def _where_due(squarings: Tensor, k: int, doubled: Tensor, kept: Tensor) -> Tensor:
    """One matrix is doubled as often as it needs; in a batch the small ones wait for the large."""
    alone = squarings.numel() == 1 and may_read_device()
    return doubled if alone else torch.where(squarings > k, doubled, kept)


def _taylor(B: Tensor, B2: Tensor, radius: float) -> Tensor:
    """Taylor polynomial of degree 4, 9 or 15, by the scheme of Paterson and Stockmeyer (1973) with blocks of three."""
    single = B.dtype in (torch.float32, torch.complex64)
    if single and radius < 0.064:
        return _plus_identity(multiply_add(B + 0.5 * B2, B2, torch.add(B * (1 / 6), B2, alpha=1 / 24), beta=1, alpha=1), 1)
    B3 = B2 @ B
    degree = 9 if single else 15
    c = [1 / math.factorial(k) for k in range(degree + 1)]
    P = c[degree] * B3
    for k in range(degree - 3, -1, -3):
        P = _plus_identity(P.add_(B, alpha=c[k + 1]).add_(B2, alpha=c[k + 2]), c[k])
        P = P @ B3 if k else P
    return P


def _plus_identity(P: Tensor, c: float) -> Tensor:
    P.diagonal(dim1=-2, dim2=-1).add_(c)
    return P


def _phi_ad(B: Tensor, H: Tensor, radius: float) -> Tensor:
    """``phi(ad_B) H`` by its Taylor series: one product a term, since ``[B, K] = BK - (BK)^H`` for skew-Hermitian B, K."""
    unit = torch.finfo(B.dtype).eps / 2
    K, term = H.clone(), H
    remainder, k = 2 * radius / 2, 1  # |ad_B| <= 2 |B|
    while remainder > unit:
        product = B @ term
        k += 1
        term = torch.sub(product, product.mH).div_(k)
        K.add_(term)
        remainder *= 2 * radius / (k + 1)
    return K
