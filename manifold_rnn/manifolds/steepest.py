"""Steepest descent in the spectral norm on orthonormal columns: the direction and its geodesic, both in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..linalg import msign, skew
from ..linalg.norms import largest_part, power_of_two_below
from ..linalg.product import multiply

_NOISE = 4.0  # units of rounding of the gradient, times the root of its rows, below which its tangent part is none


class Steepest(NamedTuple):
    r"""The tangent vector :math:`\xi = A x` of spectral norm 1 along which a loss grows fastest.

    With the gradient g of the loss: :math:`K = \operatorname{skew}(g x^H)` and :math:`A = \operatorname{msign}(K)`.
    """

    direction: Tensor  # A x, as `x`
    second: Tensor  # A^2 x, as `x`
    gain: Tensor  # (..., 1, 1): the inner product of direction and gradient, which is the nuclear norm of K
    rank: Tensor  # (..., 1, 1): how many singular values of K are not 0

    def at(self, x: Tensor, angle: float | Tensor) -> Tensor:
        r"""The point at ``angle`` along the geodesic, :math:`e^{tA} x`, exact because :math:`A^3 = -A`."""
        if isinstance(angle, Tensor):
            return x + angle.sin() * self.direction + 2 * (0.5 * angle).sin().square() * self.second
        return x + math.sin(angle) * self.direction + 2 * math.sin(0.5 * angle) ** 2 * self.second


def steepest(x: Tensor, g: Tensor) -> Steepest:
    """Return the direction of steepest ascent of a loss with gradient ``g`` at a point with orthonormal columns.

    A matrix with many more rows than columns is never multiplied out to the square of its rows: ``K`` is a matrix of
    twice the columns in a basis of ``x`` and the part of ``g`` outside.
    """
    n, p = x.shape[-2:]
    scale = power_of_two_below(largest_part(g))
    g = g / torch.where(scale > 0, scale, 1)
    size = torch.linalg.matrix_norm(g, keepdim=True)
    inside = multiply(x.mH, g)
    if n == p:  # from the right, which is a matrix of the same size
        A, K = _sign(inside, size)
        direction = multiply(x, A)
        second = multiply(direction, A)
    elif n <= 2 * p:
        A, K = _sign(multiply(g, x.mH), size)
        direction = multiply(A, x)
        second = multiply(A, direction)
    else:
        # of both, so that what is outside is orthogonal to x also where the gradient has nothing there
        Q = torch.linalg.qr(torch.cat([x, g - multiply(x, inside)], -1)).Q[..., p:]
        left = torch.cat([inside, multiply(Q.mH, g)], -2)  # (..., 2p, p)
        A, K = _sign(torch.cat([left, torch.zeros_like(left)], -1), size)
        basis = torch.cat([x, Q], -1)
        direction, second = multiply(basis, A[..., :p]), multiply(basis, multiply(A, A[..., :p]))
    gain = (A.conj() * K).real.sum((-2, -1), keepdim=True) * scale
    return Steepest(direction, second, gain, A.abs().square().sum((-2, -1), keepdim=True))


def _sign(generator: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of the skew-Hermitian part, and that part; 0 where it is rounding error of a gradient of this norm.

    At a stationary point it is rounding error, whose sign would be a full step.
    """
    K = skew(generator)
    unit = _NOISE * K.shape[-1] ** 0.5 * torch.finfo(K.dtype).eps
    K = torch.where(torch.linalg.matrix_norm(K, keepdim=True) > unit * size, K, 0)
    return skew(msign(K)), K
