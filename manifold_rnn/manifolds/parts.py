"""Product manifolds whose points are assembled from parts by a layout."""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import ShapeError
from ..linalg.precision import full_precision
from ..retractions import Retraction
from .base import Manifold
from .layout import Layout, Shape
from .matrix import as_shape

Check = tuple[bool, str | None]


class Parts(Manifold):
    r"""A product of manifolds whose points are assembled into one tensor.

    Every operation applies the members to their parts. The metric is that of the product. Free parts are on
    `Euclidean`. A subclass defines its `layout` and its `members`, one for each part.

    Notes
    -----
    The coordinates of a point are one real vector: those of its parts, one after the other.

    Examples
    --------
    >>> gates = mr.manifolds.Blocks(mr.Orthogonal(), blocks=4, which=(2,))
    >>> assert isinstance(gates, mr.manifolds.Parts) and len(gates.members) == 2
    """

    _stored_norm: float = 1.0  # |tensor| / |its part|, for layouts that store a part twice

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The division of a point into parts."""

    @property
    @abstractmethod
    def members(self) -> tuple[Manifold, ...]:
        """The manifold of each part."""

    @abstractmethod
    def with_members(self, members: Sequence[Manifold]) -> Self:
        """Return the same layout with other manifolds."""

    # --- properties ---

    @property
    def reversible(self) -> bool:
        """Whether all parts are reversible, in the sense of `MatrixGroup`."""
        return all(m.reversible for m in self.members)

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of the first part whose retraction can be changed."""
        return next((m.retraction for m in self.members if m.retraction is not None), None)

    def with_retraction(self, retraction: str | Retraction) -> Self:
        """Change the retraction of each part whose retraction can be changed."""
        if self.retraction is None:
            return super().with_retraction(retraction)
        return self.with_members([m if m.retraction is None else m.with_retraction(retraction) for m in self.members])

    @property
    def reads_device(self) -> bool:
        return any(m.reads_device for m in self.members)

    @property
    def is_sphere(self) -> bool:  # type: ignore[override]
        return all(m.is_sphere for m in self.members)

    @property
    def isometric_at_zero(self) -> bool:
        return all(m.isometric_at_zero for m in self.members)

    @property
    def polish_every(self) -> int:
        return math.gcd(*(m.polish_every for m in self.members))

    def key(self) -> Hashable:
        key: tuple[object, ...] = (type(self), self.layout, *(m.key() for m in self.members))
        return key

    def width(self, shape: Shape) -> int:
        return max(m.width(s) for m, s in zip(self.members, self.layout.shapes(shape), strict=True))

    # --- the operations of the members, on parts ---

    @full_precision
    def _each(self, name: str, *tensors: Tensor) -> Tensor:
        """Return the tensor assembled from the results of a method of every member on its part."""
        tensors = self._alike(*tensors)
        parts = zip(*map(self.layout.split, tensors), strict=True)
        results = [getattr(m, name)(*p) for m, p in zip(self.members, parts, strict=True)]
        return self.layout.join(results, tuple(tensors[0].shape))

    @full_precision
    def _numbers(self, name: str, *tensors: Tensor) -> Tensor:
        """Return the numbers per matrix from a method of every member, on the last axis, with one row per point."""
        tensors = self._alike(*tensors)
        lead = tensors[0].ndim - self.ndim
        parts = zip(*map(self.layout.split, tensors), strict=True)
        results = [getattr(m, name)(*p).unsqueeze(-1).flatten(lead) for m, p in zip(self.members, parts, strict=True)]
        return results[0] if len(results) == 1 else torch.cat(results, -1)

    @full_precision
    def _coordinates(self, name: str, *tensors: Tensor) -> Tensor:
        """Return the coordinates from a method of every member, as one vector per point."""
        tensors = self._alike(*tensors)
        parts = zip(*map(self.layout.split, tensors), strict=True)
        return self._flat(tensors[0], [getattr(m, name)(*p) for m, p in zip(self.members, parts, strict=True)])

    def _flat(self, x: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
        flat = [c.flatten(x.ndim - self.ndim) for c in coordinates]  # each (..., d of the part)
        c = flat[0] if len(flat) == 1 else torch.cat(flat, -1)  # (..., d)
        return c if self._stored_norm == 1 else c * self._stored_norm

    def _alike(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return points and vectors, expanded to the same batch shape."""
        shapes = [tensor.shape for tensor in tensors]
        if all(shape == shapes[0] for shape in shapes):
            return tensors
        own = {shape[max(0, len(shape) - self.ndim) :] for shape in shapes}
        if len(own) > 1:
            raise ShapeError(
                f"Points and vectors on {self.name} must have one shape, up to leading batch axes.\n"
                f"Expected (..., {', '.join(map(str, shapes[0][-self.ndim :]))}), got {list(map(tuple, shapes))}.\n"
                "Check the order of the arguments."
            )
        batch, (shape,) = torch.broadcast_shapes(*(shape[: len(shape) - self.ndim] for shape in shapes)), own
        return tuple(tensor.expand(*batch, *shape) for tensor in tensors)

    def _with_batch(self, x: Tensor, *coordinates: Tensor) -> tuple[Tensor, ...]:
        """Return a point and coordinates, expanded to the same batch shape."""
        axes = x.ndim - self.ndim
        batches = [x.shape[:axes], *(c.shape[:-1] for c in coordinates)]
        if all(batch == batches[0] for batch in batches):
            return x, *coordinates
        batch = torch.broadcast_shapes(*batches)
        return x.expand(*batch, *x.shape[axes:]), *(c.expand(*batch, c.shape[-1]) for c in coordinates)

    def _parts(self, x: Tensor, c: Tensor) -> list[Tensor]:
        """Return the coordinates of each part. This is the inverse of `_flat`."""
        batch, c = x.ndim - self.ndim, c if self._stored_norm == 1 else c / self._stored_norm
        inner = self._coordinate_shapes(tuple(x.shape), x.dtype)
        pieces = [c] if len(inner) == 1 else c.split([math.prod(s[batch:]) for s in inner], -1)  # each (..., d)
        return [piece.reshape(shape) for piece, shape in zip(pieces, inner, strict=True)]

    # --- steepest descent in the spectral norm ---

    @full_precision
    def spectral_step(
        self, x: Tensor, g: Tensor, length: float | Tensor, *, geodesic: bool = True, nuclear: bool = False
    ) -> Tensor:
        """Make the step of each member on its part; ``length`` is a number."""
        x, g = self._alike(x, g)
        parts = zip(self.members, self.layout.split(x), self.layout.split(g), strict=True)
        moved = [m.spectral_step(p, q, length, geodesic=geodesic, nuclear=nuclear) for m, p, q in parts]
        return self.layout.join(moved, tuple(x.shape))

    # --- checks ---

    def require(self, x: Tensor, name: str = "x") -> None:
        ok, reason = self._check_shape(tuple(x.shape), name)
        if not ok:
            raise ShapeError(f"{reason}.\n{self.name} is assembled from parts.\n{self.layout.advice}")
        for member, place, part in zip(self.members, self.layout.names, self.layout.split(x), strict=True):
            member.require(part, f"the part {place} of {name}")

    def _check_shape(self, shape: Shape, name: str) -> Check:
        try:
            shapes = self.layout.shapes(shape)
        except ShapeError as error:
            rule, expected, *_ = str(error).split("\n")
            return False, f"{rule} {expected.rstrip('.')} for `{name}`"
        return _first_refusal(m._check_shape(s, name) for m, s in zip(self.members, shapes, strict=True))

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Check:
        return self._check_parts("_check_point_on_manifold", x, atol=atol, rtol=rtol)

    def _check_vector_on_tangent(self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Check:
        return self._check_parts("_check_vector_on_tangent", x, u, atol=atol, rtol=rtol)

    def _check_parts(self, name: str, *tensors: Tensor, atol: float, rtol: float) -> Check:
        rest = self.layout.remainder(tensors[-1])
        if rest is not None and rest.numel() and float(rest.max()) > atol:
            return False, f"entries outside of the parts are not zero with atol={atol}"
        parts = zip(*map(self.layout.split, self._alike(*tensors)), strict=True)
        checks = (getattr(m, name)(*p, atol=atol, rtol=rtol) for m, p in zip(self.members, parts, strict=True))
        return _first_refusal(checks)

    # --- geometry ---

    def projx(self, x: Tensor) -> Tensor:
        return self._each("projx", x).contiguous()  # geoopt's products call view on it

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each("proju", x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each("egrad2rgrad", x, u)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each("retr", x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._each("expmap", x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._each("logmap", x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._each("transp", x, y, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        total = self._numbers("inner", x, u, u if v is None else v).sum(-1) * self._stored_norm**2
        return total.reshape(*total.shape, *[1] * self.ndim) if keepdim else total

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.inner(x, u, keepdim=keepdim).sqrt()

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        total = torch.linalg.vector_norm(self._numbers("dist", x, y), dim=-1) * self._stored_norm
        return total.reshape(*total.shape, *[1] * self.ndim) if keepdim else total

    # --- coordinates ---

    def _coordinate_shapes(self, shape: Shape, dtype: torch.dtype | None) -> list[Shape]:
        shapes = self.layout.shapes(shape)
        return [m.coordinate_shape(s, self._part_dtype(dtype)) for m, s in zip(self.members, shapes, strict=True)]

    def _part_dtype(self, dtype: torch.dtype | None) -> torch.dtype | None:
        """Return the dtype of the parts of a tensor."""
        return dtype

    def coordinate_shape(self, shape: Shape, dtype: torch.dtype | None = None) -> Shape:
        batch = len(shape) - self.ndim
        return (*shape[:batch], sum(math.prod(s[batch:]) for s in self._coordinate_shapes(shape, dtype)))

    def degrees_of_freedom(self, shape: Shape, dtype: torch.dtype | None = None) -> int:
        shapes, dtype = self.layout.shapes(shape), self._part_dtype(dtype)
        return sum(m.degrees_of_freedom(s, dtype) for m, s in zip(self.members, shapes, strict=True))

    def to_coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        return self._coordinates("to_coordinates", x, u)

    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        return self._coordinates("egrad2coordinates", x, g)

    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        return self._coordinates("inverse_retr_coordinates", x, y)

    def from_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return self._along(lambda m, x, c: m.from_coordinates(x, c), x, c)

    def ambient(self, x: Tensor, c: Tensor) -> Tensor:
        return self._along(lambda m, x, c: m.ambient(x, c), x, c)

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return self._along(lambda m, x, c: m.retr_coordinates(x, c), x, c)

    def retr_free(self, x: Tensor, c: Tensor) -> Tensor:
        return self._along(lambda m, x, c: m.retr_free(x, c), x, c)

    @full_precision
    def _along(self, call: Callable[[Manifold, Tensor, Tensor], Tensor], x: Tensor, c: Tensor) -> Tensor:
        x, c = self._with_batch(x, c)
        triples = zip(self.members, self.layout.split(x), self._parts(x, c), strict=True)
        return self.layout.join([call(*triple) for triple in triples], tuple(x.shape))

    @full_precision
    def retr_transp_coordinates(self, x: Tensor, c: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        x, c, *carried_alike = self._with_batch(x, c, *carried)
        moves = zip(self.members, self.layout.split(x), self._parts(x, c), strict=True)
        vectors = [self._parts(x, v) for v in carried_alike]
        steps = [
            m.retr_transp_coordinates(part, along, *before)
            for (m, part, along), before in zip(moves, _transposed(vectors, len(self.members)), strict=True)
        ]
        points, *moved = zip(*steps, strict=True)
        y = self.layout.join(points, tuple(x.shape))
        pairs = zip(carried_alike, vectors, moved, strict=True)
        return y, *(v if all(map(operator.is_, before, after)) else self._flat(x, after) for v, before, after in pairs)

    @full_precision
    def retr_gradient(self, x: Tensor, g: Tensor, t: float | Tensor) -> Tensor:
        x, g = self._alike(x, g)
        triples = zip(self.members, self.layout.split(x), self.layout.split(g), strict=True)
        return self.layout.join([m.retr_gradient(part, own, t) for m, part, own in triples], tuple(x.shape))

    @full_precision
    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        x, c = self._with_batch(x, c)
        triples = zip(self.members, self.layout.split(x), self._parts(x, c), strict=True)
        squares = [m.square_coordinates(part, own, how) for m, part, own in triples]
        if len(squares) > 1 or squares[0].shape[:-1] != c.shape[:-1]:  # one number for each of several matrices
            squares = [s.expand(p.shape) for s, p in zip(squares, self._parts(x, c), strict=True)]
        flat = self._flat(x, squares)
        return flat if self._stored_norm == 1 else flat * self._stored_norm  # squares scale twice

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        """Return the largest defect of a part, or the norm of the entries that must be zero if it is larger."""
        largest, rest = self._numbers("defect", x).amax(-1), self.layout.remainder(x)
        largest = largest if self._stored_norm == 1 else largest * self._stored_norm
        return largest if rest is None else largest + rest

    @property
    def checks_steps(self) -> bool:
        return all(m.checks_steps for m in self.members)

    def sensitivity(self, x: Tensor) -> float:
        return max(m.sensitivity(part) for m, part in zip(self.members, self.layout.split(x), strict=True))

    def is_sound(self, x: Tensor) -> Tensor:
        return self._numbers("is_sound", x).all(-1)

    def polish(self, x: Tensor) -> Tensor:
        return self._each("polish", x)

    def random(self, *size: Any, **kwargs: Any) -> Tensor:
        """Return random parts by the ``random`` of their manifolds; free parts are standard normal."""
        shape, parts = as_shape(size), []
        for member, part in zip(self.members, self.layout.shapes(shape), strict=True):
            parts.append(member.random(*part, **kwargs))
            kwargs["dtype"] = parts[0].dtype
        return self.layout.join(parts, shape)

    def random_like(self, x: Tensor) -> Tensor:
        return self._each("random_like", x)


def _first_refusal(checks: Iterable[Check]) -> Check:
    return next((check for check in checks if not check[0]), (True, None))


def _transposed(rows: list[list[Tensor]], columns: int) -> list[tuple[Tensor, ...]]:
    """Return one tuple per column, also if there are no rows."""
    return list(zip(*rows, strict=True)) if rows else [()] * columns
