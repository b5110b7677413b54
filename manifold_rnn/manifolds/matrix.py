"""Checks common to all manifolds of matrices: shapes, dtypes, entries, membership."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..errors import DtypeError
from ..linalg.checks import require_finite, require_same
from .base import Manifold


class MatrixManifold(Manifold):
    """A set of matrices in the last two axes of a tensor; all other axes are batch axes.

    A subclass defines the shapes and dtypes of its points, and their `defect`.

    Examples
    --------
    >>> assert isinstance(mr.Orthogonal(), mr.manifolds.MatrixManifold) and mr.Orthogonal().ndim == 2
    """

    ndim = 2

    @abstractmethod
    def _require_kind(self, x: Tensor, name: str) -> None:
        """Raise unless ``x`` has the shape and dtype of a point."""

    @abstractmethod
    def _tolerance(self, x: Tensor, atol: float, rtol: float) -> float:
        """Return the largest defect that geoopt's checks accept."""

    def require(self, x: Tensor, name: str = "x") -> None:
        self._require_kind(x, name)
        require_finite(x, name)

    def _require_pair(self, x: Tensor, u: Tensor, name: str) -> None:
        self._require_kind(x, "x")
        require_same(x, u, name)

    def _require_floating(self, x: Tensor, name: str) -> None:
        if not (x.is_floating_point() or x.is_complex()):
            raise DtypeError(
                f"{type(self).__name__} consists of real or complex floating point matrices.\n"
                f"Expected float32, float64, complex64 or complex128, got {name} of {x.dtype}.\nConvert it first."
            )

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        self._require_kind(x, "x")
        largest = float(self.defect(x).max()) if x.numel() else 0.0
        ok = largest <= self._tolerance(x, atol, rtol)
        return ok, None if ok else f"defect {largest:.3g} with atol={atol}, rtol={rtol}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        ok = torch.allclose(self.proju(x, u), u, atol=atol, rtol=rtol)
        return ok, None if ok else f"not its own projection with atol={atol}, rtol={rtol}"

    def _default_dtype(self) -> torch.dtype:
        default = torch.get_default_dtype()
        return default.to_complex() if self.is_complex else default

    def _new(self, size: tuple[Any, ...], dtype: torch.dtype | None) -> tuple[tuple[int, ...], torch.dtype]:
        """Return the shape and dtype of new points, after checking them."""
        shape = as_shape(size)
        dtype = dtype or self._default_dtype()
        self._require_kind(torch.empty(shape, dtype=dtype, device="meta"), "size")
        return shape, dtype


def as_shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the shape, given as several numbers or as one tuple."""
    return tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
