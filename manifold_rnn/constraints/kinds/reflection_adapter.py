"""A frozen weight times a product of pairs of reflections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..._options import is_integer
from ...errors import OptionError
from ...linalg.householder import unit
from .adapter import Adapter, Side, TurningParametrization, require_side, require_weight, wide


@dataclass(frozen=True, eq=False)
class ReflectionAdapter(Adapter):
    r"""A frozen weight times a product of Householder reflections: the adapter HRA.

    .. math:: W = W_0 R, \qquad R = H(u_1) H(v_1) \cdots H(u_{r/2}) H(v_{r/2}), \qquad
        H(u) = I - 2 \frac{u u^{\mathsf H}}{\|u\|^2}.

    The two vectors of a pair start equal, so ``R`` starts as the identity. With unit vectors and
    :math:`\delta = v - u`, a pair is computed as

    .. math:: H(u) H(v) = I + 2 u \delta^{\mathsf H}
        + \bigl(4 (u^{\mathsf H} \delta)\, u - 2 \delta\bigr) v^{\mathsf H}.

    It is exactly the identity where :math:`\delta = 0`.

    Parameters
    ----------
    count : int
        The number ``r`` of reflections, which must be even.
    side : "input" or "output"
        Whether the weight is :math:`W_0 R` or :math:`R W_0`.
    save_base : bool
        Whether the state dict contains the frozen weight.

    Raises
    ------
    OptionError
        If ``count`` is not an even number of at least 2, or ``side`` is unknown.
    ShapeError, NonFiniteError
        By `constrain`, if the weight is a vector, or has entries that are not finite.

    Notes
    -----
    The parameter ``vectors`` has shape (..., r/2, 2, n). The lengths of the vectors have no effect. The vectors start
    with independent normal entries, the same for both vectors of a pair. An odd number of reflections has determinant
    -1, so it cannot start as the identity.

    The product is :math:`I + P (I - N)^{-1} Q^{\mathsf H}`. The columns of ``P`` and ``Q`` are the factors of all
    pairs, and ``N`` is the part of :math:`Q^{\mathsf H} P` above its diagonal blocks. It takes 2 r n multiplications
    per input, as many as a low-rank adapter of rank r.

    Source: Yuan, Liu and Xu (2024). Add their regularization of the vectors to the loss if you need it.

    Examples
    --------
    >>> layer = torch.nn.Linear(8, 5)
    >>> x, before = torch.ones(3, 8), layer(torch.ones(3, 8))
    >>> layer = mr.constrain(layer, "weight", mr.ReflectionAdapter(4))
    >>> assert torch.equal(layer(x), before) and layer.constraints["weight"].vectors.shape == (2, 2, 8)
    """

    count: int = 8
    side: Side = field(default="input", kw_only=True)
    save_base: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        require_side(self.side, "ReflectionAdapter")
        if not is_integer(self.count, 2) or self.count % 2:
            raise OptionError(
                "ReflectionAdapter needs pairs of reflections, since an odd number cannot start as the identity.\n"
                f"Expected an even count of at least 2, got {self.count!r:.40}.\nUse e.g. 8."
            )

    def trivialize(self, like: Tensor) -> ReflectionAdapterParametrization:
        """Return the parametrization of a weight that starts as ``like``."""
        require_weight(like, "ReflectionAdapter")
        return ReflectionAdapterParametrization(self, like)


class ReflectionAdapterParametrization(TurningParametrization):
    """A frozen weight and the ``vectors`` of reflections, which start equal in pairs."""

    def __init__(self, constraint: ReflectionAdapter, weight: Tensor) -> None:
        super().__init__(weight, side=constraint.side, save_base=constraint.save_base)
        like = weight.new_empty((*weight.shape[:-2], constraint.count // 2, 2, self.width), dtype=self.wide_dtype)
        self.vectors = nn.Parameter(like)
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw the first vector of each pair uniformly on its sphere, and set the second equal to it."""
        first = torch.empty_like(self.vectors[..., :1, :]).normal_(generator=generator)
        self.vectors.copy_(first.expand_as(self.vectors))

    @property
    def work(self) -> int:
        return 2 * self.vectors.shape[-3] * 2 * self.width

    def turning(self, dtype: torch.dtype, *, adjoint: bool) -> Callable[[Tensor], Tensor]:
        P, Q = self._factors()
        if adjoint:
            P, Q = Q, P
        P, Q = P.to(dtype), Q.to(dtype)
        return lambda rows: rows + (rows @ P.mT) @ Q.conj()

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Return ``P'`` and ``Q'``, transposes of ``P (I - N)^-1`` and ``Q``; ``R`` is ``I + P'^T conj(Q')``."""
        u, v = unit(wide(self.vectors)).unbind(-2)
        delta = v - u
        along = (u.conj() * delta).sum(-1, keepdim=True)
        P = torch.stack([2 * u, 4 * along * u - 2 * delta], -2).flatten(-3, -2)
        Q = torch.stack([delta, v], -2).flatten(-3, -2)
        pair = torch.arange(P.shape[-2], device=P.device) // 2
        later = pair[:, None] < pair
        N = torch.where(later, Q.conj() @ P.mT, 0)
        eye = torch.eye(N.shape[-1], dtype=N.dtype, device=N.device)
        return torch.linalg.solve_triangular((eye - N).mT, P, upper=False, unitriangular=True), Q
