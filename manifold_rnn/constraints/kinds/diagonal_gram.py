"""Matrices with orthogonal columns of free lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...errors import OffManifoldError, ShapeError
from ...linalg.checks import require_finite
from ...linalg.precision import double, without_autocast
from ...manifolds import Orthogonal, OrthonormalColumns, Stiefel, Unitary
from ...retractions import Retraction, get
from ..constraint import Constraint
from ..membership import require_reached
from ..parametrization import Parametrization, require_shape
from ..trivialized import Trivialization


@dataclass(frozen=True, eq=False)
class DiagonalGram(Constraint):
    r"""Matrices with orthogonal columns of free lengths: their Gram matrix is diagonal.

    .. math:: W = Q \operatorname{diag}(e^{t_1}, \dots, e^{t_p}), \qquad Q^{\mathsf H} Q = I, \qquad
        W^{\mathsf H} W = \operatorname{diag}(e^{2t_1}, \dots, e^{2t_p}).

    A weight with more columns than rows has orthogonal rows, :math:`W = \operatorname{diag}(e^t)\, Q^{\mathsf H}`.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of ``Q``.

    Raises
    ------
    OptionError
        If the retraction is unknown.
    ShapeError, OffManifoldError
        By `constrain`, if the weight has fewer than two axes, or a column of zeros.

    Notes
    -----
    Weights have shape (..., n, p), real or complex. The module's ``frame`` is ``Q``, with the parameter
    ``coordinates``. Its parameter ``log_lengths`` is real, of shape (..., min(n, p)). The lengths start as those of the
    given columns. ``Q`` starts as the orthonormal matrix nearest to the normalized columns. A weight with orthogonal
    columns therefore starts unchanged, and ``assign`` accepts only such weights. Weight decay on ``log_lengths`` pulls
    the lengths towards 1.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(2, 4), "weight", mr.DiagonalGram(), view="trivialized")
    >>> W = layer.weight.detach()
    >>> assert (W.mT @ W)[0, 1].abs() < 1e-6 and mr.degrees_of_freedom(layer.constraints) == 5 + 2
    """

    retraction: str | Retraction = "cayley"

    def __post_init__(self) -> None:
        get(self.retraction)

    def trivialize(self, like: Tensor) -> DiagonalGramParametrization:
        """Return the parametrization of a weight ``W`` near ``like``."""
        if like.ndim < 2 or 0 in like.shape[-2:]:
            raise ShapeError(
                "DiagonalGram needs matrices in the last two axes, of at least 1 x 1.\n"
                f"Expected shape (..., n, p), got {tuple(like.shape)}.\nReshape it, or pass matrix_dims."
            )
        return DiagonalGramParametrization(self, like)

    def random_like(self, like: Tensor) -> Tensor:
        """Return a weight with the lengths of ``like`` and directions drawn from the Haar measure."""
        entry = self.trivialize(like)
        entry.frame.assign(entry.frame.manifold.random_like(entry.frame.base))
        with torch.no_grad():
            weight: Tensor = entry()
        return weight


class DiagonalGramParametrization(Parametrization):
    """The product of an orthonormal ``frame`` and the exponentials of ``log_lengths``."""

    def __init__(self, constraint: DiagonalGram, like: Tensor) -> None:
        super().__init__()
        self.constraint, self.wide = constraint, like.shape[-2] < like.shape[-1]
        Q, t = self._factors(like)
        self.frame = Trivialization(self._manifold(Q), Q)
        self.log_lengths = nn.Parameter(t)

    def _manifold(self, Q: Tensor) -> OrthonormalColumns:
        if Q.shape[-2] > Q.shape[-1]:
            return Stiefel(self.constraint.retraction)
        return (Unitary if Q.is_complex() else Orthogonal)(self.constraint.retraction)

    @torch.no_grad()
    def _factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the orthonormal factor nearest to the columns, and the logarithms of their lengths."""
        require_finite(weight, "the weight", "Nothing was changed. Find what wrote to it.")
        tall = double(weight.detach().mH if self.wide else weight.detach())
        largest = tall.abs().amax(-2, keepdim=True)  # of each column: squares of small entries would underflow
        if not tall.is_meta and not bool((largest > 0).all()):
            raise OffManifoldError(
                f"The {'rows' if self.wide else 'columns'} of a weight of DiagonalGram must have positive lengths.\n"
                f"Got {int((largest == 0).sum())} of length 0.\nNothing was changed. Pass init= to constrain."
            )
        lengths = torch.linalg.vector_norm(tall / largest, dim=-2, keepdim=True)
        Q = self._manifold(tall).projx(tall / largest / lengths)
        t = (lengths.log() + largest.log()).squeeze(-2)
        return Q.to(weight.dtype).contiguous(), t.to(weight.real.dtype)

    def forward(self) -> Tensor:
        with without_autocast(self.log_lengths):
            lengths = self.log_lengths.exp()
            require_finite(lengths, "DiagonalGram: exp(log_lengths)", "Lower the learning rate, or clip the gradient.")
            W = self.frame() * lengths.unsqueeze(-2)
            return W.mH if self.wide else W

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Set the parameters to the factors of ``weight``; raises unless its columns are orthogonal."""
        Q, t = self._solved(weight)
        W = Q * t.exp().unsqueeze(-2)
        require_reached("DiagonalGram", W.mH if self.wide else W, weight)
        self._take(Q, t)

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        """Set the lengths to those of the columns, and the frame to the nearest orthonormal matrix."""
        self._take(*self._solved(weight))

    def _solved(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        require_shape(self(), weight)
        return self._factors(weight.to(self.frame.base.dtype))

    def _take(self, Q: Tensor, t: Tensor) -> None:
        self.frame.assign(Q)
        self.log_lengths.copy_(t)

    @torch.no_grad()
    def defect(self) -> Tensor:
        """The norm of the cosines of the angles between all pairs of columns."""
        W = double(self())
        tall = W.mH if self.wide else W
        unit = tall / torch.linalg.vector_norm(tall, dim=-2, keepdim=True)
        gram = unit.mH @ unit
        off = torch.linalg.matrix_norm(gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
        return off.amax() if off.numel() else off.new_zeros(())

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of the orthonormal factor."""
        return self.frame.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction of the orthonormal factor and keep the weight."""
        self.frame.set_retraction(retraction)
        self.constraint = replace(self.constraint, retraction=retraction)
