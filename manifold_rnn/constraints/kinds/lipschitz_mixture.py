"""A matrix whose symmetric and skew parts have weights of their own."""

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
    r"""A mixture of the skew and the symmetric part of a free matrix, damped.

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
        If ``beta`` is outside [0, 1] or ``damping`` negative.

    Notes
    -----
    Between its ends ``beta`` excludes no matrix: it says how fast the parts move, and how large they start. Real parts
    of eigenvalues are exactly -g for ``beta=1`` only; else they are not even negative, see `DampedSkew` for that.
    The parameter ``matrix`` is ``B``. It starts, and is assigned, so that ``W`` is the given weight, without the part
    that has no weight if ``beta`` is 0 or 1. Source: Erichson, Azencot, Queiruga, Hodgkinson and Mahoney (2021), where
    ``beta`` is 0.75 and the damping 0.001.

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
                "LipschitzMixture weighs two parts of a matrix and subtracts a damping.\n"
                "Expected beta from 0 to 1 and a finite damping of at least 0, got "
                f"{self.beta} and {self.damping}.\nCorrect the number."
            )

    def trivialize(self, like: Tensor) -> LipschitzMixtureParametrization:
        """Return the module that gives ``W``, equal to ``like`` unless a part has no weight."""
        require_matrix(like, "LipschitzMixture")
        return LipschitzMixtureParametrization(self, like)


class LipschitzMixtureParametrization(Parametrization):
    """The mixture of the parts of its ``matrix``."""

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
        """Solve for ``B``; raises if ``weight`` has a part without weight."""
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
