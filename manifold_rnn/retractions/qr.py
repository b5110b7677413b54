"""The QR retraction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..linalg.checks import TooFar, require_length
from ..linalg.defect import plus_identity
from ..linalg.logarithm import inverse_qr
from ..linalg.lu import solve
from ..linalg.plane import along_projection, tangent_of
from ..linalg.precision import double
from ..linalg.product import multiply_add
from ..linalg.qr import near_factor, qr
from ..linalg.skew import skew
from ..linalg.subspaces import require_distinct_geodesic
from .base import Retraction, require_far_step, tangent


@dataclass(frozen=True)
class QR(Retraction):
    r"""The QR retraction: the orthonormal factor of ``x + u``.

    .. math:: \phi(A) = Q, \quad I + A = QR, \quad R_{ii} > 0.

    The general form is :math:`R_x(u) = Q` with :math:`x + u = QR`, also with more rows than columns. The order is 1. It
    removes the rounding drift of ``x`` at no cost. The inverse solves one triangular system per column. Source: Absil,
    Mahony and Sepulchre (2008), example 4.1.3.

    Examples
    --------
    >>> qr, A = mr.retractions.QR(), mr.linalg.skew(torch.randn(3, 3, dtype=torch.float64))
    >>> assert torch.allclose(qr.inverse_group_map(qr.group_map(A)), A)
    """

    name: ClassVar[str] = "qr"
    reversible = False
    self_correcting: ClassVar[bool] = True
    orders: ClassVar[dict[str, int]] = {"group": 1, "canonical": 1, "euclidean": 1, "sphere": 2, "grassmann": 1}

    def plane_rotation(self, square: Tensor) -> tuple[Tensor, Tensor]:
        return along_projection(square)

    def plane_length(self, angle: Tensor) -> Tensor:
        return tangent_of(angle, "QR")

    def group_map(self, A: Tensor) -> Tensor:
        A = skew(A)
        try:
            return near_factor(plus_identity(A))
        except TooFar:
            require_length(A, "The QR retraction")
            return qr(plus_identity(double(A)))[0].to(A.dtype)

    def inverse_group_map(self, Q: Tensor) -> Tensor:
        return inverse_qr(Q)

    def translate(self, x: Tensor, A: Tensor) -> Tensor:
        try:
            return near_factor(multiply_add(x, x, A, beta=1, alpha=1))
        except TooFar:
            require_far_step(x, A, "The QR retraction")
            return qr(double(x) @ plus_identity(double(A)))[0].to(x.dtype)

    def inverse_subspace(self, x: Tensor, y: Tensor) -> Tensor:
        require_distinct_geodesic(x, y, "The inverse of the qr retraction")
        return solve(x.mH @ y, y, left=False) - x

    def retract_tall(self, x: Tensor, u: Tensor) -> Tensor:
        try:
            return near_factor(x + u)
        except TooFar:
            require_far_step(x, u, "The QR retraction")
            wide = double(x)
            return qr(wide + tangent(wide, double(u)))[0].to(x.dtype)

    def inverse_tall(self, x: Tensor, y: Tensor) -> Tensor:
        xy = x.mH @ y
        sum_ = inverse_qr(xy) + torch.eye(xy.shape[-1], dtype=xy.dtype, device=xy.device)  # x^H (x + u) = x^H y R
        return y @ solve(xy, sum_) - x
