"""The exponential retraction."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..linalg.exponential import expm_skew
from ..linalg.logarithm import logm_unitary
from .base import Retraction


@dataclass(frozen=True)
class Exponential(Retraction):
    r"""The exponential, which on a group is the geodesic itself.

    .. math:: \phi(A) = \exp(A), \qquad \phi^{-1}(Q) = \log Q \text{ (principal)}.

    Onto: every orthogonal matrix of determinant 1 and every unitary matrix is reached. `inverse` raises
    `OffManifoldError` at an eigenvalue -1, where the logarithm is not unique. Source: Lezcano-Casado and
    Martinez-Rubio (2019) for recurrent networks.

    Examples
    --------
    >>> A = mr.linalg.skew(torch.randn(3, 3, dtype=torch.float64))
    >>> assert torch.allclose(mr.retractions.Exponential().group_map(A), torch.linalg.matrix_exp(A))
    """

    name: ClassVar[str] = "exp"
    orders: ClassVar[dict[str, int]] = {"group": 2}

    def group_map(self, A: Tensor) -> Tensor:
        return expm_skew(A)

    def inverse_group_map(self, Q: Tensor) -> Tensor:
        return logm_unitary(Q)
