"""The QR retraction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..linalg.defect import plus_identity
from ..linalg.logarithm import inverse_qr
from ..linalg.product import multiply_add, solve
from ..linalg.qr import near_factor
from ..linalg.skew import skew
from .base import Retraction


@dataclass(frozen=True)
class QR(Retraction):
    r"""The QR retraction: the orthonormal factor of ``x + u``.

    .. math:: \phi(A) = Q, \quad I + A = QR, \quad R_{ii} > 0,

    and :math:`R_x(u) = Q` of :math:`x + u = QR`, with more rows than columns as well. Order 1, the cheapest, and it
    removes the drift of ``x`` at no cost. The inverse solves one triangular system a column. Source: Absil, Mahony and
    Sepulchre (2008), example 4.1.3.

    Examples
    --------
    >>> qr, A = mr.retractions.QR(), mr.linalg.skew(torch.randn(3, 3, dtype=torch.float64))
    >>> assert torch.allclose(qr.inverse_group_map(qr.group_map(A)), A)
    """

    name: ClassVar[str] = "qr"
    reversible = False
    self_correcting: ClassVar[bool] = True
    orders: ClassVar[dict[str, int]] = {"group": 1, "canonical": 1, "euclidean": 1}

    def group_map(self, A: Tensor) -> Tensor:
        return near_factor(plus_identity(skew(A)))

    def inverse_group_map(self, Q: Tensor) -> Tensor:
        return inverse_qr(Q)

    def translate(self, x: Tensor, A: Tensor) -> Tensor:
        return near_factor(multiply_add(x, x, A, beta=1, alpha=1))

    def retract_tall(self, x: Tensor, u: Tensor) -> Tensor:
        return near_factor(x + u)

    def inverse_tall(self, x: Tensor, y: Tensor) -> Tensor:
        xy = x.mH @ y
        sum_ = inverse_qr(xy) + torch.eye(xy.shape[-1], dtype=xy.dtype, device=xy.device)  # x^H (x + u) = x^H y R
        return y @ solve(xy, sum_) - x
