"""The polar retraction."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..linalg.checks import TooFar, require_length
from ..linalg.defect import plus_identity
from ..linalg.logarithm import inverse_polar, inverse_polar_factor
from ..linalg.plane import along_projection, tangent_of
from ..linalg.polar import near_polar, polar
from ..linalg.precision import double
from ..linalg.product import multiply_add
from ..linalg.skew import skew
from .base import Retraction, require_far_step, tangent


@dataclass(frozen=True)
class Polar(Retraction):
    r"""The polar retraction: projects ``x + u`` to the nearest point.

    .. math:: \phi(A) = (I + A)(I - A^2)^{-1/2}, \qquad \phi^{-1}(Q) = (Q + Q^H)^{-1}(Q - Q^H).

    The general form is :math:`R_x(u) = (x + u)(I + u^H u)^{-1/2}`, also with more rows than columns. The order is 2 on
    groups. On tall matrices it is 2 for the Euclidean metric and 1 for the canonical metric. It reaches eigenangles
    below :math:`\pi/2`; beyond these `inverse` raises `OffManifoldError`. It also removes the rounding drift of ``x``.
    Source: Absil and Malick (2012).

    Examples
    --------
    >>> polar, A = mr.retractions.Polar(), mr.linalg.skew(torch.randn(3, 3, dtype=torch.float64))
    >>> assert torch.allclose(polar.inverse_group_map(polar.group_map(A)), A)
    """

    name: ClassVar[str] = "polar"
    self_correcting: ClassVar[bool] = True
    orders: ClassVar[dict[str, int]] = {"group": 2, "canonical": 1, "euclidean": 2, "sphere": 2, "grassmann": 2}

    def plane_rotation(self, square: Tensor) -> tuple[Tensor, Tensor]:
        return along_projection(square)

    def plane_length(self, angle: Tensor) -> Tensor:
        return tangent_of(angle, "polar")

    def group_map(self, A: Tensor) -> Tensor:
        A = skew(A)
        try:
            return near_polar(plus_identity(A))
        except TooFar:
            require_length(A, "The polar retraction")
            return polar(plus_identity(double(A))).to(A.dtype)

    def inverse_group_map(self, Q: Tensor) -> Tensor:
        return inverse_polar(Q)

    def translate(self, x: Tensor, A: Tensor) -> Tensor:
        try:
            return near_polar(multiply_add(x, x, A, beta=1, alpha=1))
        except TooFar:
            require_far_step(x, A, "The polar retraction")
            return polar(double(x) @ plus_identity(double(A))).to(x.dtype)

    def retract_tall(self, x: Tensor, u: Tensor) -> Tensor:
        try:
            return near_polar(x + u)
        except TooFar:
            require_far_step(x, u, "The polar retraction")
            wide = double(x)
            return polar(wide + tangent(wide, double(u))).to(x.dtype)

    def inverse_tall(self, x: Tensor, y: Tensor) -> Tensor:
        # solves x + u = y S for Hermitian S: x^H y S + S y^H x = 2 I
        return y @ inverse_polar_factor(x.mH @ y) - x
