"""Checks common to all manifolds of vectors along chosen axes: shapes, dtypes, entries, lengths."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable

import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, OffManifoldError, ShapeError
from ..linalg.checks import read_number, require_finite
from ..linalg.norms import power_of_two_below
from ..linalg.precision import full_precision, may_read_device
from .base import Manifold


class VectorManifold(Manifold):
    """Sets of vectors along some axes of a tensor; all axes before the last `ndim` are batch axes.

    Examples
    --------
    >>> assert isinstance(mr.Sphere(), mr.manifolds.VectorManifold) and mr.Sphere((-2, -1)).axes == (-2, -1)
    """

    _zero_advice: str = "Fill the weight, or pass init='haar' to constrain."

    @property
    @abstractmethod
    def axes(self) -> tuple[int, ...]:
        """The axes of one vector, counted from the end."""

    def require(self, x: Tensor, name: str = "x") -> None:
        """Raise unless ``x`` can be a point. A zero vector has no direction, so it raises as well."""
        self._require_kind(x, name)
        require_finite(x, name)
        self._require_direction(x, name)

    def _require_kind(self, x: Tensor, name: str) -> None:
        ok, _ = self._check_shape(tuple(x.shape), name)
        if not ok:
            shown = ", ".join(["...", *("n" for _ in range(self.ndim))])
            raise ShapeError(
                f"{type(self).__name__} consists of vectors along the axes {self.axes}.\n"
                f"Expected shape ({shown}) with at least one entry in each vector, got {name} of {tuple(x.shape)}.\n"
                "Choose other axes, or constrain another weight."
            )
        if not (x.is_floating_point() or x.is_complex()):
            raise DtypeError(
                f"{type(self).__name__} consists of real or complex floating point vectors.\n"
                f"Expected float32, float64, complex64 or complex128, got {name} of {x.dtype}.\nConvert it first."
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok = len(shape) >= self.ndim and all(shape[k] for k in self.axes)
        return ok, None if ok else f"`{name}` needs {self.ndim} axes or more, got {tuple(shape)}"

    def _require_direction(self, x: Tensor, name: str) -> None:
        if not may_read_device() or x.is_meta:
            return
        zeros = int(read_number(lambda whole: float((self._largest(whole) == 0).sum()), x))
        if zeros:
            raise OffManifoldError(
                f"{type(self).__name__}: {name} has {zeros} zero vector{'s' * (zeros > 1)}, which cannot be scaled to "
                f"a length.\nExpected a nonzero vector along the axes {self.axes} everywhere, got shape "
                f"{tuple(x.shape)}.\n{self._zero_advice}"
            )

    def _require_pair(self, x: Tensor, u: Tensor, name: str) -> None:
        self._require_kind(x, "x")
        if x.device != u.device:
            raise DeviceError(
                f"{name} needs both operands on one device.\nExpected {x.device}, got {u.device}.\n"
                "Move one with .to(device)."
            )
        if x.dtype != u.dtype:
            raise DtypeError(
                f"{name} needs both operands to have one dtype.\nExpected {x.dtype}, got {u.dtype}.\n"
                "Convert one with .to(dtype)."
            )
        own = len(x.shape) - self.ndim
        batches = x.shape[own - 1 :: -1] if own else (), u.shape[: u.ndim - self.ndim][::-1]
        fits = all(a == b or 1 in (a, b) for a, b in zip(*batches, strict=False))
        if u.ndim < self.ndim or x.shape[own:] != u.shape[u.ndim - self.ndim :] or not fits:
            raise ShapeError(
                f"{name} needs a point and a vector of one shape, up to batch axes that broadcast.\n"
                f"Expected {tuple(x.shape)}, got {tuple(u.shape)}.\nCheck which tensor belongs to which point."
            )

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        self._require_kind(x, "x")
        largest = float(self.defect(x).max()) if x.numel() else 0.0
        ok = largest <= atol + rtol
        return ok, None if ok else f"relative defect {largest:.3g} with atol={atol}, rtol={rtol}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = torch.allclose(self.proju(x, u), u, atol=atol, rtol=rtol)
        return ok, None if ok else f"not its own projection with atol={atol}, rtol={rtol}"

    # --- lengths ---

    def _largest(self, x: Tensor) -> Tensor:
        """Return the largest real or imaginary part in each vector."""
        x = x.detach()
        parts = torch.maximum(x.real.abs(), x.imag.abs()) if x.is_complex() else x.abs()
        return parts.amax(self.axes, keepdim=True)

    def _scales(self, x: Tensor) -> Tensor:
        """Return powers of two by which vectors are divided before their entries are squared."""
        largest = self._largest(x)
        return power_of_two_below(torch.where(largest.isfinite(), largest, 1))

    def _lengths(self, x: Tensor) -> Tensor:
        """Return the length of each vector, computed so that squares neither underflow nor overflow."""
        scale = self._scales(x)
        return torch.linalg.vector_norm(x / scale, dim=self.axes, keepdim=True) * scale

    def _dots(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the real inner product of each pair of vectors."""
        product = (u.conj() * v).real if u.is_complex() else u * v
        return product.sum(self.axes, keepdim=True)

    # --- metric ---

    @full_precision
    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        v = u if v is None else v
        product = (u.conj() * v).real if u.is_complex() else u * v
        return product.sum(tuple(range(-self.ndim, 0)), keepdim=keepdim)

    @full_precision
    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        sizes = self._lengths(u)
        largest = sizes.detach().amax(tuple(range(-self.ndim, 0)), keepdim=True)
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1)
        total = torch.linalg.vector_norm(sizes / scale, dim=tuple(range(-self.ndim, 0)), keepdim=True) * scale
        return total if keepdim else total.reshape(total.shape[: total.ndim - self.ndim])

    @property
    def frame(self) -> Hashable:
        return self.name, self.axes

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        """Return the squared length of each vector for every ``how``, since the entries are not a basis."""
        axes = (*(k - 1 for k in self.axes), -1) if x.is_complex() else self.axes
        return torch.linalg.vector_norm(c, dim=axes, keepdim=True).square()
