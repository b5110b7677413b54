"""A frozen weight whose largest singular directions are rotated within their span."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..._options import is_integer
from ...errors import OptionError
from ...linalg import pack_skew, unpack_skew
from ...linalg.defect import minus_identity, plus_identity
from ...retractions import Retraction, get
from ..membership import require_reached
from .adapter import Adapter, TurningParametrization, orthogonal, require_weight, wide


@dataclass(frozen=True, eq=False)
class SubspaceAdapter(Adapter):
    r"""A frozen weight whose largest singular directions are rotated: the adapter PSOFT.

    .. math:: W = W_0 + B\,(\operatorname{diag}(b)\, R \operatorname{diag}(a) - I)\, A, \qquad
        B = W_0 A^{\mathsf H}.

    The rows of ``A`` are the first r right singular vectors of :math:`W_0`, and :math:`R = \varphi(S)` is orthogonal of
    size r. ``R`` starts as the identity, and ``a`` and ``b`` as ones, so the first output equals that of the frozen
    layer exactly.

    Parameters
    ----------
    rank : int
        The rank ``r``. At most the smaller side of the weight is used.
    retraction : str or Retraction
        :math:`\varphi`, as in `OrthogonalAdapter`.
    scales : bool
        Whether ``a`` and ``b`` are trained. If not, they are 1 and W is :math:`W_0` times an orthogonal matrix.
    save_base : bool
        Whether the state dict contains the frozen weight.

    Raises
    ------
    OptionError
        If ``rank`` is below 1, or the retraction is unknown.
    ShapeError, NonFiniteError
        By `constrain`, if the weight is a vector, or has entries that are not finite.

    Notes
    -----
    The adapter has r(r - 1)/2 real numbers, r² for complex weights, and 2r more with ``scales``. The parameters are
    ``coordinates``, in the order of `manifold_rnn.linalg.pack_skew`, ``before`` for ``a`` and ``after`` for ``b``. The
    state dict also contains ``A`` as ``subspace``: the coordinates belong to these singular vectors, and another
    computer may compute them with other signs. They take one singular value decomposition in float32 or better.

    Source: Wu, Hu, Min and Wang (2026).

    Examples
    --------
    >>> layer = torch.nn.Linear(8, 5)
    >>> x, before = torch.ones(3, 8), layer(torch.ones(3, 8))
    >>> layer = mr.constrain(layer, "weight", mr.SubspaceAdapter(3))
    >>> assert torch.equal(layer(x), before) and mr.degrees_of_freedom(layer.constraints) == 3 + 2 * 3
    """

    rank: int = 32
    retraction: str | Retraction = "cayley"
    scales: bool = field(default=True, kw_only=True)
    save_base: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        get(self.retraction)
        if not is_integer(self.rank, 1):
            raise OptionError(
                "rank of SubspaceAdapter is out of range.\n"
                f"Expected an integer of at least 1, got {self.rank!r:.40}.\nUse e.g. 32."
            )

    def trivialize(self, like: Tensor) -> SubspaceAdapterParametrization:
        """Return the parametrization of a weight that starts as ``like``."""
        require_weight(like, "SubspaceAdapter")
        return SubspaceAdapterParametrization(self, like)


class SubspaceAdapterParametrization(TurningParametrization):
    """A frozen weight, its ``subspace``, and the ``coordinates`` and scales of the matrix in this subspace."""

    subspace: Tensor

    def __init__(self, constraint: SubspaceAdapter, weight: Tensor) -> None:
        super().__init__(weight, side="input", save_base=constraint.save_base)
        self._retraction = get(constraint.retraction)
        rank = min(constraint.rank, *weight.shape[-2:])
        with torch.no_grad():
            rows = torch.linalg.svd(self.base.to(self.wide_dtype), full_matrices=False).Vh[..., :rank, :]
        self.register_buffer("subspace", rows.contiguous())
        numbers = rank * rank if weight.is_complex() else rank * (rank - 1) // 2
        real, batch = self.wide_dtype.to_real(), weight.shape[:-2]
        self.coordinates = nn.Parameter(weight.new_zeros((*batch, numbers), dtype=real))
        ones = weight.new_ones((*batch, rank), dtype=real)
        self.before = nn.Parameter(ones) if constraint.scales else None
        self.after = nn.Parameter(ones.clone()) if constraint.scales else None

    @property
    def work(self) -> int:
        rank = self.subspace.shape[-2]
        return rank * (2 * self.width + rank)

    @property
    def retraction(self) -> Retraction | None:
        return self._retraction

    @torch.no_grad()
    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction and compute new coordinates of the same weight."""
        chosen = get(retraction)
        R = orthogonal(self._retraction, unpack_skew(wide(self.coordinates), self.wide_dtype))
        self.coordinates.copy_(pack_skew(chosen.inverse_group_map(R)))
        self._retraction = chosen

    @torch.no_grad()
    def defect(self) -> Tensor | None:
        """Return the distance of ``R`` from an orthogonal matrix; None if it is scaled."""
        return super().defect() if self.before is None else None

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        checked = super().check(loaded, path)
        rows = checked.get("subspace")
        if isinstance(rows, Tensor) and rows.shape == self.subspace.shape and not rows.is_meta:
            eye = plus_identity(torch.zeros_like(rows @ rows.mH))
            require_reached(f"{path}subspace, with orthonormal rows,", rows @ rows.mH, eye)
        return checked

    def turning(self, dtype: torch.dtype, *, adjoint: bool) -> Callable[[Tensor], Tensor]:
        M = orthogonal(self._retraction, unpack_skew(wide(self.coordinates), self.wide_dtype))
        if self.after is not None and self.before is not None:
            M = self.after.unsqueeze(-1) * M * self.before.unsqueeze(-2)
        change = minus_identity(M)
        change, A = (change.mH if adjoint else change).to(dtype), self.subspace.to(dtype)
        return lambda rows: rows + (rows @ A.mH @ change) @ A
