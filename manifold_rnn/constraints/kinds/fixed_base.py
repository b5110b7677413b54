"""Elements of a group as a fixed sign matrix times a retraction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..._options import is_integer
from ...errors import OffManifoldError, OptionError, UnsupportedError
from ...manifolds import Manifold
from ...retractions import Retraction
from ..constraint import Constraint
from ..membership import largest_defect, projected, small_rotation, tolerance
from ..parametrization import require_shape
from ..trivialized import Trivialization


@dataclass(frozen=True, eq=False)
class FixedBase(Constraint):
    r"""Orthogonal or unitary matrices as a fixed sign matrix times a retraction.

    .. math:: W = D\, \varphi(A), \qquad D = \operatorname{diag}(1, \dots, 1, -1, \dots, -1), \quad A^{\mathsf H} = -A.

    Parameters
    ----------
    manifold : Manifold
        A matrix group. Its retraction is the map :math:`\varphi`.
    negatives : int
        Number of entries -1 of ``D``. For real groups det W is always (-1)^negatives.

    Raises
    ------
    OptionError
        If ``negatives`` is negative or more than n, or if ``D`` is not on the manifold.

    Notes
    -----
    A starting weight is projected onto the matrices with the determinant of ``D``. If ``D W`` then has an eigenvalue
    -1, which the Cayley map does not reach, the weight is rotated slightly. The QR and polar retractions reach only few
    matrices; use `constrain` with ``rebase_every`` for them.

    ``FixedBase(Orthogonal("cayley"), negatives)`` is the recurrent weight of scoRNN (Helfrich, Willmott and Ye, 2018).
    ``FixedBase(SpecialOrthogonal("exp"))`` is that of expRNN (Lezcano-Casado and Martinez-Rubio, 2019).

    Examples
    --------
    >>> square = mr.FixedBase(mr.Orthogonal("cayley"), negatives=1)
    >>> cell = mr.constrain(torch.nn.RNNCell(2, 3), "weight_hh", square, view="trivialized")
    >>> assert torch.isclose(torch.det(cell.weight_hh), torch.tensor(-1.0))
    """

    manifold: Manifold
    negatives: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.manifold, Manifold) or not self.manifold.is_group:
            raise OptionError(
                "FixedBase needs a matrix group.\n"
                f"Expected a group such as Orthogonal(), got {self.manifold!r:.80}.\nUse another constraint."
            )

    def random_like(self, like: Tensor) -> Tensor:
        return self.manifold.random_like(like)

    def trivialize(self, like: Tensor) -> FixedBaseParametrization:
        """Return the parametrization of a weight ``W`` near ``like``."""
        self.manifold.require(like)
        n = like.shape[-1]
        if not is_integer(self.negatives, 0) or self.negatives > n:
            raise OptionError(
                f"negatives of FixedBase is out of range for a weight of size {n}.\n"
                f"Expected an integer from 0 to {n}, got {self.negatives}.\nChoose a smaller number."
            )
        signs = torch.ones(n, dtype=like.dtype, device=like.device)
        signs[n - self.negatives :] = -1
        base = signs.diag_embed().expand(like.shape).contiguous()
        if not like.is_meta and largest_defect(self.manifold, base) > tolerance(like.dtype, n):
            raise OptionError(
                f"The sign matrix of FixedBase must be on {self.manifold}.\n"
                f"With negatives={self.negatives} it does not.\nUse an even number, or Orthogonal."
            )
        module = FixedBaseParametrization(self.manifold, base)
        if not like.is_meta:
            Q = module.reachable(base @ like)
            try:
                module.assign(base @ Q)
            except OffManifoldError:
                module.assign(base @ module.reachable(Q @ small_rotation(Q)))
        return module


class FixedBaseParametrization(Trivialization):
    """A `Trivialization` with a fixed base. Assigning a weight computes new coordinates instead of moving the base."""

    @torch.no_grad()
    def reachable(self, x: Tensor) -> Tensor:
        """Return the nearest matrix in the connected component of the identity, which contains every retraction."""
        return projected(self.manifold.identity_component, x)

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Compute the coordinates of ``weight``; raises if the map does not reach it."""
        require_shape(self.base, weight)
        self.coordinates.copy_(self.manifold.inverse_retr_coordinates(self.base, weight))

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        """Compute the coordinates of the nearest matrix in the connected component that the map reaches."""
        self.assign(self.base @ self.reachable(self.base.mH @ weight))

    def rebase(self) -> None:
        """Raise, because the base is part of the constraint."""
        raise UnsupportedError(
            "The base of FixedBase is a fixed sign matrix, part of the constraint.\n"
            "Expected rebase_every=None, got a rebase.\nConstrain to the manifold itself for a base that moves."
        )

    @torch.no_grad()
    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction and compute new coordinates of the same weight."""
        manifold = self.manifold.with_retraction(retraction)
        coordinates = manifold.inverse_retr_coordinates(self.base, self())
        self.coordinates.copy_(coordinates)
        self.manifold = manifold
