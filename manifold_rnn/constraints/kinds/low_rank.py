"""A multiple of the identity plus a low-rank matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import OptionError
from ...linalg.checks import require_finite, require_matrix
from ...linalg.precision import without_autocast
from ..constraint import Constraint
from ..membership import require_reached
from ..parametrization import Parametrization, require_shape


@dataclass(frozen=True, eq=False)
class IdentityPlusLowRank(Constraint):
    r"""A multiple of the identity plus a product of two narrow matrices.

    .. math:: W = w I + L R, \qquad L \in \mathbb R^{n \times r}, \quad R \in \mathbb R^{r \times n}.

    Parameters
    ----------
    rank : int
        The rank ``r``. At most n is used; with 0 there is no product.
    train_scale : bool
        Whether the scalar ``w`` is a parameter. If not, it is 1.

    Raises
    ------
    OptionError
        If ``rank`` is negative.

    Notes
    -----
    The parameters ``left``, ``right`` and ``scale`` start, and are assigned, from the singular value decomposition of
    the given weight minus ``w I``. For ``w = 1`` this gives the nearest weight. A trained ``w`` starts as the mean of
    the diagonal. Source: Zhang, Yue, Wu, Li and Zhang (2021), who use r = 50, or only a trained scale.

    Examples
    --------
    >>> rnn = mr.nn.RNN(2, 5, constraint=mr.IdentityPlusLowRank(1), view="trivialized")
    >>> assert torch.linalg.matrix_rank(rnn.weight_hh_l0 - torch.eye(5)) == 1
    """

    rank: int = 1
    train_scale: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 0:
            raise OptionError(
                f"rank of IdentityPlusLowRank is out of range.\nExpected at least 0, got {self.rank!r}.\nUse e.g. 1."
            )

    def trivialize(self, like: Tensor) -> IdentityPlusLowRankParametrization:
        """Return the parametrization of a weight ``W`` near ``like``."""
        require_matrix(like, "IdentityPlusLowRank")
        require_finite(like, "the weight of IdentityPlusLowRank")
        return IdentityPlusLowRankParametrization(self, like)


class IdentityPlusLowRankParametrization(Parametrization):
    """The sum of a multiple of the identity and the product of ``left`` and ``right``; ``scale`` may be trained."""

    scale: nn.Parameter | None

    def __init__(self, constraint: IdentityPlusLowRank, like: Tensor) -> None:
        super().__init__()
        self.constraint = constraint
        left, right, scale = self._factors(like)
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)
        self.scale = nn.Parameter(scale) if constraint.train_scale else None

    def forward(self) -> Tensor:
        with without_autocast(self.left):
            eye = _eye(self.left)
            return self.left @ self.right + (eye if self.scale is None else self.scale * eye)

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Set the parameters to the factors of ``weight``; raises if its rank is too high."""
        require_shape(self(), weight)
        require_finite(weight, "the assigned weight")
        left, right, scale = self._factors(weight)
        require_reached("IdentityPlusLowRank", left @ right + scale * _eye(left), weight)
        for own, solved in ((self.left, left), (self.right, right), (self.scale, scale)):
            if own is not None:
                own.copy_(solved)

    @torch.no_grad()
    def _factors(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        W = weight.detach()
        diagonal = W.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        scale = diagonal.clone() if self.constraint.train_scale else torch.ones_like(diagonal)
        U, S, Vh = torch.linalg.svd(W - scale * _eye(W))
        r, root = self.constraint.rank, S.sqrt().to(W.dtype)
        return (U * root[..., None, :])[..., :r].contiguous(), (root[..., None] * Vh)[..., :r, :].contiguous(), scale


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-2], dtype=like.dtype, device=like.device)
