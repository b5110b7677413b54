"""Doubly stochastic matrices: nonnegative, with rows and columns that sum to 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..._options import is_integer
from ...errors import DtypeError, OptionError, ShapeError
from ...linalg.checks import require_finite, require_matrix
from ...linalg.precision import double
from ...manifolds import Orthogonal
from ...retractions import Retraction, get
from ..constraint import Constraint
from ..parametrization import Parametrization
from .birkhoff_parameters import OrthostochasticParametrization, PermutationsParametrization, SinkhornParametrization

MOST_PERMUTED = 5
KINDS = ("orthostochastic", "permutations", "sinkhorn")


@dataclass(frozen=True, eq=False)
class Birkhoff(Constraint):
    r"""Doubly stochastic matrices, which mix streams: nonnegative, rows and columns sum to 1.

    .. math::
        W = \begin{cases} Q \circ Q, \quad Q^\top Q = I & \text{orthostochastic} \\
        \sum_\pi \operatorname{softmax}(\theta)_\pi\, P_\pi & \text{permutations} \\
        D_1 e^{L} D_2 & \text{sinkhorn,} \end{cases}

    with all n! permutation matrices :math:`P_\pi`, and diagonal matrices found by dividing columns and rows by their
    sums in turn.

    Parameters
    ----------
    kind : "orthostochastic", "permutations" or "sinkhorn"
        The first is exact and smooth for any n, and reaches a part of the set only, for n > 2. The second is exact and
        reaches every matrix with positive entries, for n up to 5. The third reaches those too, for any n, but is exact
        in the limit of many sweeps only.
    retraction : str or Retraction
        How Q moves, for "orthostochastic".
    sweeps : int
        Of "sinkhorn". A sweep divides columns, then rows.

    Raises
    ------
    OptionError
        If an option is unknown or below 1.
    ShapeError
        By `constrain`, if a weight is not square, or has more than 5 rows for "permutations".
    DtypeError
        By `constrain`, if a weight is complex.

    Notes
    -----
    All are computed in double precision. Rows of "sinkhorn" are exact up to rounding, and columns have a residual:
    ``defect()`` of the module in ``constraints`` measures it. It grows with the range of the logits. Logits beyond 1e6
    are refused. A product of doubly stochastic matrices is one, and their spectral norm is 1.

    A doubly stochastic matrix is itself the start for the second and the third kind, up to rounding error, if its
    entries are positive. Entries below 1e-9 start from there. Other weights start from their moduli, scaled to be
    doubly stochastic. For the first kind alternating projections look for the signs of Q, from those of the present Q
    and from 32 other starts for n up to 6, or 2 beyond. So a module finds its own weight again for any n. From the
    other starts, they found Q again at permutations, and for all of 40 random matrices with n = 3, 38 with n = 4 and 26
    with n = 5. Where they do not, the start is near, and ``assign`` raises an error.

    The gradient is finite at permutations. It vanishes there: a permutation is a critical point of :math:`Q \circ Q`,
    and the limit of infinite logits. Start beside it, for instance from ``.9 I + .1 / n``, which all kinds reach for
    n = 4.

    Source: Sinkhorn and Knopp (1967) for the third kind.

    Examples
    --------
    >>> mix = mr.constrain(torch.nn.Linear(4, 4), "weight", mr.Birkhoff(), view="trivialized")
    >>> assert torch.allclose(mix.weight.sum(0), torch.ones(4)) and torch.allclose(mix.weight.sum(1), torch.ones(4))
    """

    is_complex: ClassVar[bool | None] = False

    kind: Literal["orthostochastic", "permutations", "sinkhorn"] = "orthostochastic"
    retraction: str | Retraction = "cayley"
    sweeps: int = 20

    def __post_init__(self) -> None:
        get(self.retraction)
        if self.kind not in KINDS:
            raise OptionError(
                f"kind of Birkhoff is a way to build a doubly stochastic matrix.\nExpected one of "
                f"{', '.join(map(repr, KINDS))}, got {self.kind!r:.80}.\nCheck the spelling."
            )
        if not is_integer(self.sweeps, 1):
            raise OptionError(
                "sweeps of Birkhoff counts divisions of columns and rows by their sums.\n"
                f"Expected an integer of at least 1, got {self.sweeps!r:.80}.\nUse e.g. 20."
            )

    def trivialize(self, like: Tensor) -> Parametrization:
        """Return the module that gives ``W``, near ``like``."""
        self._require(like)
        require_finite(like, "the weight of Birkhoff")
        if self.kind == "orthostochastic":
            return OrthostochasticParametrization(like, get(self.retraction))
        if self.kind == "permutations":
            return PermutationsParametrization(like)
        return SinkhornParametrization(like, self.sweeps)

    def random_like(self, like: Tensor) -> Tensor:
        """Draw Q from the Haar measure, weights of permutations uniformly, or normal logits."""
        self._require(like)
        if self.kind == "orthostochastic":
            return Orthogonal().random_like(double(like)).square().to(like.dtype)
        module = self.trivialize(torch.zeros_like(like))
        with torch.no_grad():
            for p in module.parameters():
                p.exponential_().log_() if self.kind == "permutations" else p.normal_()
        weight: Tensor = module()
        return weight.detach()

    def _require(self, like: Tensor) -> None:
        require_matrix(like, "Birkhoff")
        if not like.is_floating_point():
            raise DtypeError(
                f"Birkhoff holds real matrices with entries from 0 to 1.\nExpected a real dtype, got {like.dtype}.\n"
                "Use a real layer, or Unitary() for a complex one."
            )
        n = like.shape[-1]
        if self.kind == "permutations" and n > MOST_PERMUTED:
            raise ShapeError(
                f"Birkhoff('permutations') has a weight for each of n! permutations.\n"
                f"Expected n up to {MOST_PERMUTED}, got {n}.\nUse the kind 'orthostochastic', or 'sinkhorn'."
            )
