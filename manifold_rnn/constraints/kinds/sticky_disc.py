"""The rule of ENRNN: once the spectral radius has exceeded the disc, the matrix is divided by it at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ...linalg import spectral_radius
from ...linalg.precision import without_autocast
from ...manifolds import UnitDisc
from ...manifolds.region import scaled_within
from ...manifolds.unit_disc import require_radius
from ..constraint import Constraint
from ..membership import projected
from ..trivialized import Trivialization


@dataclass(frozen=True, eq=False)
class StickyDisc(Constraint):
    r"""Matrices with spectral radius at most ``radius``, and exactly ``radius`` after it was first exceeded.

    .. math:: W = \begin{cases} M & \rho(M) \le r \text{ at every step so far,} \\
        r M / \rho(M) & \text{else.}\end{cases}

    The stateless rule of `UnitDisc`, :math:`M / \max(1, \rho(M) / r)`, allows the radius to shrink again.

    Parameters
    ----------
    radius : float
        A positive radius.

    Raises
    ------
    OptionError
        If ``radius`` is not a positive number.

    Notes
    -----
    The flag is the buffer ``active``, one bool per matrix, and part of the ``state_dict``. It is set after a step of a
    torch optimizer that holds the coordinates; a forward alone never sets it. Assigning a weight clears it. While the
    flag is set, the gradient is orthogonal to ``M``, so plain gradient descent makes ``M`` grow. At kinks and nearly
    defective matrices see `manifold_rnn.linalg.spectral_radius`. Source: Helfrich and Ye (2020) and their released
    code.

    Examples
    --------
    >>> cell = mr.constrain(torch.nn.RNNCell(2, 3), "weight_hh", mr.StickyDisc(), view="trivialized")
    >>> assert not cell.constraints["weight_hh"].active and mr.linalg.spectral_radius(cell.weight_hh) <= 1 + 1e-6
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        require_radius(self.radius, "StickyDisc")

    @property
    def manifold(self) -> UnitDisc:
        """The manifold that contains the weight."""
        return UnitDisc(self.radius)

    def random_like(self, like: Tensor) -> Tensor:
        return self.manifold.random_like(like)

    def trivialize(self, like: Tensor) -> StickyDiscParametrization:
        """Return the parametrization of a weight that starts from ``like``, scaled into the disc."""
        self.manifold.require(like)
        return StickyDiscParametrization(self.manifold, projected(self.manifold, like))


class StickyDiscParametrization(Trivialization):
    """A `Trivialization` with a flag per matrix; :math:`M` is its base plus its coordinates."""

    takes_complex32 = False
    active: Tensor

    def __init__(self, manifold: UnitDisc, base: Tensor) -> None:
        super().__init__(manifold, base)
        self.radius = manifold.radius
        self.register_buffer("active", torch.zeros(base.shape[:-2], dtype=torch.bool, device=base.device))

    @property
    def counts_steps(self) -> bool:
        return True

    def matrix(self) -> Tensor:
        """Return the free matrix ``M``."""
        c = self.coordinates
        return self.base + (torch.complex(c[..., 0], c[..., 1]) if self.base.is_complex() else c)

    def forward(self) -> Tensor:
        with without_autocast(self.base):
            return scaled_within(self.matrix(), spectral_radius, self.radius, always=self.active)

    @torch.no_grad()
    def after_step(self) -> None:
        """Set the flag of every matrix that has left the disc."""
        super().after_step()
        self.active.logical_or_(spectral_radius(self.matrix()) > self.radius)

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Restart from ``weight``, a point of the disc, with the flag cleared."""
        super().assign(weight)
        self.active.zero_()

    def rebase(self) -> None:
        """Raise, because the norm of ``M`` is part of the state."""
        raise UnsupportedError(
            "StickyDisc keeps the norm of its matrix, so its base does not move.\n"
            "Expected rebase_every=None, got a rebase.\nUse UnitDisc for a base that moves."
        )
