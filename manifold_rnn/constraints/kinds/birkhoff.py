"""Doubly stochastic matrices: nonnegative matrices whose rows and columns sum to 1."""

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
    r"""Doubly stochastic matrices: nonnegative, with rows and columns that sum to 1. They mix streams.

    .. math::
        W = \begin{cases} Q \circ Q, \quad Q^\top Q = I & \text{orthostochastic} \\
        \sum_\pi \operatorname{softmax}(\theta)_\pi\, P_\pi & \text{permutations} \\
        D_1 e^{L} D_2 & \text{sinkhorn,} \end{cases}

    Here :math:`P_\pi` are all n! permutation matrices. The diagonal matrices result from dividing columns and rows
    alternately by their sums.

    Parameters
    ----------
    kind : "orthostochastic", "permutations" or "sinkhorn"
        The first kind is exact and smooth for any n, but reaches only a part of the set if n > 2. The second is exact
        and reaches every matrix with positive entries, for n up to 5. The third reaches the same matrices for any n,
        but is exact only in the limit of many sweeps.
    retraction : str or Retraction
        The retraction of Q, for "orthostochastic".
    sweeps : int
        Number of sweeps, for "sinkhorn". A sweep normalizes columns, then rows.

    Raises
    ------
    OptionError
        If an option is unknown, or ``sweeps`` is below 1.
    ShapeError
        By `constrain`, if a weight is not square, or has more than 5 rows for "permutations".
    DtypeError
        By `constrain`, if a weight is complex.

    Notes
    -----
    All kinds are computed in double precision. With "sinkhorn", row sums are exact up to rounding error, and column
    sums have a residual, which ``defect()`` of the module in ``constraints`` measures. It grows with the range of the
    logits. Logits beyond 1e6 raise an error. The product of doubly stochastic matrices is doubly stochastic, and their
    spectral norm is 1.

    "permutations" and "sinkhorn" start from the given weight itself, up to rounding error, if it is doubly stochastic
    with positive entries. Entries below 1e-9 start from 1e-9. Other weights start from their moduli, scaled to be
    doubly stochastic.

    For "orthostochastic", alternating projections search the signs of Q. They start from the signs of the present Q and
    from 32 others for n up to 6, or 2 others beyond. A module therefore finds its own weight again for any n. Starting
    from other signs, they found Q again at permutations. They found it for all of 40 random matrices with n = 3, for 38
    with n = 4 and for 26 with n = 5. If they fail, the starting weight is only near, and ``assign`` raises an error.

    At permutations the gradient is finite but 0: a permutation is a critical point of :math:`Q \circ Q`, and the limit
    of infinite logits. Start beside it, for instance from ``.9 I + .1 / n``, which all kinds reach for n = 4.

    Source: Sinkhorn and Knopp (1967) for "sinkhorn".

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
                f"kind of Birkhoff is unknown.\nExpected one of "
                f"{', '.join(map(repr, KINDS))}, got {self.kind!r:.80}.\nCheck the spelling."
            )
        if not is_integer(self.sweeps, 1):
            raise OptionError(
                "sweeps of Birkhoff is out of range.\n"
                f"Expected an integer of at least 1, got {self.sweeps!r:.80}.\nUse e.g. 20."
            )

    def trivialize(self, like: Tensor) -> Parametrization:
        """Return the parametrization of a weight ``W`` near ``like``."""
        self._require(like)
        require_finite(like, "the weight of Birkhoff")
        if self.kind == "orthostochastic":
            return OrthostochasticParametrization(like, get(self.retraction))
        if self.kind == "permutations":
            return PermutationsParametrization(like)
        return SinkhornParametrization(like, self.sweeps)

    def random_like(self, like: Tensor) -> Tensor:
        """Draw Q from the Haar measure, uniform weights of permutations, or normal logits."""
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
                f"Birkhoff matrices are real, with entries from 0 to 1.\nExpected a real dtype, got {like.dtype}.\n"
                "Use a real layer, or Unitary() for a complex one."
            )
        n = like.shape[-1]
        if self.kind == "permutations" and n > MOST_PERMUTED:
            raise ShapeError(
                f"Birkhoff('permutations') has a weight for each of n! permutations.\n"
                f"Expected n up to {MOST_PERMUTED}, got {n}.\nUse the kind 'orthostochastic', or 'sinkhorn'."
            )
