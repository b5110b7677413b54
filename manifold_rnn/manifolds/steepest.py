"""Steepest descent in the spectral norm on orthonormal columns: the direction and its geodesic, both in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._torch import transform_level
from ..errors import NonFiniteError
from ..linalg import cayley, msign, skew
from ..linalg.norms import largest_part, power_of_two_below
from ..linalg.precision import host_max, may_read_device
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
    generator: Tensor  # A: (..., n, n), from the right if x is square, or (..., 2p, 2p) in `basis`
    basis: Tensor | None = None  # (..., n, 2p): x, and what is beside it
    phase: Tensor | None = None  # (..., 1, 1): c, where the Lie algebra has A - ic I in place of A

    def at(self, x: Tensor, angle: float | Tensor) -> Tensor:
        r"""The point at ``angle`` along the geodesic, :math:`e^{tA} x`, up to one step of polishing.

        It has a closed form where :math:`A^3 = -A`. A singular value of ``K`` that is small enough leaves one of ``A``
        between 0 and 1; where that matters, ``A`` is replaced by :math:`\tfrac4t \arctan(\tan(\tfrac t4) A)`, which
        differs from it there alone and whose exponential is a Cayley transform, squared.
        """
        if isinstance(angle, Tensor):
            angle = angle.to(x.real.dtype)  # so that the squares of its sine and cosine add up to 1
        elif not math.isfinite(angle):
            raise NonFiniteError(
                f"A step along a geodesic needs a finite angle.\nGot {angle}.\nLower the learning rate."
            )
        if not has_closed_form(angle, self.first, self.second):
            t = torch.as_tensor(angle, dtype=x.real.dtype, device=x.device)
            y = self._rotated(x, cayley(2 * quarter_tangent(t) * self.generator))
        elif isinstance(angle, Tensor):
            y = x + angle.sin() * self.first + 2 * (0.5 * angle).sin().square() * self.second
        else:
            y = x + math.sin(angle) * self.first + 2 * math.sin(0.5 * angle) ** 2 * self.second
        return y if self.phase is None else y * torch.exp(-1j * angle * self.phase)

    def _rotated(self, x: Tensor, Q: Tensor) -> Tensor:
        """Rotate by Q twice."""
        if self.basis is not None:
            return multiply(self.basis, multiply(Q, Q[..., : x.shape[-1]]))
        return multiply(multiply(x, Q), Q) if x.shape[-1] == x.shape[-2] else multiply(Q, multiply(Q, x))


def has_closed_form(angle: float | Tensor, first: Tensor, second: Tensor) -> bool:
    r"""Whether a rotation by ``angle`` in the planes of a partial isometry A is on the manifold once it is polished.

    With the singular values s of A, the columns of :math:`y = x + \sin(t) Ax + (1 - \cos t) A^2 x` are orthonormal up
    to :math:`(1 - \cos t)^2 s^2 (1 - s^2)`, whose sum is a difference of norms. One step of polishing squares it. Where
    no number may be read from the device, a small ``angle`` alone can say so.
    """
    enough = torch.finfo(first.dtype).eps ** 0.5
    if not isinstance(angle, Tensor):
        square = 4 * math.sin(0.5 * angle) ** 4
        if 0.25 * square <= enough:  # the largest value of s^2 (1 - s^2)
            return True
    if not may_read_device() or transform_level() is not None:
        return False
    if isinstance(angle, Tensor):
        square = 4 * host_max((0.5 * angle).sin().abs()) ** 4
    excess = torch.linalg.matrix_norm(first.detach()).square() - torch.linalg.matrix_norm(second.detach()).square()
    return square * host_max(excess.nan_to_num(0.0)) <= enough


def quarter_tangent(angle: Tensor) -> Tensor:
    """The tangent of a quarter of an angle, of which whole turns are taken out."""
    return (0.25 * torch.remainder(angle + math.pi, 2 * math.pi) - 0.25 * math.pi).tan()


def steepest(x: Tensor, g: Tensor, lie: Callable[[Tensor], Tensor] = skew) -> Steepest:
    """Return the direction of steepest ascent of a loss with gradient ``g`` at a point with orthonormal columns.

    A matrix with many more rows than columns is never multiplied out to the square of its rows: ``K`` is a matrix of
    twice the columns in a basis of ``x`` and the part of ``g`` outside. ``lie`` projects on the Lie algebra of a group.
    """
    n, p = x.shape[-2:]
    basis = None
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
        return Steepest(first, first, second, gain, rank, A, basis)
    phase = (A - lie(A)).diagonal(dim1=-2, dim2=-1).imag.mean(-1)[..., None, None]  # of a multiple of the identity
    return Steepest(first - 1j * phase * x, first, second, gain, rank, A, basis, phase)


def _sign(generator: Tensor, size: Tensor, lie: Callable[[Tensor], Tensor] = skew) -> tuple[Tensor, Tensor]:
    """The sign of the part in the Lie algebra, and that part; 0 where it is rounding error of a gradient of this norm.

    At a stationary point it is rounding error, whose sign would be a full step.
    """
    K = lie(generator)
    unit = _NOISE * K.shape[-1] ** 0.5 * torch.finfo(K.dtype).eps
    K = torch.where(torch.linalg.matrix_norm(K, keepdim=True) > unit * size, K, 0)
    return skew(msign(K)), K
