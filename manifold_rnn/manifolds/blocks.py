"""Weights that contain stacked matrices, some of them constrained: gates, attention heads, kernels."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import ClassVar, Self

import geoopt
import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from .adapted import adapt
from .base import Manifold
from .euclidean import Euclidean
from .layout import Layout, Shape
from .parts import Parts

Axes = int | Sequence[int]


@dataclass(frozen=True)
class BlockLayout(Layout):
    """Groups of equal blocks, stacked in the rows of the matrix that a tensor represents.

    The axes in ``matrix_dims`` are flattened into the rows and columns of a matrix of shape (blocks * n, m). Its rows
    are divided into blocks of shape (n, m). A part consists of the blocks of one group, of shape (..., k, n, m).

    Parameters
    ----------
    groups : tuple of tuple of int
        Groups of block numbers. Each block, counted from 0, is in exactly one group.
    free : bool
        Whether the last group is free.
    matrix_dims : pair of tuple of int
        The axes of the rows and those of the columns, counted from the end. Several axes are flattened in the given
        order. Other axes are a batch. Those after a named axis are a batch of matrices within one point, those before
        all named axes a batch of points.
    transpose : bool
        Whether the parts contain the transpose (m, n) of each block.

    Raises
    ------
    OptionError
        If ``groups`` does not contain each block once, or ``matrix_dims`` is invalid.

    Examples
    --------
    >>> layout = mr.manifolds.BlockLayout(((2,), (0, 1)))
    >>> third, others = layout.split(torch.ones(12, 3))
    >>> assert third.shape == (1, 4, 3) and others.shape == (2, 4, 3)
    """

    advice: ClassVar[str] = "Check blocks=, matrix_dims= and the layer's sizes."
    groups: tuple[tuple[int, ...], ...]
    free: bool = False
    matrix_dims: tuple[tuple[int, ...], tuple[int, ...]] = ((-2,), (-1,))
    transpose: bool = False

    def __post_init__(self) -> None:
        numbers = sorted(k for group in self.groups for k in group)
        if not self.groups or numbers != list(range(len(numbers))) or not all(self.groups):
            raise OptionError(
                f"groups must contain each block once, counted from 0.\nGot {self.groups!r}.\nCheck the block numbers."
            )
        _require_axes(self.matrix_dims)

    @classmethod
    def choose(
        cls, blocks: int, chosen: Sequence[Sequence[int]] | None, matrix_dims: tuple[Axes, Axes], transpose: bool
    ) -> Self:
        """Return the layout with these blocks as one group (default: all blocks), and the others free."""
        known = range(blocks) if type(blocks) is int else range(0)
        whole = [tuple(known)] if chosen is None else chosen
        groups = [tuple(group) if isinstance(group, Sequence) else () for group in whole]
        named = [k for group in groups for k in group]
        if not all(groups) or len(set(named)) < len(named) or not set(named) <= set(known):
            raise OptionError(
                "blocks must be positive, and which must list some of the blocks, each once, counted from 0.\n"
                f"Got blocks={blocks!r}, which={whole[0] if len(whole) == 1 else tuple(named)!r}.\n"
                "An LSTM has 4 blocks (i, f, g, o), a GRU 3 (r, z, n). Pass which=(2,) for the third block."
            )
        others = tuple(k for k in known if k not in named)
        return cls((*groups, others) if others else tuple(groups), bool(others), _axes(matrix_dims), transpose)

    @property
    def ndim(self) -> int:
        return -min(*self.matrix_dims[0], *self.matrix_dims[1])

    @property
    def blocks(self) -> int:
        """The number of stacked blocks."""
        return sum(map(len, self.groups))

    @property
    def names(self) -> tuple[str, ...]:
        constrained = self.groups[:-1] if self.free else self.groups
        return *("_".join(map(str, group)) for group in constrained), *(["free"] if self.free else [])

    # --- the tensor as a matrix ---

    @property
    def reads_last_axes(self) -> bool:
        """Whether the last two axes are rows and columns, so that no axis is permuted."""
        return self.matrix_dims == ((-2,), (-1,))

    @cached_property
    def _inner(self) -> tuple[int, ...]:
        """The axes of a batch within one point."""
        return tuple(k for k in range(-self.ndim, 0) if k not in self.matrix_dims[0] + self.matrix_dims[1])

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return tuple(k + self.ndim for k in self._inner + self.matrix_dims[0] + self.matrix_dims[1])

    def _to_matrix(self, x: Tensor) -> Tensor:
        """Return the matrices (..., blocks * n, m) that the tensor represents."""
        if self.reads_last_axes:
            return x
        lead, inner, rows = x.ndim - self.ndim, len(self._inner), len(self.matrix_dims[0])
        y = x.permute(*range(lead), *(lead + k for k in self._order))  # (..., *inner, *rows, *columns)
        y = y.flatten(lead + inner + rows)  # (..., *inner, *rows, m)
        return y.flatten(lead + inner, lead + inner + rows - 1)  # (..., *inner, blocks * n, m)

    def _from_matrix(self, matrix: Tensor, shape: Shape) -> Tensor:
        if self.reads_last_axes:
            return matrix
        span = self.ndim
        lead, sizes = len(shape) - span, shape[len(shape) - span :]
        permuted = matrix.reshape(*shape[:lead], *(sizes[k] for k in self._order))  # (..., *inner, *rows, *columns)
        back = sorted(range(span), key=self._order.__getitem__)
        return permuted.permute(*range(lead), *(lead + k for k in back))

    # --- the matrix as blocks: slices of runs, since lists of indices would be copied to the device each time ---

    @cached_property
    def _cuts(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each group, start and length of the runs of consecutive blocks."""
        return tuple(tuple(_runs(group)) for group in self.groups)

    @cached_property
    def _pieces(self) -> tuple[tuple[int, int, int], ...]:
        """For each run of blocks, in the order of the blocks: its group, and its start and length within the group."""
        place = {block: (g, i) for g, group in enumerate(self.groups) for i, block in enumerate(group)}
        pieces: list[tuple[int, int, int]] = []
        for block in range(self.blocks):
            g, i = place[block]
            if pieces and pieces[-1][0] == g and sum(pieces[-1][1:]) == i:
                pieces[-1] = (g, pieces[-1][1], pieces[-1][2] + 1)
            else:
                pieces.append((g, i, 1))
        return tuple(pieces)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        self.shapes(x.shape)
        stacked = self._to_matrix(x).unflatten(-2, (self.blocks, -1))  # (..., blocks, n, m)
        stacked = stacked.mT if self.transpose else stacked  # (..., blocks, m, n) if transposed
        return tuple(_cat([stacked.narrow(-3, *run) for run in runs]) for runs in self._cuts)  # each (..., k, n, m)

    def join(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        stacked = _cat([parts[g].narrow(-3, start, length) for g, start, length in self._pieces])  # (..., blocks, n, m)
        matrix = (stacked.mT if self.transpose else stacked).flatten(-3, -2)  # (..., blocks * n, m)
        return self._from_matrix(matrix, shape)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        if len(shape) < self.ndim or math.prod([shape[k] for k in self.matrix_dims[0]]) % self.blocks:
            raise ShapeError(
                f"The tensor must represent matrices of {self.blocks} stacked blocks.\n"
                f"Expected {self.ndim} axes or more and {self.blocks} equal blocks of rows, got {tuple(shape)}.\n"
                f"{self.advice}"
            )
        rows, columns = (math.prod([shape[k] for k in axes]) for axes in self.matrix_dims)
        block = (rows // self.blocks, columns)
        block = block[::-1] if self.transpose else block
        outer = (*shape[: len(shape) - self.ndim], *(shape[k] for k in self._inner))
        return tuple((*outer, len(group), *block) for group in self.groups)


class Blocks(Parts):
    r"""Matrices contained in a weight, such as gates of an LSTM or the kernel of a convolution, on a manifold.

    The axes in ``matrix_dims`` are flattened into the rows and columns of one matrix, of shape (blocks * n, m). Its
    rows are divided into ``blocks`` matrices of shape (n, m). The chosen ones are on ``manifold``, the others are free.

    Parameters
    ----------
    manifold : geoopt.Manifold
        The manifold of the chosen blocks.
    blocks : int
        The number of stacked matrices.
    which : sequence of int, optional
        The chosen blocks, counted from 0. Default: all.
    matrix_dims : pair of int or sequence of int
        The axes of the rows and those of the columns, counted from the end. Several axes are flattened in the given
        order. Other axes are a batch. Those after a named axis are a batch of matrices within one point, those before
        all named axes a batch of points.
    transpose : bool
        Whether the transpose (m, n) of each block is on ``manifold``, so that wide blocks have orthonormal rows.

    Raises
    ------
    OptionError
        If ``blocks``, ``which`` or ``matrix_dims`` is invalid.

    Examples
    --------
    >>> gates = mr.manifolds.Blocks(mr.Orthogonal(), blocks=4, which=(2,))
    >>> W = gates.projx(torch.randn(12, 3)); assert mr.linalg.defect(W[6:9]) < 1e-5
    """

    name = "Blocks"

    def __init__(
        self,
        manifold: geoopt.Manifold,
        blocks: int = 1,
        which: Sequence[int] | None = None,
        *,
        matrix_dims: tuple[Axes, Axes] = (-2, -1),
        transpose: bool = False,
    ) -> None:
        super().__init__()
        self._layout = BlockLayout.choose(blocks, None if which is None else [which], matrix_dims, transpose)
        self.manifold, self.free = adapt(manifold), Euclidean()
        self.ndim, self.name = self._layout.ndim, f"Blocks({manifold.name})"

    @property
    def layout(self) -> BlockLayout:
        return self._layout

    @property
    def members(self) -> tuple[Manifold, ...]:
        return (self.manifold, self.free) if self._layout.free else (self.manifold,)

    def with_members(self, members: Sequence[Manifold]) -> Self:
        layout = self._layout
        dims, transpose = layout.matrix_dims, layout.transpose
        return type(self)(members[0], layout.blocks, layout.groups[0], matrix_dims=dims, transpose=transpose)

    def extra_repr(self) -> str:
        layout = self._layout
        dims = "" if layout.reads_last_axes else f", matrix_dims={layout.matrix_dims}"
        transpose = ", transpose=True" if layout.transpose else ""
        return f"blocks={layout.blocks}, which={layout.groups[0]}{dims}{transpose}"

    def example_shape(self) -> Shape:
        first = self._layout.matrix_dims[0][0]
        return tuple(4 * self._layout.blocks if axis == first else 4 for axis in range(-self.ndim, 0))


def _runs(group: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield start and length of the runs of consecutive numbers."""
    for _, run in groupby(enumerate(group), lambda pair: pair[1] - pair[0]):
        (_, first), *others = run
        yield first, 1 + len(others)


def _cat(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -3)


def _axes(matrix_dims: tuple[Axes, Axes]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes of rows and columns as tuples of negative numbers."""
    try:
        rows, columns = ((k,) if isinstance(k, int) else tuple(map(operator.index, k)) for k in matrix_dims)
    except (TypeError, ValueError):
        rows, columns = (), ()
    return _require_axes((rows, columns), matrix_dims)


def _require_axes(
    axes: tuple[tuple[int, ...], tuple[int, ...]], received: object = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    named = axes[0] + axes[1]
    if not all(axes) or len(set(named)) < len(named) or max(named) >= 0:
        raise OptionError(
            "matrix_dims must name the axes of the rows and those of the columns, each once, counted from the end.\n"
            f"Got {received or axes!r}.\nThe kernel of a 2d convolution is (-4, (-3, -2, -1))."
        )
    return axes
