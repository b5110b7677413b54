"""Block-triangular matrices: two manifolds on the diagonal, and a free block above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import geoopt
import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from .adapted import adapt
from .base import Manifold
from .euclidean import Euclidean
from .layout import Layout, Shape
from .matrix import as_shape
from .parts import Parts


@dataclass(frozen=True)
class TriangularLayout(Layout):
    r"""Two square blocks on the diagonal, and the coupling block above them.

    .. math:: x = \begin{pmatrix} \text{top} & \text{coupling} \\ 0 & \text{bottom} \end{pmatrix}.

    Parameters
    ----------
    rows : int, optional
        Rows of the top block. Default: half of all rows, rounded down.

    Raises
    ------
    OptionError
        If ``rows`` is not a positive integer.

    Examples
    --------
    >>> assert mr.manifolds.TriangularLayout(rows=3).shapes((5, 5)) == ((3, 3), (2, 2), (3, 2))
    """

    advice: ClassVar[str] = "Check split= and the size."
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and (type(self.rows) is not int or self.rows < 1):
            raise OptionError(
                f"split must be the number of rows of the top block.\nExpected 1, 2, ..., got {self.rows!r}.\n"
                "Leave it out for half of the rows."
            )

    @property
    def names(self) -> tuple[str, ...]:
        return ("top", "bottom", "coupling")

    def _top(self, shape: Shape) -> int:
        """Return the number of rows of the top block."""
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ShapeError(
                f"A block triangle must be square.\nExpected shape (..., n, n), got {tuple(shape)}.\nReshape it."
            )
        n = shape[-1]
        k = n // 2 if self.rows is None else self.rows
        if not 0 < k < n:
            raise ShapeError(
                f"A block triangle needs at least one row in each block.\nExpected n > {max(k, 1)}, got n = {n}.\n"
                "Choose another split or size."
            )
        return k

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        k, batch, n = self._top(shape), tuple(shape[:-2]), shape[-1]
        return (*batch, k, k), (*batch, n - k, n - k), (*batch, k, n - k)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        k = self._top(x.shape)
        return x[..., :k, :k], x[..., k:, k:], x[..., :k, k:]

    def join(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        top, bottom, coupling = parts
        zeros = torch.zeros_like(coupling.mT)
        return torch.cat([torch.cat([top, coupling], -1), torch.cat([zeros, bottom], -1)], -2)

    def remainder(self, x: Tensor) -> Tensor:
        """Return the norm of the block below the diagonal."""
        k = self._top(x.shape)
        return torch.linalg.matrix_norm(x[..., k:, :k])


class BlockTriangular(Parts):
    r"""Square matrices with two square blocks on the diagonal, each on its own manifold.

    .. math:: x = \begin{pmatrix} a & f \\ 0 & d \end{pmatrix}, \qquad
        a \in \text{top}, \quad d \in \text{bottom}, \quad f \text{ free}.

    The metric is that of the product. The eigenvalues are those of ``a`` and ``d``. In a recurrence with column states,
    the lower units influence the upper ones, but not vice versa.

    Parameters
    ----------
    top, bottom : geoopt.Manifold
        The manifolds of the diagonal blocks. For structured constraints use `manifold_rnn.block_triangular`.
    split : int, optional
        Rows of the top block. Default: half of all rows, rounded down.

    Raises
    ------
    OptionError
        If ``split`` is not a positive integer, or a block is not a manifold.

    Notes
    -----
    Tensors have shape (..., n, n); all axes except the last two are batch axes. Source: Helfrich and Ye (2020), who use
    an orthogonal top block for long-term memory and `UnitDisc` as the bottom block for short-term memory.

    Examples
    --------
    >>> enrnn = mr.BlockTriangular(mr.Orthogonal(), mr.UnitDisc(), split=3)
    >>> x = enrnn.random(5, 5)
    >>> assert mr.linalg.defect(x[:3, :3]) < 1e-5 and x[3:, :3].count_nonzero() == 0
    """

    name = "BlockTriangular"
    ndim = 2

    def __init__(self, top: geoopt.Manifold, bottom: geoopt.Manifold, split: int | None = None) -> None:
        super().__init__()
        self._layout = TriangularLayout(split)
        for place, part in (("top", top), ("bottom", bottom)):
            if not isinstance(part, geoopt.Manifold):
                raise OptionError(
                    f"The {place} block of BlockTriangular must be on a manifold.\nExpected an object such as "
                    f"Orthogonal(), got {type(part).__name__}.\nFor structured constraints use block_triangular(...)."
                )
        self.top, self.bottom, self.coupling = adapt(top), adapt(bottom), Euclidean()

    @property
    def layout(self) -> TriangularLayout:
        return self._layout

    @property
    def members(self) -> tuple[Manifold, ...]:
        return self.top, self.bottom, self.coupling

    def with_members(self, members: Sequence[Manifold]) -> Self:
        return type(self)(members[0], members[1], self._layout.rows)

    def extra_repr(self) -> str:
        return f"split={self._layout.rows}"

    def random(self, *size: Any, **kwargs: Any) -> Tensor:
        """Return random blocks by the ``random`` of their manifolds; free entries have variance ``2 / n``."""
        shape = as_shape(size)
        of_top, of_bottom, of_coupling = self._layout.shapes(shape)
        top = self.top.random(of_top, **kwargs)
        kwargs["dtype"] = top.dtype
        coupling = self.coupling.random(of_coupling, **kwargs) * (2 / shape[-1]) ** 0.5
        return self._layout.join((top, self.bottom.random(of_bottom, **kwargs), coupling), shape)
