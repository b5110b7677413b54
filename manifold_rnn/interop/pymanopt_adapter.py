"""A manifold of this package as a pymanopt manifold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pymanopt.manifolds.manifold import Manifold as PymanoptBase
from torch import Tensor

from ..errors import UnsupportedError
from ..manifolds import Manifold

Array = NDArray[Any]


class PymanoptManifold(PymanoptBase):  # type: ignore[misc]
    """The result of `to_pymanopt`: pymanopt's methods on arrays, computed by the methods of a manifold."""

    def __init__(self, manifold: Manifold, size: tuple[int, ...], dtype: torch.dtype | None) -> None:
        if manifold.geometry not in ("group", "euclidean"):
            raise UnsupportedError(
                "to_pymanopt needs a manifold with the metric of the ambient space.\n"
                f"Expected a group, or Stiefel with metric='euclidean'; got {manifold}.\n"
                "Use pymanopt's own manifolds for others."
            )
        default = torch.complex128 if manifold.is_complex else torch.float64
        self.manifold, self.size, self.dtype = manifold, size, dtype or default
        self._zero = torch.zeros(size, dtype=self.dtype)
        manifold.require(self._zero, "size")
        super().__init__(f"{manifold.name}{size}", manifold.degrees_of_freedom(size, self.dtype))

    def _call(self, function: Callable[..., Tensor], *arrays: Array) -> Any:
        with torch.no_grad():
            result: Array = function(
                *(torch.as_tensor(np.ascontiguousarray(a), dtype=self.dtype) for a in arrays)
            ).numpy()
        return result if result.ndim else result.item()

    @property
    def typical_dist(self) -> float:
        return float(self.dim**0.5)

    def inner_product(self, point: Array, tangent_vector_a: Array, tangent_vector_b: Array) -> Any:
        return self._call(self.manifold.inner, point, tangent_vector_a, tangent_vector_b)

    def norm(self, point: Array, tangent_vector: Array) -> Any:
        return self._call(self.manifold.norm, point, tangent_vector)

    def projection(self, point: Array, vector: Array) -> Any:
        return self._call(self.manifold.proju, point, vector)

    to_tangent_space = projection

    def embedding(self, point: Array, tangent_vector: Array) -> Array:
        return tangent_vector

    def euclidean_to_riemannian_gradient(self, point: Array, euclidean_gradient: Array) -> Any:
        return self._call(self.manifold.egrad2rgrad, point, euclidean_gradient)

    def euclidean_to_riemannian_hessian(
        self, point: Array, euclidean_gradient: Array, euclidean_hessian: Array, tangent_vector: Array
    ) -> Any:
        def hessian(x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
            change: Tensor = torch.func.jvp(self.manifold.proju, (x, g), (u, h))[1]
            projected: Tensor = self.manifold.proju(x, change)
            return projected

        return self._call(hessian, point, euclidean_gradient, euclidean_hessian, tangent_vector)

    def retraction(self, point: Array, tangent_vector: Array) -> Any:
        return self._call(self.manifold.retr, point, tangent_vector)

    def exp(self, point: Array, tangent_vector: Array) -> Any:
        return self._call(self.manifold.expmap, point, tangent_vector)

    def log(self, point_a: Array, point_b: Array) -> Any:
        return self._call(self.manifold.logmap, point_a, point_b)

    def dist(self, point_a: Array, point_b: Array) -> Any:
        return self._call(self.manifold.dist, point_a, point_b)

    def transport(self, point_a: Array, point_b: Array, tangent_vector_a: Array) -> Any:
        return self._call(self.manifold.transp, point_a, point_b, tangent_vector_a)

    def pair_mean(self, point_a: Array, point_b: Array) -> Any:
        return self.exp(point_a, 0.5 * self.log(point_a, point_b))

    def zero_vector(self, point: Array) -> Any:
        return self._zero.clone().numpy()

    def random_point(self) -> Any:
        """Return a Haar random point. NumPy's global generator seeds it, as in pymanopt's own manifolds."""
        return self.manifold.random(*self.size, dtype=self.dtype, generator=_generator()).numpy()

    def random_tangent_vector(self, point: Array) -> Any:
        u = self.projection(point, torch.randn(self.size, dtype=self.dtype, generator=_generator()).numpy())
        return u / self.norm(point, u)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.randint(2**31)))  # noqa: NPY002
