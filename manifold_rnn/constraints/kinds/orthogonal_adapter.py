"""A frozen weight times a trained orthogonal matrix, block-diagonal or a butterfly of such matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..._options import is_integer
from ...errors import OptionError, UnsupportedError
from ...linalg import cayley_series, pack_skew, unpack_skew
from ...linalg.block_product import interleaved, plus_blocks, separated
from ...linalg.defect import minus_identity, plus_identity
from ...retractions import Retraction, get
from .adapter import Adapter, Side, TurningParametrization, orthogonal, require_side, require_weight, wide

_LARGEST_BLOCK = 32
_RANGES = {"block_size": (1, 2**31), "factors": (1, 64), "series_terms": (2, 1024)}
_EXAMPLES = {"block_size": 32, "factors": 1, "series_terms": 5}


@dataclass(frozen=True, eq=False)
class OrthogonalAdapter(Adapter):
    r"""A frozen weight times a trained orthogonal matrix: the adapters OFT and BOFT.

    .. math:: W = W_0 R, \qquad R = B_1 \cdots B_m, \qquad
        B_j = P_j \operatorname{diag}\bigl(\varphi(A_{j1}), \dots, \varphi(A_{jN})\bigr) P_j^{\mathsf T}.

    The blocks have size b = n/N. :math:`P_1` is the identity. For j > 1, :math:`P_j` forms blocks from two pieces of
    b/2 coordinates that are :math:`2^{j-1}` pieces apart, as in a fast Fourier transform. ``R`` starts as the identity,
    so the first output equals that of the frozen layer exactly.

    Parameters
    ----------
    block_size : int, optional
        The size ``b``. Default: the largest divisor of n that is at most 32. Real blocks of size 1 are refused.
    retraction : str or Retraction
        :math:`\varphi`: ``"cayley"``, ``"exp"``, ``"qr"`` or ``"polar"``. For rotations near 180 degrees the
        coordinates of the Cayley map are unbounded, those of the exponential are not.
    side : "input" or "output"
        Whether the weight is :math:`W_0 R` or :math:`R W_0`.
    factors : int
        The number ``m`` of factors: 1 for OFT, more for BOFT.
    share : bool
        Whether all blocks of a factor are the same.
    series_terms : int, optional
        Replace the Cayley map by `manifold_rnn.linalg.cayley_series` with this number of terms, as some libraries do.
        ``R`` is then not orthogonal.
    save_base : bool
        Whether the state dict contains the frozen weight.

    Raises
    ------
    OptionError
        If an option is unknown or out of range; by `constrain`, if the options do not fit the size of the weight.
    ShapeError, NonFiniteError
        By `constrain`, if the weight is a vector, or has entries that are not finite.

    Notes
    -----
    The adapter has m N b(b - 1)/2 real numbers, and m N b² for complex weights; with ``share``, N = 1. The parameter
    ``coordinates`` has shape (..., m, N, b(b - 1)/2), in the order of `manifold_rnn.linalg.pack_skew`. It is in float32
    even if the weight is in half precision. The rows of :math:`W_0 R` have the same inner products as those of
    :math:`W_0`.

    A linear layer multiplies its inputs by ``R``, instead of its weight, if that is less work. With gradients this is
    nearly always so, and without gradients if there are fewer inputs than outputs. `manifold_rnn.release` merges the
    adapter: it computes the product in float32 or better and rounds it once. In butterflies b must be even and N a
    multiple of :math:`2^{m-1}`. Weight decay on ``coordinates`` pulls towards the frozen weight.

    Source: Qiu et al. (2023) for OFT, Liu et al. (2024) for BOFT.

    Examples
    --------
    >>> layer = torch.nn.Linear(8, 5)
    >>> x, before = torch.ones(3, 8), layer(torch.ones(3, 8))
    >>> layer = mr.constrain(layer, "weight", mr.OrthogonalAdapter(block_size=4))
    >>> assert torch.equal(layer(x), before) and mr.degrees_of_freedom(layer.constraints) == 12
    """

    block_size: int | None = None
    retraction: str | Retraction = "cayley"
    side: Side = field(default="input", kw_only=True)
    factors: int = field(default=1, kw_only=True)
    share: bool = field(default=False, kw_only=True)
    series_terms: int | None = field(default=None, kw_only=True)
    save_base: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        require_side(self.side, "OrthogonalAdapter")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if (value is not None or name == "factors") and not (is_integer(value, least) and value <= most):
                raise OptionError(
                    f"{name} of OrthogonalAdapter is out of range.\n"
                    f"Expected an integer from {least} to {most}, got {value!r:.40}.\nUse e.g. {_EXAMPLES[name]}."
                )
        chosen = get(self.retraction)
        if self.series_terms is not None and chosen.name != "cayley":
            raise OptionError(
                "series_terms of OrthogonalAdapter needs a retraction with a series.\n"
                f'Expected retraction="cayley", got {chosen.name!r}.\nLeave series_terms out for an orthogonal matrix.'
            )

    def trivialize(self, like: Tensor) -> OrthogonalAdapterParametrization:
        """Return the parametrization of a weight that starts as ``like``."""
        require_weight(like, "OrthogonalAdapter")
        n = like.shape[-1 if self.side == "input" else -2]
        b = self.block_size or max(k for k in range(1, min(n, _LARGEST_BLOCK) + 1) if n % k == 0)
        if n % b:
            raise OptionError(
                f"block_size must divide the {self.side} size of the weight, here {n}.\nExpected a divisor, got {b}.\n"
                f"Use {max(k for k in range(1, min(n, b) + 1) if n % k == 0)}, or leave block_size out."
            )
        if b == 1 and not like.is_complex():
            raise OptionError(
                "Blocks of one real coordinate have nothing to rotate.\n"
                f"Expected a block_size of at least 2 that divides the {self.side} size of the weight, here {n}; got "
                f"{'none up to 32' if self.block_size is None else 1}.\n"
                "Pass another block_size, the other side, or use ReflectionAdapter."
            )
        if self.factors > 1 and (b % 2 or (n // b) % 2 ** (self.factors - 1)):
            raise OptionError(
                f"A butterfly of m = {self.factors} factors needs an even block_size, and a number of blocks that is a "
                f"multiple of 2^(m - 1).\nGot block_size {b} and {n // b} blocks.\n"
                "Use fewer factors or another block_size."
            )
        return OrthogonalAdapterParametrization(self, like, b)


class OrthogonalAdapterParametrization(TurningParametrization):
    """A frozen weight and the ``coordinates`` of the blocks of an orthogonal matrix, which start as 0."""

    def __init__(self, constraint: OrthogonalAdapter, weight: Tensor, block_size: int) -> None:
        super().__init__(weight, side=constraint.side, save_base=constraint.save_base)
        self.block_size, self.series_terms = block_size, constraint.series_terms
        self._retraction = get(constraint.retraction)
        b = block_size
        blocks = 1 if constraint.share else self.width // b
        numbers = b * b if weight.is_complex() else b * (b - 1) // 2
        shape = (*weight.shape[:-2], constraint.factors, blocks, numbers)
        self.coordinates = nn.Parameter(weight.new_zeros(shape, dtype=self.wide_dtype.to_real()))

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, side="{self.side}", block_size={self.block_size}'

    @property
    def factors(self) -> int:
        """The number of block-diagonal factors."""
        return self.coordinates.shape[-3]

    @property
    def work(self) -> int:
        return self.factors * self.width * self.block_size

    def blocks(self) -> Tensor:
        """Return the blocks of all factors, shape (..., m, N, b, b)."""
        return plus_identity(self._changes())

    def _changes(self) -> Tensor:
        A = unpack_skew(wide(self.coordinates), self.wide_dtype)
        if self.series_terms is not None:
            return minus_identity(cayley_series(A, self.series_terms))
        return minus_identity(orthogonal(self._retraction, A))

    def turning(self, dtype: torch.dtype, *, adjoint: bool) -> Callable[[Tensor], Tensor]:
        D = self._changes()
        D = (D.mH if adjoint else D).to(dtype)
        order = range(self.factors)

        def turn(rows: Tensor) -> Tensor:
            for j in reversed(order) if adjoint else order:
                distance, half = 2**j, self.block_size // 2
                pairs = interleaved(rows, distance, half)
                rows = separated(plus_blocks(pairs, D[..., j, :, :, :]), distance, half)
            return rows

        return turn

    @property
    def retraction(self) -> Retraction | None:
        return self._retraction if self.series_terms is None else None

    @torch.no_grad()
    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction and compute new coordinates of the same weight."""
        if self.series_terms is not None:
            raise UnsupportedError(
                "An adapter with series_terms uses the truncated Cayley map, which is not a retraction.\n"
                f"Expected series_terms=None, got {self.series_terms}.\nRelease the weight and constrain it again."
            )
        chosen = get(retraction)
        self.coordinates.copy_(pack_skew(chosen.inverse_group_map(self.blocks())))
        self._retraction = chosen
