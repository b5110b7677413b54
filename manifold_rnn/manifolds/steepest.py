"""Steepest descent in the spectral norm on orthonormal columns: the direction and its geodesic in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._torch import transform_level
from ..errors import NonFiniteError
from ..linalg import cayley, msign, skew
from ..linalg.norms import unit_of
from ..linalg.precision import host_max, may_read_device
from ..linalg.product import multiply

_NOISE = 4.0  # tangent parts below this many roundings of the gradient, times the root of its rows, are zeroed


class Steepest(NamedTuple):
    r"""The tangent vector :math:`\xi = A x` of spectral norm 1 along which a loss increases fastest.

    With the gradient g of the loss: :math:`K = \operatorname{skew}(g x^H)` and :math:`A = \operatorname{msign}(K)`.
    """

    direction: Tensor  # A x, shaped like `x`, without the component outside of the Lie algebra
    first: Tensor  # A x, shaped like `x`
    second: Tensor  # A^2 x, shaped like `x`
    gain: Tensor  # (..., 1, 1): the inner product of direction and gradient, which is the nuclear norm of K
    rank: Tensor  # (..., 1, 1): the number of nonzero singular values of K
    generator: Tensor  # A: (..., n, n), acting from the right if x is square, or (..., 2p, 2p) in `basis`
    basis: Tensor | None = None  # (..., n, 2p): x, and the component of the gradient outside of it
    phase: Tensor | None = None  # (..., 1, 1): c, if the Lie algebra contains A - ic I instead of A

    def at(self, x: Tensor, angle: float | Tensor) -> Tensor:
        r"""Return the point at ``angle`` along the geodesic, :math:`e^{tA} x`, up to one step of polishing.

        The geodesic has a closed form if :math:`A^3 = -A`. A tiny singular value of ``K`` may become one of ``A``
        between 0 and 1. If this matters, ``A`` is replaced by :math:`\tfrac4t \arctan(\tan(\tfrac t4) A)`. This only
        changes singular values between 0 and 1, and its exponential is the square of a Cayley transform.
        """
        if isinstance(angle, Tensor):
            angle = angle.to(x.real.dtype)  # so that the squares of its sine and cosine have sum 1
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
        if self.phase is None:
            return y
        turn = (angle * self.phase.double()).remainder(2 * math.pi)  # in double precision, where no angle overflows
        return y * torch.exp(-1j * turn.to(self.phase.dtype))

    def _rotated(self, x: Tensor, Q: Tensor) -> Tensor:
        """Rotate by Q twice."""
        if self.basis is not None:
            return multiply(self.basis, multiply(Q, Q[..., : x.shape[-1]]))
        return multiply(multiply(x, Q), Q) if x.shape[-1] == x.shape[-2] else multiply(Q, multiply(Q, x))


def has_closed_form(angle: float | Tensor, first: Tensor, second: Tensor) -> bool:
    r"""Return whether polishing corrects a rotation by ``angle`` in the planes of an approximate partial isometry A.

    With the singular values s of A, the columns of :math:`y = x + \sin(t) Ax + (1 - \cos t) A^2 x` are orthonormal up
    to :math:`(1 - \cos t)^2 s^2 (1 - s^2)`. The sum of these is a difference of norms, and one step of polishing
    squares it. If no number may be read from the device, only a small ``angle`` gives the answer True.
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
    """Return the tangent of a quarter of an angle, after removing whole turns."""
    return (0.25 * torch.remainder(angle + math.pi, 2 * math.pi) - 0.25 * math.pi).tan()


def steepest(x: Tensor, g: Tensor, lie: Callable[[Tensor], Tensor] = skew) -> Steepest:
    """Return the direction of steepest ascent of a loss with gradient ``g`` at a point with orthonormal columns.

    For many more rows n than columns p, no n x n matrix is computed: ``K`` is a 2p x 2p matrix in a basis of ``x`` and
    of the component of ``g`` outside. ``lie`` projects onto the Lie algebra of a group.
    """
    n, p = x.shape[-2:]
    basis = None
    scale = unit_of(g)
    g = g / scale
    size = torch.linalg.matrix_norm(g, keepdim=True)
    inside = multiply(x.mH, g)
    if n == p:  # A acts from the right, as a matrix of the same size
        A, K = _sign(inside, size, lie)
        first = multiply(x, A)
        second = multiply(first, A)
    elif n <= 2 * p:
        A, K = _sign(multiply(g, x.mH), size)
        first = multiply(A, x)
        second = multiply(A, first)
    else:
        # factor both, so that the second part is orthogonal to x even if the gradient has no component there
        Q = torch.linalg.qr(torch.cat([x, g - multiply(x, inside)], -1)).Q[..., p:]
        left = torch.cat([inside, multiply(Q.mH, g)], -2)  # (..., 2p, p)
        A, K = _sign(torch.cat([left, torch.zeros_like(left)], -1), size)
        basis = torch.cat([x, Q], -1)
        first, second = multiply(basis, A[..., :p]), multiply(basis, multiply(A, A[..., :p]))
    gain = (A.conj() * K).real.sum((-2, -1), keepdim=True) * scale
    rank = A.abs().square().sum((-2, -1), keepdim=True)
    if n != p or not A.is_complex():
        return Steepest(first, first, second, gain, rank, A, basis)
    phase = (A - lie(A)).diagonal(dim1=-2, dim2=-1).imag.mean(-1)[..., None, None]  # factor of the identity
    return Steepest(first - 1j * phase * x, first, second, gain, rank, A, basis, phase)


def _sign(generator: Tensor, size: Tensor, lie: Callable[[Tensor], Tensor] = skew) -> tuple[Tensor, Tensor]:
    """Return the sign of the part in the Lie algebra, and that part; both are 0 if it is rounding error.

    At a stationary point the part is rounding error, and its sign would be a full step.
    """
    K = lie(generator)
    unit = _NOISE * K.shape[-1] ** 0.5 * torch.finfo(K.dtype).eps
    K = torch.where(torch.linalg.matrix_norm(K, keepdim=True) > unit * size, K, 0)
    return skew(msign(K)), K
