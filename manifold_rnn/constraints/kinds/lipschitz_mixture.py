"""Matrices with separately weighted symmetric and skew parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import OptionError
from ...linalg import skew
from ...linalg.checks import require_finite, require_matrix
from ..constraint import Constraint
from ..membership import require_reached
from ..parametrization import Parametrization, require_shape


@dataclass(frozen=True, eq=False)
class LipschitzMixture(Constraint):
    r"""A weighted sum of the skew and the symmetric part of a free matrix, with damping.

    .. math:: W = \beta (B - B^{\mathsf H}) + (1 - \beta)(B + B^{\mathsf H}) - g I.

    Parameters
    ----------
    beta : float
        Weight of the skew part, from 0 to 1.
    damping : float
        ``g``, at least 0.

    Raises
    ------
    OptionError
        If ``beta`` is outside [0, 1], or ``damping`` is negative.

    Notes
    -----
    For ``beta`` strictly between 0 and 1 every matrix is reached: ``beta`` only determines how fast the two parts move,
    and how large they start. The real parts of all eigenvalues are -g only if ``beta=1``. Otherwise they may be
    positive; see `DampedSkew` for stable steps.

    The parameter ``matrix`` is ``B``. It starts, and is assigned, so that ``W`` is the given weight. If ``beta`` is 0
    or 1, the part of weight 0 is dropped. Source: Erichson, Azencot, Queiruga, Hodgkinson and Mahoney (2021), who use
    ``beta`` 0.75 and damping 0.001.

    Examples
    --------
    >>> rnn = mr.nn.RNN(2, 3, constraint=mr.LipschitzMixture(beta=1.0, damping=0.1), view="trivialized")
    >>> assert torch.allclose(torch.linalg.eigvals(rnn.weight_hh_l0).real, torch.tensor(-0.1))
    """

    beta: float = 0.75
    damping: float = 0.001

    def __post_init__(self) -> None:
        if not (0 <= self.beta <= 1 and 0 <= self.damping < float("inf")):
            raise OptionError(
                "beta or damping of LipschitzMixture is out of range.\n"
                "Expected beta from 0 to 1 and a finite damping of at least 0, got "
                f"{self.beta} and {self.damping}.\nCorrect the value."
            )

    def trivialize(self, like: Tensor) -> LipschitzMixtureParametrization:
        """Return the parametrization of a weight equal to ``like``, except for a part of weight 0."""
        require_matrix(like, "LipschitzMixture")
        require_finite(like, "the weight of LipschitzMixture")
        return LipschitzMixtureParametrization(self, like)


class LipschitzMixtureParametrization(Parametrization):
    """The weighted sum of the symmetric and skew parts of the parameter ``matrix``."""

    def __init__(self, constraint: LipschitzMixture, like: Tensor) -> None:
        super().__init__()
        self.constraint = constraint
        self.matrix = nn.Parameter(self._matrix_of(like))

    def forward(self) -> Tensor:
        return self._weight(self.matrix)

    def _weight(self, B: Tensor) -> Tensor:
        beta = self.constraint.beta
        damping = self.constraint.damping * torch.eye(B.shape[-1], dtype=B.dtype, device=B.device)
        return B - (2 * beta - 1) * B.mH - damping

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Compute ``B``; raises if ``weight`` has a part whose weight is 0."""
        require_shape(self.matrix, weight)
        require_finite(weight, "the assigned weight")
        matrix = self._matrix_of(weight)
        require_reached("LipschitzMixture", self._weight(matrix), weight)
        self.matrix.copy_(matrix)

    @torch.no_grad()
    def _matrix_of(self, weight: Tensor) -> Tensor:
        beta, W = self.constraint.beta, weight.detach()
        undamped = W + self.constraint.damping * torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
        antisymmetric = skew(undamped)
        B = torch.zeros_like(undamped)
        for part, share in ((antisymmetric, beta), (undamped - antisymmetric, 1 - beta)):
            B = B + part / (2 * share) if share else B
        return B
