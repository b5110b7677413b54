"""Steepest descent in the spectral norm on orthonormal columns: the direction and its geodesic, both in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..linalg import msign, skew
from ..linalg.norms import largest_part, power_of_two_below
from ..linalg.product import multiply

_NOISE = 4.0  # units of rounding of the gradient, times the root of its rows, below which its tangent part is none


class Steepest(NamedTuple):
    r"""The tangent vector :math:`\xi = A x` of spectral norm 1 along which a loss grows fastest.

    With the gradient g of the loss: :math:`K = \operatorname{skew}(g x^H)` and :math:`A = \operatorname{msign}(K)`.
    """

    direction: Tensor  # A x, as `x`, without the part outside of the Lie algebra
    first: Tensor  # A x, as `x`
    second: Tensor  # A^2 x, as `x`
    gain: Tensor  # (..., 1, 1): the inner product of direction and gradient, which is the nuclear norm of K
    rank: Tensor  # (..., 1, 1): how many singular values of K are not 0
    phase: Tensor | None = None  # (..., 1, 1): c, where the Lie algebra has A - ic I in place of A

    def at(self, x: Tensor, angle: float | Tensor) -> Tensor:
        r"""The point at ``angle`` along the geodesic, :math:`e^{tA} x`, exact because :math:`A^3 = -A`."""
        if isinstance(angle, Tensor):
            y = x + angle.sin() * self.first + 2 * (0.5 * angle).sin().square() * self.second
        elif not math.isfinite(angle):
            raise NonFiniteError(
                f"A step along a geodesic needs a finite angle.\nGot {angle}.\nLower the learning rate."
            )
        else:
            y = x + math.sin(angle) * self.first + 2 * math.sin(0.5 * angle) ** 2 * self.second
        return y if self.phase is None else y * torch.exp(-1j * angle * self.phase)


def steepest(x: Tensor, g: Tensor, lie: Callable[[Tensor], Tensor] = skew) -> Steepest:
    """Return the direction of steepest ascent of a loss with gradient ``g`` at a point with orthonormal columns.

    A matrix with many more rows than columns is never multiplied out to the square of its rows: ``K`` is a matrix of
    twice the columns in a basis of ``x`` and the part of ``g`` outside. ``lie`` projects on the Lie algebra of a group.
    """
    n, p = x.shape[-2:]
    scale = power_of_two_below(largest_part(g))
    g = g / torch.where(scale > 0, scale, 1)
    size = torch.linalg.matrix_norm(g, keepdim=True)
    inside = multiply(x.mH, g)
    if n == p:  # from the right, which is a matrix of the same size
        A, K = _sign(inside, size, lie)
        first = multiply(x, A)
        second = multiply(first, A)
    elif n <= 2 * p:
        A, K = _sign(multiply(g, x.mH), size)
        first = multiply(A, x)
        second = multiply(A, first)
    else:
        # of both, so that what is outside is orthogonal to x also where the gradient has nothing there
        Q = torch.linalg.qr(torch.cat([x, g - multiply(x, inside)], -1)).Q[..., p:]
        left = torch.cat([inside, multiply(Q.mH, g)], -2)  # (..., 2p, p)
        A, K = _sign(torch.cat([left, torch.zeros_like(left)], -1), size)
        basis = torch.cat([x, Q], -1)
        first, second = multiply(basis, A[..., :p]), multiply(basis, multiply(A, A[..., :p]))
    gain = (A.conj() * K).real.sum((-2, -1), keepdim=True) * scale
    rank = A.abs().square().sum((-2, -1), keepdim=True)
    if n != p or not A.is_complex():
        return Steepest(first, first, second, gain, rank)
    phase = (A - lie(A)).diagonal(dim1=-2, dim2=-1).imag.mean(-1)[..., None, None]  # of a multiple of the identity
    return Steepest(first - 1j * phase * x, first, second, gain, rank, phase)


def _sign(generator: Tensor, size: Tensor, lie: Callable[[Tensor], Tensor] = skew) -> tuple[Tensor, Tensor]:
    """The sign of the part in the Lie algebra, and that part; 0 where it is rounding error of a gradient of this norm.

    At a stationary point it is rounding error, whose sign would be a full step.
    """
    K = lie(generator)
    unit = _NOISE * K.shape[-1] ** 0.5 * torch.finfo(K.dtype).eps
    K = torch.where(torch.linalg.matrix_norm(K, keepdim=True) > unit * size, K, 0)
    return skew(msign(K)), K
