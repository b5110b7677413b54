"""The Cayley retraction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..linalg.cayley import cayley, cayley_tall
from ..linalg.logarithm import inverse_cayley_unchecked, require_no_minus_one
from ..linalg.lu import inverse as inverse_of
from ..linalg.plane import along_cayley
from ..linalg.skew import skew
from ..linalg.translation import Unpack, cayley_coordinates, cayley_times, unpack_at
from .base import Retraction


@dataclass(frozen=True)
class Cayley(Retraction):
    r"""The Cayley retraction.

    .. math:: \phi(A) = (I - \tfrac12 A)^{-1}(I + \tfrac12 A), \qquad \phi^{-1}(Q) = 2 (Q + I)^{-1}(Q - I).

    With more rows than columns it is :math:`\operatorname{cay}(\Omega)x` with the skew-Hermitian
    :math:`\Omega = Pu x^H - x u^H P`, :math:`P = I - \tfrac12 xx^H`. It is computed by a p x p inverse:

    .. math:: R_x(u) = x (2a - I) + u_\perp a, \quad a = (I - \tfrac12 A + \tfrac14 u_\perp^H u_\perp)^{-1}, \quad
        A = x^H u, \quad u_\perp = u - xA.

    The order is 2 on groups. On tall matrices it is 2 for the canonical metric and 1 for the Euclidean metric. The map
    never reaches an eigenvalue -1, and `inverse` raises `OffManifoldError` there. Source: Wen and Yin (2013).

    Examples
    --------
    >>> cay, A = mr.retractions.Cayley(), mr.linalg.skew(torch.randn(3, 3, dtype=torch.float64))
    >>> assert torch.allclose(cay.inverse_group_map(cay.group_map(A)), A)
    """

    name: ClassVar[str] = "cayley"
    projecting: ClassVar[bool] = True
    orders: ClassVar[dict[str, int]] = {"group": 2, "canonical": 2, "euclidean": 1, "sphere": 2, "grassmann": 2}

    def plane_rotation(self, square: Tensor) -> tuple[Tensor, Tensor]:
        return along_cayley(square)

    def plane_length(self, angle: Tensor) -> Tensor:
        return 2 * (0.5 * angle).tan()

    def group_map(self, A: Tensor) -> Tensor:
        return cayley(A)

    def translate(self, x: Tensor, A: Tensor) -> Tensor:
        return cayley_times(x, A)

    def translate_coordinates(self, x: Tensor, c: Tensor, unpack: Unpack = unpack_at) -> Tensor:
        return cayley_coordinates(x, c, unpack)

    def inverse_group_map(self, Q: Tensor) -> Tensor:
        require_no_minus_one(Q, "The inverse Cayley retraction")
        return inverse_cayley_unchecked(Q)

    def retract_tall(self, x: Tensor, u: Tensor) -> Tensor:
        return cayley_tall(x, u)

    def inverse_tall(self, x: Tensor, y: Tensor) -> Tensor:
        xy = x.mH @ y
        require_no_minus_one(xy, "The inverse Cayley retraction")
        inverse = 2 * inverse_of(_identity(xy) + xy)  # the inverse of a
        outside = (y - x @ xy) @ inverse
        return x @ skew(-2 * inverse) + outside


def _identity(A: Tensor) -> Tensor:
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
