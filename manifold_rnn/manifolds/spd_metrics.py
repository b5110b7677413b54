"""The metrics of `SPD`. Each method takes the Cholesky factor of a point and computes in double precision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ..linalg.checks import require_length
from ..linalg.expm import expm
from ..linalg.hermitian import hermitian, log_gram, pack_hermitian, unpack_hermitian, unpack_triangle
from ..linalg.polar import polar

_LONGEST = 1400.0  # exponent of a step beyond which eigenvalues overflow or underflow in double precision


class Metric(ABC):
    """A Riemannian metric of positive definite matrices: orthonormal coordinates of tangent vectors, and geodesics.

    In all methods ``L`` is the Cholesky factor of the point, and ``M`` that of another point.
    """

    name: ClassVar[str]
    keeps_coordinates: ClassVar[bool] = False  # whether transport does not change coordinates

    @abstractmethod
    def coordinates(self, L: Tensor, u: Tensor) -> Tensor:
        """Return the coordinates of a Hermitian tangent vector, in an orthonormal basis."""

    @abstractmethod
    def vector(self, L: Tensor, c: Tensor) -> Tensor:
        """Return the tangent vector with these coordinates."""

    @abstractmethod
    def gradient(self, L: Tensor, g: Tensor) -> Tensor:
        """Return the coordinates of the Riemannian gradient, given a Hermitian gradient of the entries."""

    @abstractmethod
    def factor(self, L: Tensor, c: Tensor) -> Tensor:
        """Return a factor ``F`` of the end ``F F^H`` of the geodesic with these initial coordinates."""

    @abstractmethod
    def between(self, L: Tensor, M: Tensor) -> Tensor:
        """Return the initial coordinates of the geodesic to another point."""

    @abstractmethod
    def length(self, L: Tensor, M: Tensor) -> Tensor:
        """Return the distance to another point."""

    @abstractmethod
    def transport(self, L: Tensor, M: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        """Transport vectors in parallel along the geodesic; return their coordinates at the other point."""


class Affine(Metric):
    r"""The affine-invariant metric :math:`\operatorname{tr} x^{-1} u x^{-1} v`.

    Coordinates are those of the Hermitian :math:`A = L^{-1} u L^{-H}`. Geodesics are :math:`L \exp(tA) L^H`.
    """

    name = "affine"

    def coordinates(self, L: Tensor, u: Tensor) -> Tensor:
        left = torch.linalg.solve_triangular(L, u, upper=False)
        return pack_hermitian(hermitian(torch.linalg.solve_triangular(L, left.mH, upper=False)))

    def vector(self, L: Tensor, c: Tensor) -> Tensor:
        return hermitian(L @ self._matrix(L, c) @ L.mH)

    def gradient(self, L: Tensor, g: Tensor) -> Tensor:
        return pack_hermitian(hermitian(L.mH @ g @ L))

    def factor(self, L: Tensor, c: Tensor) -> Tensor:
        A = self._matrix(L, c)
        require_length(A, "A step on SPD", _LONGEST)
        return L @ expm(0.5 * A)

    def between(self, L: Tensor, M: Tensor) -> Tensor:
        return pack_hermitian(log_gram(self._quotient(L, M)))

    def length(self, L: Tensor, M: Tensor) -> Tensor:
        values = torch.linalg.svdvals(self._quotient(L, M))
        return 2 * torch.linalg.vector_norm(values.log(), dim=-1)

    def transport(self, L: Tensor, M: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        W = polar(self._quotient(L, M))
        return tuple(pack_hermitian(hermitian(W.mH @ self._matrix(L, c) @ W)) for c in vectors)

    def _matrix(self, L: Tensor, c: Tensor) -> Tensor:
        return unpack_hermitian(c, L.shape[-1], complex_=L.is_complex())

    def _quotient(self, L: Tensor, M: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(L, M, upper=False)


class LogCholesky(Metric):
    r"""The log-Cholesky metric, flat in the entries of ``L`` below the diagonal and the logarithms of its diagonal.

    Coordinates are the changes of these numbers, so geodesics are straight, and transport does not change coordinates.
    """

    name = "log-cholesky"
    keeps_coordinates = True

    def coordinates(self, L: Tensor, u: Tensor) -> Tensor:
        left = torch.linalg.solve_triangular(L, u, upper=False)
        B = torch.linalg.solve_triangular(L, left.mH, upper=False).mH
        diagonal = 0.5 * B.diagonal(dim1=-2, dim2=-1).real
        X = L @ (B.tril(-1) + torch.diag_embed(diagonal).to(B.dtype))  # the change of L
        return torch.cat([pack_hermitian(X, 1.0)[..., : -L.shape[-1]], diagonal], -1)

    def vector(self, L: Tensor, c: Tensor) -> Tensor:
        below, diagonal = self._triangle(L, c)
        X = below + torch.diag_embed(self._diagonal(L) * diagonal).to(L.dtype)
        half = X @ L.mH
        return half + half.mH

    def gradient(self, L: Tensor, g: Tensor) -> Tensor:
        slope = 2 * g @ L  # gradient of the entries of L
        diagonal = slope.diagonal(dim1=-2, dim2=-1).real * self._diagonal(L)
        return torch.cat([pack_hermitian(slope, 1.0)[..., : -L.shape[-1]], diagonal], -1)

    def factor(self, L: Tensor, c: Tensor) -> Tensor:
        below, diagonal = self._triangle(L, c)
        return L.tril(-1) + below + torch.diag_embed(self._diagonal(L) * diagonal.exp()).to(L.dtype)

    def between(self, L: Tensor, M: Tensor) -> Tensor:
        diagonal = (self._diagonal(M) / self._diagonal(L)).log()
        below = pack_hermitian(M - L, 1.0)[..., : -L.shape[-1]]
        return torch.cat([below, diagonal], -1)

    def length(self, L: Tensor, M: Tensor) -> Tensor:
        return torch.linalg.vector_norm(self.between(L, M), dim=-1)

    def transport(self, L: Tensor, M: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        return vectors

    def _triangle(self, L: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return unpack_triangle(c, L.shape[-1], complex_=L.is_complex())

    def _diagonal(self, L: Tensor) -> Tensor:
        return L.diagonal(dim1=-2, dim2=-1).real


METRICS: dict[str, Metric] = {metric.name: metric for metric in (Affine(), LogCholesky())}
