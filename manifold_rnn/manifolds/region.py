"""The common base of sets of matrices with an interior: flat inside, with a map back into the set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..linalg import msign
from ..linalg.norms import largest_part, norm, power_of_two_below
from ..linalg.precision import full_precision
from .matrix import MatrixManifold

_SCALE_ABOVE = 1e30


class Region(MatrixManifold):
    r"""A closed set of real or complex matrices with an interior.

    Every direction is tangent, and the metric is the Euclidean one. A step is straight and then mapped into the set:

    .. math:: R_x(u) = \operatorname{projx}(x + u).

    The retraction therefore cannot be changed, and a subclass only defines `projx`. The entries are an orthonormal
    basis: coordinates are the entries of the tangent vector (a complex one as pairs of reals). Second moments may
    be elementwise.

    Examples
    --------
    >>> x, u = torch.zeros(2, 2), torch.full((2, 2), 0.1)
    >>> assert isinstance(mr.Contraction(), mr.manifolds.Region) and mr.Contraction().retr(x, u).equal(u)
    """

    reversible = False

    # --- checks ---

    @property
    def checks_steps(self) -> bool:
        return True

    def _tolerance(self, x: Tensor, atol: float, rtol: float) -> float:
        return atol + rtol

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        return True, None

    # --- geometry ---

    @full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "proju")
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    @full_precision
    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        v = u if v is None else v
        return ((u.conj() * v).real if u.is_complex() else u * v).sum((-2, -1), keepdim=keepdim)

    @full_precision
    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return norm(u, keepdim=keepdim)

    @full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        self._require_pair(x, u, "retr")
        return self.projx(x + u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self.retr(x, u)

    @full_precision
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the difference ``y - x``, even if the straight line between the points leaves the set."""
        self._require_pair(x, y, "logmap")
        return y - x

    @full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        self._require_pair(y, v, "transp")
        return v.expand(torch.broadcast_shapes(x.shape, y.shape, v.shape))

    @full_precision
    def spectral_step(
        self, x: Tensor, g: Tensor, length: float | Tensor, *, geodesic: bool = True, nuclear: bool = False
    ) -> Tensor:
        r"""Make a straight step of Muon, and map the result into the set.

        .. math:: \operatorname{projx}\Bigl(x - \ell \sqrt{\max(1, n/p)}\, \operatorname{msign}(g)\Bigr)
        """
        direction = msign(g)
        if nuclear:
            gain = (direction.conj() * g).real.sum((-2, -1), keepdim=True)
            length = length * gain / direction.abs().square().sum((-2, -1), keepdim=True).clamp(min=1)
        return self.projx(x - length * max(1.0, x.shape[-2] / max(1, x.shape[-1])) ** 0.5 * direction)

    # --- coordinates ---

    def inverse_retr_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        return self.to_coordinates(x, self.logmap(x, y))

    def retr_transp_coordinates(self, x: Tensor, c: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        return self.retr_coordinates(x, c), *carried

    def square_coordinates(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        axes = (-3, -2, -1) if x.is_complex() else (-2, -1)
        return c.square() if how == "elementwise" else c.square().sum(axes, keepdim=True)

    # --- points ---

    def origin(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> Tensor:
        """Return the zero matrix, of shape ``size``; ``seed`` is ignored."""
        shape, dtype = self._new(size, dtype)
        return torch.zeros(shape, dtype=dtype, device=device)


def scaled_within(x: Tensor, measure: Callable[[Tensor], Tensor], limit: float, always: Tensor | None = None) -> Tensor:
    """Return ``x`` divided by ``measure(x) / limit`` where this is above 1, or above 0 if ``always``."""
    largest = largest_part(x)
    # divide first, since the measure of entries near the largest number would overflow
    scale = torch.where(largest > _SCALE_ABOVE, power_of_two_below(largest), 1)
    size = measure(x / scale)[..., None, None] / limit
    outside = size.detach() * scale > 1
    if always is not None:
        outside = outside | (always[..., None, None] & (size.detach() > 0))
    return torch.where(outside, (x / scale) / torch.where(outside, size, 1), x)
