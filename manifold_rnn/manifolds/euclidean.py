"""All matrices: the manifold of the free parts of a weight."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ShapeError
from .region import Region


class Euclidean(Region):
    r"""All real or complex matrices, with straight steps.

    .. math:: R_x(u) = x + u.

    This is the manifold of unconstrained parts of a weight, such as the other gates in `Blocks`.

    Notes
    -----
    Tensors have shape (..., n, p). Only the shape and dtype of new points are checked.

    Examples
    --------
    >>> x, u = torch.ones(2, 3), torch.ones(2, 3)
    >>> assert mr.manifolds.Euclidean().retr(x, u).equal(x + u)
    """

    name = "Euclidean"
    reversible = True
    is_flat: ClassVar[bool] = True

    @property
    def isometric_at_zero(self) -> bool:
        return True

    @property
    def checks_steps(self) -> bool:
        return False

    def key(self) -> Hashable:
        return (type(self),)

    def _require_kind(self, x: Tensor, name: str) -> None:
        self._require_floating(x, name)
        ok, reason = self._check_shape(tuple(x.shape), name)
        if not ok:
            raise ShapeError(f"{reason}.\nEuclidean needs matrices.\nReshape it first.")

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok = len(shape) >= 2
        return ok, None if ok else f"`{name}` needs shape (..., n, p), got {tuple(shape)}"

    def require(self, x: Tensor, name: str = "x") -> None:
        self._require_kind(x, name)

    # --- geometry ---

    def projx(self, x: Tensor) -> Tensor:
        return x

    def polish(self, x: Tensor) -> Tensor:
        return x

    def defect(self, x: Tensor) -> Tensor:
        """Return zero for each matrix."""
        return x.real.new_zeros(x.shape[:-2])

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the vector itself, since every vector is tangent."""
        return u

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return x + u

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.norm(x, y - x, keepdim=keepdim)

    # --- coordinates ---

    def egrad2coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        return self.to_coordinates(x, g)

    def from_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return self._vector(x, c)

    def retr_coordinates(self, x: Tensor, c: Tensor) -> Tensor:
        return x + self._vector(x, c).to(x.dtype)

    def retr_gradient(self, x: Tensor, g: Tensor, t: float | Tensor) -> Tensor:
        return x + g * t

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        """Return the square of each entry for every ``how``, since free entries are independent."""
        return c.square()

    # --- points ---

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return standard normal entries of shape ``size``."""
        shape, dtype = self._new(size, dtype)
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    def random_like(self, x: Tensor) -> Tensor:
        """Return the matrix itself, since free entries keep their values."""
        return x
