"""Block-triangular matrices: two manifolds on the diagonal, a free block between."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, Self

import geoopt
import torch
from torch import Tensor

from ..errors import OptionError, ShapeError, UnsupportedError
from ..retractions import Retraction
from .base import Manifold, adapt
from .unit_disc import UnitDisc


class BlockTriangular(Manifold):
    r"""Square matrices with two square blocks on the diagonal, each on a manifold of its own.

    .. math:: x = \begin{pmatrix} a & f \\ 0 & d \end{pmatrix}, \qquad
        a \in \text{top}, \quad d \in \text{bottom}, \quad f \text{ free},

    with the metric of the product. The spectrum is that of ``a`` and ``d`` together: in a recurrence with column states
    the lower units feed the upper ones and never hear back.

    Parameters
    ----------
    top, bottom : geoopt.Manifold, or structured constraint
        Of the diagonal blocks. With a structured constraint, such as `manifold_rnn.FixedBase`, or a chart of `UnitDisc`
        that needs it, there is only the trivialized view of `manifold_rnn.constrain`.
    split : int, optional
        Rows of the top block. Default: half of all, rounded down.

    Raises
    ------
    OptionError
        If ``split`` is not a positive number, or a block is neither of the two.

    Notes
    -----
    Tensors have shape (..., n, n), all axes but the last two are batch. Coordinates are one real vector a point: those
    of the top, of the bottom, then the free entries. Source: Helfrich and Ye (2020), with an orthogonal top block for
    long-term memory and `UnitDisc` below for short.

    Examples
    --------
    >>> enrnn = mr.BlockTriangular(mr.Orthogonal(), mr.UnitDisc(), split=3)
    >>> x = enrnn.random(5, 5)
    >>> assert mr.linalg.defect(x[:3, :3]) < 1e-5 and x[3:, :3].count_nonzero() == 0
    """

    name = "BlockTriangular"
    ndim = 2
    reversible = False

    def __init__(self, top: Any, bottom: Any, split: int | None = None) -> None:
        super().__init__()
        if split is not None and (type(split) is not int or split < 1):
            raise OptionError(
                f"split of BlockTriangular counts the rows of its top block.\nExpected 1, 2, ..., got {split!r}.\n"
                "Leave it out for half of the rows."
            )
        self.top, self.bottom, self.split = _part(top, "top"), _part(bottom, "bottom"), split

    @property
    def structured(self) -> bool:
        """Whether a block has a trivialized view only."""
        return any(map(_is_structured, (self.top, self.bottom)))

    @property
    def retraction(self) -> Retraction:  # type: ignore[override]
        """The retraction of the first block that takes any."""
        parts = self._manifolds()
        return next((p for p in parts if self._refit(p, "cayley") is not p), parts[0]).retraction

    def with_retraction(self, retraction: str | Retraction) -> Self:
        """The same with another retraction of each block that takes one."""
        top, bottom = (self._refit(p, retraction) for p in self._manifolds())
        if (top, bottom) == self._manifolds():
            return super().with_retraction(retraction)
        return type(self)(top, bottom, self.split)

    @staticmethod
    def _refit(part: Manifold, retraction: str | Retraction) -> Manifold:
        try:
            return part.with_retraction(retraction)
        except UnsupportedError:
            return part

    def key(self) -> Hashable:
        keys = (p.key() if isinstance(p, Manifold) else id(p) for p in (self.top, self.bottom))
        return (type(self), *keys, self.split)

    def extra_repr(self) -> str:
        return f"split={self.split}"

    # --- blocks ---

    def rows(self, n: int) -> int:
        """How many of ``n`` rows are the top block's; `ShapeError` if nothing is left for the other."""
        k = n // 2 if self.split is None else self.split
        if not 0 < k < n:
            raise ShapeError(
                f"BlockTriangular needs a row for each of its two blocks.\nExpected n > {max(k, 1)}, got n = {n}.\n"
                "Choose another split or size."
            )
        return k

    def pieces(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The top, the bottom and the free block of ``x``."""
        k = self.rows(x.shape[-1])
        return x[..., :k, :k], x[..., k:, k:], x[..., :k, k:]

    def join(self, top: Tensor, bottom: Tensor, free: Tensor) -> Tensor:
        """The matrix that has these blocks, and zeros below: the inverse of `pieces`."""
        zeros = torch.zeros_like(free.mT)
        return torch.cat([torch.cat([top, free], -1), torch.cat([zeros, bottom], -1)], -2)

    def _manifolds(self) -> tuple[Manifold, Manifold]:
        if self.structured:
            raise UnsupportedError(
                "A block of this BlockTriangular is built from factors, which have no step from a point.\n"
                f"Expected manifolds, got {type(self.top).__name__} and {type(self.bottom).__name__}.\n"
                "Use constrain(..., view='trivialized')."
            )
        return self.top, self.bottom

    def _each(self, name: str, on_free: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        top, bottom = self._manifolds()
        a, d, f = zip(*map(self.pieces, tensors), strict=True)
        return self.join(getattr(top, name)(*a), getattr(bottom, name)(*d), on_free(*f))

    def _shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        batch, n = tuple(shape[:-2]), shape[-1]
        k = self.rows(n)
        return (*batch, k, k), (*batch, n - k, n - k), (*batch, k, n - k)

    # --- checks ---

    def require(self, x: Tensor, name: str = "x") -> None:
        ok, reason = self._check_shape(tuple(x.shape), name)
        if not ok:
            raise ShapeError(f"{reason}.\nBlockTriangular holds square matrices of two blocks.\nCheck split=.")
        parts = zip(("top", "bottom"), self._manifolds(), self.pieces(x), strict=False)
        for place, part, block in parts:
            part.require(block, f"the {place} block of {name}")

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        if len(shape) < 2 or shape[-1] != shape[-2]:
            return False, f"`{name}` needs shape (..., n, n), got {tuple(shape)}"
        try:
            shapes = self._shapes(shape)
        except ShapeError as error:
            return False, str(error).replace("\n", " ").rstrip(".")
        results = (p._check_shape(s, name) for p, s in zip(self._manifolds(), shapes, strict=False))
        return next((result for result in results if not result[0]), (True, None))

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        k = self.rows(x.shape[-1])
        if x[..., k:, :k].numel() and float(x[..., k:, :k].abs().max()) > atol:
            return False, f"the block below the diagonal is not zero with atol={atol}"
        return self._both("_check_point_on_manifold", x, atol=atol, rtol=rtol)

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        k = self.rows(x.shape[-1])
        if u[..., k:, :k].numel() and float(u[..., k:, :k].abs().max()) > atol:
            return False, f"the block below the diagonal is not zero with atol={atol}"
        return self._both("_check_vector_on_tangent", x, u, atol=atol, rtol=rtol)

    def _both(self, name: str, *tensors: Tensor, **tolerances: float) -> tuple[bool, str | None]:
        blocks = zip(*map(self.pieces, tensors), strict=True)
        results = [getattr(p, name)(*b, **tolerances) for p, b in zip(self._manifolds(), blocks, strict=False)]
        return next((result for result in results if not result[0]), (True, None))

    # --- geometry: that of each block, Euclidean on the free one ---

    def projx(self, x: Tensor) -> Tensor:
        return self._each("projx", lambda x: x, x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each("proju", lambda x, u: u, x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each("egrad2rgrad", lambda x, u: u, x, u)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each("retr", torch.add, x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each("expmap", torch.add, x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._each("logmap", lambda x, y: y - x, x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._each("transp", lambda x, y, v: v, x, y, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        (top, bottom), v = self._manifolds(), u if v is None else v
        (xa, xd, _), (ua, ud, uf), (va, vd, vf) = self.pieces(x), self.pieces(u), self.pieces(v)
        total: Tensor = top.inner(xa, ua, va) + bottom.inner(xd, ud, vd) + (uf.conj() * vf).real.sum((-2, -1))
        return total[..., None, None] if keepdim else total

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.inner(x, u, keepdim=keepdim).sqrt()

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        top, bottom = self._manifolds()
        (xa, xd, xf), (ya, yd, yf) = self.pieces(x), self.pieces(y)
        squares = [top.dist(xa, ya).square(), bottom.dist(xd, yd).square(), (yf - xf).abs().square().sum((-2, -1))]
        total: Tensor = torch.stack(squares).sum(0).sqrt()
        return total[..., None, None] if keepdim else total

    # --- coordinates ---

    def coordinate_shape(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[int, ...]:
        return (*shape[:-2], sum(math.prod(c[len(shape) - 2 :]) for c in self._coordinate_shapes(shape, dtype)))

    def _coordinate_shapes(self, shape: tuple[int, ...], dtype: torch.dtype | None) -> list[tuple[int, ...]]:
        top, bottom, free = self._shapes(shape)
        reals = (2,) if dtype is not None and dtype.is_complex else ()
        both = zip(self._manifolds(), (top, bottom), strict=True)
        return [*(part.coordinate_shape(s, dtype) for part, s in both), (*free, *reals)]

    def degrees_of_freedom(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> int:
        top, bottom, free = self._shapes(shape)
        reals = math.prod(free) * (2 if dtype is not None and dtype.is_complex else 1)
        return (
            sum(p.degrees_of_freedom(s, dtype) for p, s in zip(self._manifolds(), (top, bottom), strict=True)) + reals
        )

    def to_coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        return self._flat("to_coordinates", lambda x, u: u, x, u)

    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        return self._flat("egrad2coordinates", lambda x, g: g, x, g)

    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        return self._flat("inverse_retr_coordinates", lambda x, y: y - x, x, y)

    def from_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return self._from("from_coordinates", lambda x, f: f, x, c)

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return self._from("retr_coordinates", torch.add, x, c)

    def step_coordinates(self, x: Tensor, c: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        parts, (a, d, f), coordinates = self._manifolds(), self.pieces(x), self._parts(x, c)
        vectors = (None, None, None) if carried is None else self._parts(x, carried)
        steps = [p.step_coordinates(b, e, v) for p, b, e, v in zip(parts, (a, d), coordinates, vectors, strict=False)]
        y = self.join(steps[0][0], steps[1][0], f + _complex(coordinates[2], x))
        if carried is None:
            return y, None
        moved = [w if w is not None else v for (_, w), v in zip(steps, vectors, strict=False)]
        return y, torch.cat([t.flatten(x.ndim - 2) for t in (*moved, vectors[2]) if t is not None], -1)

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        blocks, coordinates = self.pieces(x), self._parts(x, c)
        triples = zip(self._manifolds(), blocks, coordinates, strict=False)
        squares = [part.square_coordinates(b, e, how).expand_as(e) for part, b, e in triples]
        return torch.cat([s.flatten(x.ndim - 2) for s in (*squares, coordinates[2].square())], -1)

    def _flat(self, name: str, on_free: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
        (top, bottom), (xa, xd, xf), (ya, yd, yf) = self._manifolds(), self.pieces(x), self.pieces(y)
        free = _real(on_free(xf, yf))
        coordinates = (getattr(top, name)(xa, ya), getattr(bottom, name)(xd, yd), free)
        return torch.cat([c.flatten(x.ndim - 2) for c in coordinates], -1)

    def _from(self, name: str, on_free: Callable[..., Tensor], x: Tensor, c: Tensor) -> Tensor:
        (top, bottom), (xa, xd, xf), (ca, cd, cf) = self._manifolds(), self.pieces(x), self._parts(x, c)
        return self.join(getattr(top, name)(xa, ca), getattr(bottom, name)(xd, cd), on_free(xf, _complex(cf, x)))

    def _parts(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch = x.ndim - 2
        inner = [shape[batch:] for shape in self._coordinate_shapes(tuple(x.shape), x.dtype)]
        a, d, f = c.split([math.prod(shape) for shape in inner], -1)
        return a.unflatten(-1, inner[0]), d.unflatten(-1, inner[1]), f.unflatten(-1, inner[2])

    # --- points ---

    def defect(self, x: Tensor) -> Tensor:
        """The larger of the defects of the two blocks, and the norm of what should be zero."""
        (top, bottom), (a, d, _), k = self._manifolds(), self.pieces(x), self.rows(x.shape[-1])
        return torch.maximum(top.defect(a), bottom.defect(d)) + torch.linalg.matrix_norm(x[..., k:, :k])

    def polish(self, x: Tensor) -> Tensor:
        return self._each("polish", lambda x: x, x)

    @property
    def polish_every(self) -> int:
        return math.gcd(*(p.polish_every for p in self._manifolds()))

    def random(self, *size: Any, **kwargs: Any) -> Tensor:
        """Blocks by the ``random`` of their manifolds; free entries normal with variance ``2 / n``."""
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        (top, bottom), (a, d, f) = self._manifolds(), self._shapes(shape)
        x = top.random(*a, **kwargs)
        free = torch.randn(f, dtype=x.dtype, device=x.device, generator=kwargs.get("generator"))
        return self.join(x, bottom.random(*d, **{**kwargs, "dtype": x.dtype}), free * (2 / shape[-1]) ** 0.5)


def _part(part: Any, place: str) -> Any:
    if isinstance(part, geoopt.Manifold):
        return adapt(part)
    if callable(getattr(part, "trivialize", None)) and not isinstance(part, type):
        return part
    raise OptionError(
        f"The {place} block of BlockTriangular lies on a manifold, or is a structured constraint.\n"
        f"Got {type(part).__name__}.\nPass an object such as Orthogonal(), not a class or a string."
    )


def _is_structured(part: Any) -> bool:
    if isinstance(part, BlockTriangular):
        return part.structured
    return not isinstance(part, Manifold) or (isinstance(part, UnitDisc) and part.chart != "normalized")


def _real(f: Tensor) -> Tensor:
    return torch.stack([f.real, f.imag], -1) if f.is_complex() else f


def _complex(f: Tensor, x: Tensor) -> Tensor:
    return torch.complex(f[..., 0], f[..., 1]) if x.is_complex() else f
