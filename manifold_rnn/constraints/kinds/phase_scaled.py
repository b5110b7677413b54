"""Unitary matrices as a retraction times a diagonal of trained phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...errors import OffManifoldError, OptionError, UnsupportedError
from ...linalg.precision import without_autocast
from ...manifolds import Manifold
from ...retractions import Retraction
from ..constraint import Constraint
from ..membership import projected
from ..parametrization import require_shape
from ..trivialized import Trivialization


@dataclass(frozen=True, eq=False)
class PhaseScaled(Constraint):
    r"""Unitary matrices as a retraction times a diagonal matrix of phases. Both are trained.

    .. math:: W = \varphi(A)\, D, \qquad D = \operatorname{diag}(e^{i\theta_1}, \dots, e^{i\theta_n}), \quad A^H = -A.

    The Cayley map does not reach an eigenvalue -1, and its argument diverges near one. The phases make it reachable.

    Parameters
    ----------
    manifold : Manifold
        A group of complex matrices, `Unitary` in the literature. Its retraction is the map :math:`\varphi`.

    Raises
    ------
    OptionError
        If the manifold is not a group of complex matrices.

    Notes
    -----
    The parameter ``phases`` is real, with one phase for each column, and starts at 0. Together :math:`n^2 + n` numbers
    are trained for a group of dimension :math:`n^2`. ``assign`` keeps the phases and computes ``A``. If the map does
    not reach the weight with these phases, one angle is added to all of them. It moves -1 to the middle of the largest
    gap between the eigenvalues, and the Cayley and the exponential map then reach every weight.

    The recurrent weight of scuRNN is :math:`(I + S)^{-1}(I - S) D`. This is ``PhaseScaled(Unitary("cayley"))`` with
    ``A = -2 S`` (Maduranga, Helfrich and Ye, 2019).

    Examples
    --------
    >>> layer = torch.nn.Linear(3, 3, dtype=torch.complex64)
    >>> mr.constrain(layer, "weight", mr.PhaseScaled(mr.Unitary()), view="trivialized").weight.shape
    torch.Size([3, 3])
    >>> assert mr.linalg.defect(layer.weight) < 1e-5 and mr.degrees_of_freedom(layer.constraints) == 9 + 3
    """

    is_complex: ClassVar[bool | None] = True
    manifold: Manifold

    def random_like(self, like: Tensor) -> Tensor:
        return self.manifold.random_like(like)

    def __post_init__(self) -> None:
        if not isinstance(self.manifold, Manifold) or not (self.manifold.is_group and self.manifold.is_complex):
            raise OptionError(
                "PhaseScaled needs a group of complex matrices.\n"
                f"Expected a group such as Unitary(), got {self.manifold}.\n"
                "For real weights use FixedBase, whose diagonal has signs."
            )

    def trivialize(self, like: Tensor) -> PhaseScaledParametrization:
        """Return the parametrization of a weight ``W`` near ``like``."""
        self.manifold.require(like)
        eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand_as(like).contiguous()
        module = PhaseScaledParametrization(self.manifold, eye)
        if not like.is_meta:
            module.assign(projected(self.manifold, like))
        return module


class PhaseScaledParametrization(Trivialization):
    """A `Trivialization` at the identity, and the phases that multiply its columns."""

    takes_complex32: ClassVar[bool] = False

    def __init__(self, manifold: Manifold, base: Tensor) -> None:
        super().__init__(manifold, base)
        self.phases = nn.Parameter(base.real.new_zeros(base.shape[:-1]))

    def forward(self) -> Tensor:
        return super().forward() * self._diagonal()

    def _diagonal(self) -> Tensor:
        with without_autocast(self.base):
            return torch.polar(torch.ones_like(self.phases), self.phases).unsqueeze(-2)

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Compute the coordinates of ``weight`` with the present phases, or with others if the map needs them."""
        require_shape(self.base, weight)
        self._solve(self.manifold, weight * self._diagonal().conj())

    def _solve(self, manifold: Manifold, turned: Tensor) -> None:
        """Compute the coordinates of a weight without its phases; raises and changes nothing if there are none."""
        try:
            coordinates, angle = manifold.inverse_retr_coordinates(self.base, turned), None
        except OffManifoldError:
            angle = _angle_to_widest_gap(turned)
            turned = turned * torch.polar(torch.ones_like(angle), -angle)[..., None, None]
            coordinates = manifold.inverse_retr_coordinates(self.base, turned)
        self.coordinates.copy_(coordinates)
        if angle is not None:
            self.phases.add_(angle.unsqueeze(-1))

    def rebase(self) -> None:
        """Raise, because the phases multiply from the right and would not commute with a new base."""
        raise UnsupportedError(
            "PhaseScaled has phases instead of a base that moves.\n"
            "Expected rebase_every=None, got a rebase.\nConstrain to the manifold itself for a base that moves."
        )

    @torch.no_grad()
    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction and compute new coordinates of the same weight."""
        manifold = self.manifold.with_retraction(retraction)
        self._solve(manifold, super().forward())
        self.manifold = manifold


def _angle_to_widest_gap(Q: Tensor) -> Tensor:
    """Return angles (...): rotating unitary matrices back by them moves all eigenvalues far from -1."""
    wide = Q.to(torch.complex128)
    angles = torch.linalg.eigvals(wide).angle().sort(-1).values
    gaps = torch.cat([angles[..., 1:], angles[..., :1] + 2 * torch.pi], -1) - angles
    size, widest = gaps.max(-1, keepdim=True)
    middle = (angles.gather(-1, widest) + 0.5 * size).squeeze(-1)
    return (middle - torch.pi).to(Q.real.dtype)
