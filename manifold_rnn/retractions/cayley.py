"""The Cayley retraction."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..linalg.cayley import cayley
from ..linalg.logarithm import inverse_cayley_unchecked, require_no_minus_one
from .base import Retraction


@dataclass(frozen=True)
class Cayley(Retraction):
    r"""The Cayley retraction.

    .. math:: \phi(A) = (I - \tfrac12 A)^{-1}(I + \tfrac12 A), \qquad \phi^{-1}(Q) = 2 (Q + I)^{-1}(Q - I).

    Order 2. It never reaches an eigenvalue -1, which lies at infinity; there `inverse` raises `OffManifoldError`.
    Source: Wen and Yin (2013).

    Examples
    --------
    >>> cay, A = mr.retractions.Cayley(), mr.linalg.skew(torch.randn(3, 3, dtype=torch.float64))
    >>> assert torch.allclose(cay.inverse_group_map(cay.group_map(A)), A)
    """

    name: ClassVar[str] = "cayley"
    orders: ClassVar[dict[str, int]] = {"group": 2}

    def group_map(self, A: Tensor) -> Tensor:
        return cayley(A)

    def inverse_group_map(self, Q: Tensor) -> Tensor:
        require_no_minus_one(Q, "The inverse Cayley retraction")
        return inverse_cayley_unchecked(Q)
