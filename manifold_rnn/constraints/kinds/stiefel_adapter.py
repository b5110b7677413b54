"""A frozen weight plus a low-rank matrix between two trained subspaces."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..._options import is_integer
from ...errors import OptionError
from ...linalg.precision import without_autocast
from ...manifolds import Stiefel
from ...retractions import Retraction, get
from ..trivialized import Trivialization
from .adapter import Adapter, AdapterParametrization, require_weight


@dataclass(frozen=True, eq=False)
class StiefelAdapter(Adapter):
    r"""A frozen weight plus a low-rank matrix between orthonormal factors: the adapter StelLA.

    .. math:: W = W_0 + \frac{\alpha}{r}\, U S V^{\mathsf H}, \qquad U^{\mathsf H} U = V^{\mathsf H} V = I_r.

    ``S`` starts as 0, so the first output equals that of the frozen layer exactly.

    Parameters
    ----------
    rank : int
        The rank ``r``. At most the smaller side of the weight is used.
    alpha : float, optional
        Default: ``rank``, which makes the factor 1.
    retraction : str or Retraction
        The retraction of `manifold_rnn.Stiefel`, on which ``U`` and ``V`` move.
    rebase_every : int, optional
        As in `manifold_rnn.constrain`, for ``U`` and ``V``.
    save_base : bool
        Whether the state dict contains the frozen weight.

    Raises
    ------
    OptionError
        If ``rank`` or ``rebase_every`` is below 1, ``alpha`` is not a positive number, or the retraction is unknown.
    ShapeError, NonFiniteError
        By `constrain`, if the weight is a vector, or has entries that are not finite.

    Notes
    -----
    The parameters are ``left.coordinates`` and ``right.coordinates``, of ``U`` and ``V``, and ``core`` for ``S``, of
    size r x r. ``U`` and ``V`` start with random orthonormal columns. The source starts ``S`` as the identity, which
    changes the output of the layer before the first step. Here the gradient of ``U`` and ``V`` is 0 at the first step.

    Source: Li et al. (2025).

    Examples
    --------
    >>> layer = torch.nn.Linear(8, 5)
    >>> x, before = torch.ones(3, 8), layer(torch.ones(3, 8))
    >>> layer = mr.constrain(layer, "weight", mr.StiefelAdapter(rank=2))
    >>> assert torch.equal(layer(x), before) and mr.degrees_of_freedom(layer.constraints) == 13 + 7 + 4
    """

    rank: int = 8
    alpha: float | None = None
    retraction: str | Retraction = "polar"
    rebase_every: int | None = field(default=None, kw_only=True)
    save_base: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        get(self.retraction)
        for name, value in (("rank", self.rank), ("rebase_every", self.rebase_every)):
            if not is_integer(value, 1) and not (name == "rebase_every" and value is None):
                raise OptionError(
                    f"{name} of StiefelAdapter is out of range.\n"
                    f"Expected an integer of at least 1, got {value!r:.40}.\nUse e.g. 8."
                )
        if self.alpha is not None and not (isinstance(self.alpha, int | float) and 0 < self.alpha < math.inf):
            raise OptionError(
                "alpha of StiefelAdapter is out of range.\n"
                f"Expected a positive number, got {self.alpha!r:.40}.\nLeave it out for a factor of 1."
            )

    def trivialize(self, like: Tensor) -> StiefelAdapterParametrization:
        """Return the parametrization of a weight that starts as ``like``."""
        require_weight(like, "StiefelAdapter")
        return StiefelAdapterParametrization(self, like)


class StiefelAdapterParametrization(AdapterParametrization):
    """A frozen weight, the orthonormal factors ``left`` and ``right``, and the ``core`` between them, initially 0."""

    def __init__(self, constraint: StiefelAdapter, weight: Tensor) -> None:
        super().__init__(weight, save_base=constraint.save_base)
        rank = min(constraint.rank, *weight.shape[-2:])
        self.factor = (constraint.rank if constraint.alpha is None else constraint.alpha) / constraint.rank
        manifold, every = Stiefel(constraint.retraction), constraint.rebase_every
        wide, batch = self.base.to(self.wide_dtype), weight.shape[:-2]

        def factor(size: int) -> Trivialization:
            return Trivialization(
                manifold, manifold.random_like(wide.new_empty(*batch, size, rank)), rebase_every=every
            )

        self.left, self.right = factor(weight.shape[-2]), factor(weight.shape[-1])
        self.core = nn.Parameter(wide.new_zeros(*batch, rank, rank))

    @property
    def work(self) -> int:
        return self.core.shape[-1] * (sum(self.base.shape[-2:]) + self.core.shape[-1])

    def forward(self) -> Tensor:
        if self.base.is_meta:
            return torch.empty_like(self.base)
        with without_autocast(self.base):
            change = self.left() @ (self.factor * self.core) @ self.right().mH
            return (self.base.to(change.dtype) + change).to(self.base.dtype)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        y = nn.functional.linear(x, self.base, bias)
        with without_autocast(self.base):
            right, core, left = (t.to(x.dtype) for t in (self.right(), self.factor * self.core, self.left()))
            return y + (x @ right.conj() @ core.mT @ left.mT).to(y.dtype)

    @torch.no_grad()
    def defect(self) -> Tensor | None:
        """Return the distance of the factors from orthonormal columns."""
        return torch.maximum(self.left.defect(), self.right.defect())

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction of both factors."""
        for part in (self.left, self.right):
            part.set_retraction(retraction)

    @property
    def retraction(self) -> Retraction | None:
        return self.left.retraction
