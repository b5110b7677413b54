"""A manifold seen through a reshape: a tensor is read as matrices, some are constrained, the rest is free."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Self

import geoopt
import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from ..retractions import Retraction
from .base import Manifold, adapt


class Viewed(Manifold):
    r"""A manifold on matrices that a weight is read as, such as chosen gates of an LSTM or the kernel of a convolution.

    The axes in ``matrix_dims`` are flattened into the rows and columns of one matrix, of shape (blocks * n, m), whose
    rows are cut into ``blocks`` matrices of shape (n, m). The chosen ones lie on ``manifold``, the others are
    Euclidean; the metric is that of the product.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Of the chosen blocks.
    blocks : int
        How many matrices are stacked.
    which : sequence of int, optional
        The chosen ones, counted from 0. Default: all.
    matrix_dims : pair of int or sequence of int
        The axes of the rows and those of the columns, counted from the end; several are flattened in the order given.
        Axes in neither are a batch: of matrices within one point where they come after one that is named, else of
        points.
    transpose : bool
        Whether it is the transpose (m, n) of each block that lies on ``manifold``: wide ones have orthonormal rows.

    Raises
    ------
    OptionError
        If ``blocks``, ``which`` or ``matrix_dims`` make no sense.

    Notes
    -----
    Coordinates are one real vector a point: those of the chosen blocks, then the free entries.

    Examples
    --------
    >>> gates = mr.manifolds.Viewed(mr.Orthogonal(), blocks=4, which=(2,))
    >>> W = gates.projx(torch.randn(12, 3)); assert mr.linalg.defect(W[6:9]) < 1e-5
    """

    is_choice = False

    def __init__(
        self,
        manifold: geoopt.Manifold,
        blocks: int = 1,
        which: Sequence[int] | None = None,
        *,
        matrix_dims: tuple[int | Sequence[int], int | Sequence[int]] = (-2, -1),
        transpose: bool = False,
    ) -> None:
        super().__init__()
        whole = isinstance(blocks, int) and (which is None or isinstance(which, Sequence))
        chosen = () if not whole else tuple(range(blocks)) if which is None else tuple(which)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(blocks)):
            raise OptionError(
                "blocks is a positive number and which names some of the blocks, each once, counted from 0.\n"
                f"Got blocks={blocks!r}, which={which!r}.\nAn LSTM has 4 blocks (i, f, g, o), a GRU 3 (r, z, n)."
            )
        self.manifold = adapt(manifold)
        self.name, self.reversible = f"Viewed({manifold.name})", manifold.reversible
        self.blocks, self.which, self.transpose = blocks, chosen, transpose
        self.matrix_dims = _pair(matrix_dims)
        rows, columns = self.matrix_dims
        self.ndim = span = -min(*rows, *columns)
        self._inner = tuple(k for k in range(-span, 0) if k not in rows + columns)  # batches within one weight
        self._order = tuple(k + span for k in self._inner + rows + columns)
        self._plain = self.matrix_dims == ((-2,), (-1,))
        self._free = tuple(k for k in range(blocks) if k not in chosen)
        self._runs = _runs(chosen), _runs(self._free)
        order = chosen + self._free
        self._back = _runs([order.index(k) for k in range(blocks)], len(chosen))

    @property
    def retraction(self) -> Retraction:  # type: ignore[override]
        """The retraction of the manifold that the blocks lie on."""
        return self.manifold.retraction

    def with_retraction(self, retraction: str | Retraction) -> Self:
        inner = self.manifold.with_retraction(retraction)
        return type(self)(inner, self.blocks, self.which, matrix_dims=self.matrix_dims, transpose=self.transpose)

    def key(self) -> Hashable:
        return (type(self), self.manifold.key(), self.blocks, self.which, self.matrix_dims, self.transpose)

    def extra_repr(self) -> str:
        dims = "" if self._plain else f", matrix_dims={self.matrix_dims}"
        return f"blocks={self.blocks}, which={self.which}{dims}" + (", transpose=True" if self.transpose else "")

    # --- blocks ---

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen blocks and the free ones, of shapes (..., k, n, m), or (..., k, m, n) with ``transpose``."""
        b = self._read(x).unflatten(-2, (self.blocks, -1))
        b = b.mT if self.transpose else b
        chosen, free = (_cat([b.narrow(-3, *run) for run in runs]) for runs in self._runs)
        return chosen, free

    def join(self, chosen: Tensor, free: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that shape that has these blocks: the inverse of `split`."""
        taken = len(self.which)
        b = _cat(
            [
                free.narrow(-3, start - taken, length) if start >= taken else chosen.narrow(-3, start, length)
                for start, length in self._back
            ]
        )
        matrix = (b.mT if self.transpose else b).flatten(-3, -2)
        if self._plain:
            return matrix
        span = self.ndim
        lead, sizes = len(shape) - span, shape[len(shape) - span :]
        permuted = matrix.reshape(*shape[:lead], *(sizes[k] for k in self._order))
        back = sorted(range(span), key=self._order.__getitem__)
        return permuted.permute(*range(lead), *(lead + k for k in back))

    def _read(self, x: Tensor) -> Tensor:
        """The matrices (..., blocks * n, m) that the tensor is read as."""
        if self._plain:
            return x
        lead, inner, rows = x.ndim - self.ndim, len(self._inner), len(self.matrix_dims[0])
        y = x.permute(*range(lead), *(lead + k for k in self._order))
        return y.flatten(lead + inner + rows).flatten(lead + inner, lead + inner + rows - 1)

    def shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of what `split` gives for a tensor of that shape."""
        rows, columns = (math.prod([shape[k] for k in axes]) for axes in self.matrix_dims)
        block = (rows // self.blocks, columns)
        block = block[::-1] if self.transpose else block
        outer = (*shape[: len(shape) - self.ndim], *(shape[k] for k in self._inner))
        return (*outer, len(self.which), *block), (*outer, len(self._free), *block)

    def _each(self, on_chosen: Callable[..., Tensor], on_free: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        chosen, free = zip(*map(self.split, tensors), strict=True)
        return self.join(on_chosen(*chosen), on_free(*free), tensors[0].shape)

    # --- checks ---

    def require(self, x: Tensor, name: str = "x") -> None:
        ok, reason = self._check_shape(tuple(x.shape), name)
        if not ok:
            raise ShapeError(
                f"{reason}.\nThe tensor is read as matrices of {self.blocks} stacked blocks.\n"
                "Check blocks=, matrix_dims= and the layer's sizes."
            )
        self.manifold.require(self.split(x)[0], f"the blocks {self.which} of {name}")

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        if len(shape) < self.ndim or math.prod([shape[k] for k in self.matrix_dims[0]]) % self.blocks:
            return False, f"`{name}` needs {self.ndim} axes and {self.blocks} equal blocks of rows, got {tuple(shape)}"
        result: tuple[bool, str | None] = self.manifold._check_shape(self.shapes(shape)[0], name)
        return result

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        result: tuple[bool, str | None] = self.manifold._check_point_on_manifold(self.split(x)[0], atol=atol, rtol=rtol)
        return result

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        x, u = self.split(x)[0], self.split(u)[0]
        result: tuple[bool, str | None] = self.manifold._check_vector_on_tangent(x, u, atol=atol, rtol=rtol)
        return result

    # --- geometry: the manifold's on the chosen blocks, Euclidean on the others ---

    def projx(self, x: Tensor) -> Tensor:
        return self._each(self.manifold.projx, lambda x: x, x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each(self.manifold.proju, lambda x, u: u, x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each(self.manifold.egrad2rgrad, lambda x, u: u, x, u)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each(self.manifold.retr, torch.add, x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each(self.manifold.expmap, torch.add, x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._each(self.manifold.logmap, lambda x, y: y - x, x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._each(self.manifold.transp, lambda x, y, v: v, x, y, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        (xc, _), (uc, uf), (vc, vf) = self.split(x), self.split(u), self.split(u if v is None else v)
        lead = x.ndim - self.ndim
        total = self.manifold.inner(xc, uc, vc).flatten(lead).sum(-1) + (uf.conj() * vf).real.flatten(lead).sum(-1)
        return total.reshape(*total.shape, *[1] * self.ndim) if keepdim else total

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.inner(x, u, keepdim=keepdim).sqrt()

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.norm(x, self.logmap(x, y), keepdim=keepdim)

    # --- coordinates ---

    def degrees_of_freedom(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        chosen, free = self.shapes(shape)
        reals = 2 if dtype is not None and dtype.is_complex else 1
        return self.manifold.degrees_of_freedom(chosen, dtype) + math.prod(free) * reals

    def coordinate_shape(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[int, ...]:
        batch = len(shape) - self.ndim
        chosen, free = (block[batch:] for block in self.shapes(shape))
        reals = 2 if dtype is not None and dtype.is_complex else 1
        return (*shape[:batch], math.prod(self.manifold.coordinate_shape(chosen, dtype)) + math.prod(free) * reals)

    def to_coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        (xc, _), (uc, uf) = self.split(x), self.split(u)
        return self._flat(x, self.manifold.to_coordinates(xc, uc), uf)

    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        (xc, _), (gc, gf) = self.split(x), self.split(g)
        return self._flat(x, self.manifold.egrad2coordinates(xc, gc), gf)

    def from_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        (xc, _), (cc, cf) = self.split(x), self._parts(x, c)
        return self.join(self.manifold.from_coordinates(xc, cc), cf, x.shape)

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        (xc, xf), (cc, cf) = self.split(x), self._parts(x, c)
        return self.join(self.manifold.retr_coordinates(xc, cc), xf + cf, x.shape)

    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        (xc, xf), (yc, yf) = self.split(x), self.split(y)
        return self._flat(x, self.manifold.inverse_retr_coordinates(xc, yc), yf - xf)

    def step_coordinates(self, x: Tensor, c: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        (xc, xf), (cc, cf) = self.split(x), self._parts(x, c)
        if carried is None:
            return self.join(self.manifold.step_coordinates(xc, cc, None)[0], xf + cf, x.shape), None
        vc, vf = self._parts(x, carried)
        y, moved = self.manifold.step_coordinates(xc, cc, vc)
        y = self.join(y, xf + cf, x.shape)
        return y, carried if moved is None or moved is vc else self._flat(x, moved, vf)

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        cc, cf = self._parts(x, c)
        squares = self.manifold.square_coordinates(self.split(x)[0], cc, how).expand_as(cc)
        batch = x.ndim - self.ndim
        return torch.cat([squares.flatten(batch), _reals(cf, batch).square()], -1)

    def _flat(self, x: Tensor, chosen: Tensor, free: Tensor) -> Tensor:
        batch = x.ndim - self.ndim
        flat = chosen.flatten(batch)
        return torch.cat([flat, _reals(free, batch)], -1) if self._free else flat

    def _parts(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        chosen, free = self.shapes(tuple(x.shape))
        inner = self.manifold.coordinate_shape(chosen, x.dtype)
        head = math.prod(inner[x.ndim - self.ndim :])
        rest = c[..., head:]
        rest = torch.complex(rest[..., ::2], rest[..., 1::2]) if x.is_complex() else rest.to(x.dtype)
        return c[..., :head].reshape(inner), rest.reshape(free)

    # --- points ---

    def defect(self, x: Tensor) -> Tensor:
        """The largest defect of a chosen block."""
        return self.manifold.defect(self.split(x)[0]).flatten(x.ndim - self.ndim).amax(-1)

    def polish(self, x: Tensor) -> Tensor:
        return self._each(self.manifold.polish, lambda x: x, x)

    @property
    def polish_every(self) -> int:
        return self.manifold.polish_every

    def random(self, *size: Any, **kwargs: Any) -> Tensor:
        """Chosen blocks by the manifold's ``random``, free entries standard normal."""
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        chosen, free = self.shapes(shape)
        points = self.manifold.random(*chosen, **kwargs)
        rest = torch.randn(free, dtype=points.dtype, device=points.device, generator=kwargs.get("generator"))
        return self.join(points, rest, shape)


def _runs(indices: Sequence[int], stop: int = 0) -> list[tuple[int, int]]:
    """Start and length of the ascending runs of ``indices``, none across ``stop``; an empty one if there are none."""
    runs: list[tuple[int, int]] = []
    for k in indices:
        start, length = runs[-1] if runs else (-1, 0)
        if runs and k == start + length != stop:
            runs[-1] = (start, length + 1)
        else:
            runs.append((k, 1))
    return runs or [(0, 0)]


def _cat(pieces: list[Tensor]) -> Tensor:
    # slices of runs, not a list of indices: that would be copied to the device at each call
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -3)


def _reals(u: Tensor, batch: int) -> Tensor:
    # not view_as_real, whose derivative needs an even offset in the storage
    return (torch.stack([u.real, u.imag], -1) if u.is_complex() else u).flatten(batch)


def _pair(matrix_dims: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns as tuples of negative axes."""
    try:
        rows, columns = ((k,) if isinstance(k, int) else tuple(map(operator.index, k)) for k in matrix_dims)
    except (TypeError, ValueError):
        rows, columns = (), ()
    named = rows + columns
    if not rows or not columns or len(set(named)) < len(named) or max(named) >= 0:
        raise OptionError(
            "matrix_dims names the axes of the rows and those of the columns, each once, counted from the end.\n"
            f"Got {matrix_dims!r}.\nA kernel of a 2d convolution is (-4, (-3, -2, -1))."
        )
    return rows, columns
