"""Matrices whose eigenvalues lie in a disc."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import OptionError, UnsupportedError
from ..linalg import spectral_condition, spectral_radius
from ..linalg.checks import require_matrix
from ..linalg.norms import spectral_norm
from ..linalg.precision import full_precision
from ..linalg.spectrum import guard, radius_slope
from .region import Region, scaled_within


class UnitDisc(Region):
    r"""Matrices with spectral radius at most ``radius``, real or complex: the linear map they give is stable.

    .. math:: \rho(x) \le r, \qquad R_x(u) = \frac{x + u}{\max(1, \rho(x + u) / r)}.

    Closed: includes its boundary. Neither convex nor bounded: a matrix that is not normal can stretch a state by any
    factor before it decays (`Contraction` forbids that). The boundary has a kink wherever two moduli tie.

    Parameters
    ----------
    radius : float
        Positive.

    Raises
    ------
    OptionError
        If ``radius`` is not a positive number.

    See Also
    --------
    manifold_rnn.SchurDisc : the open disc, by parameters that are never outside.
    manifold_rnn.DiagonalDisc : the same of diagonal matrices.
    manifold_rnn.StickyDisc : the rule of ENRNN that keeps the radius once it is reached.
    manifold_rnn.SpectralScaled : the same division after a plain step, and by the norm; the historical baseline.

    Notes
    -----
    Tensors have shape (..., n, n). On the boundary `egrad2rgrad` drops the part of the gradient against which a step
    would leave the set, so that a small step goes down wherever the largest modulus is simple; where it ties or is
    nearly defective the subgradient of `manifold_rnn.linalg.spectral_radius` is used and may not. In the trivialized
    view the gradient is orthogonal to ``base + c`` once that is outside. Source: Helfrich and Ye (2020).

    Examples
    --------
    >>> x = mr.UnitDisc(0.9).projx(torch.randn(4, 4, dtype=torch.float64))
    >>> assert mr.linalg.spectral_radius(x) < 0.9 + 1e-12
    """

    name = "UnitDisc"

    def __init__(self, radius: float = 1.0) -> None:
        super().__init__()
        self.radius = require_radius(radius, "UnitDisc")

    @property
    def reads_device(self) -> bool:
        return True  # eigenvalues

    def key(self) -> Hashable:
        return (type(self), self.radius)

    def extra_repr(self) -> str:
        return f"radius={self.radius}"

    # --- checks ---

    def _require_kind(self, x: Tensor, name: str) -> None:
        require_matrix(x, f"UnitDisc: {name}")
        self._require_floating(x, name)

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok = len(shape) >= 2 and shape[-1] == shape[-2] >= 1
        return ok, None if ok else f"`{name}` needs shape (..., n, n), got {tuple(shape)}"

    # --- geometry ---

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        r"""The matrix divided by :math:`\max(1, \rho(x) / r)`; a point of the set, not the nearest.

        Parameters
        ----------
        x : Tensor, shape (..., n, n)

        Returns
        -------
        Tensor, shape (..., n, n)

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If ``x`` cannot be brought into the set.
        """
        self.require(x)
        return scaled_within(x, spectral_radius, self.radius)

    @full_precision
    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The gradient; on the boundary without what a step against it would carry out of the set."""
        self._require_pair(x, u, "egrad2rgrad")
        eps, radius = torch.finfo(x.dtype).eps, spectral_radius(x)
        normal = radius_slope(x, radius, guard(x.dtype))
        size = self.inner(x, normal, keepdim=True)
        along = self.inner(x, normal, u, keepdim=True) / torch.where(size > 0, size, 1)
        outward = (radius[..., None, None] >= self.radius * (1 - eps**0.5)) & (along < 0)
        return u - torch.where(outward, along, 0) * normal

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> NoReturn:
        raise UnsupportedError(
            "UnitDisc is not convex, and the length of the shortest path inside has no closed form.\n"
            "Expected a group or Contraction for that.\nUse norm(x, logmap(x, y)), the straight distance."
        )

    # --- points ---

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        r"""How far out ``x`` is, relative to the radius: :math:`\max(0, \rho(x) / r - 1)`, per matrix."""
        return (spectral_radius(x) / self.radius - 1).clamp(min=0)

    def sensitivity(self, x: Tensor) -> float:
        """The condition number of the dominant eigenvalue times the norm: what rounding a matrix does to its radius."""
        size = spectral_norm(x) / self.radius
        return float((spectral_condition(x) * size).max()) if x.numel() else 0.0

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Gaussian directions, with the dominant eigenvalue as far from 0 as a uniform point of the disc.

        Parameters
        ----------
        *size : int, or one tuple
            ``(..., n, n)``.
        dtype : torch.dtype, optional
            Default: torch's default dtype.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        shape, dtype = self._new(size, dtype)
        x = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        modulus = uniform_on_disc(shape[:-2], x, self.radius, generator).abs()
        return x * (modulus / spectral_radius(x))[..., None, None]


def require_radius(radius: float, name: str) -> float:
    """Raise `OptionError` unless the radius of a disc is a positive number."""
    if not (isinstance(radius, (int, float)) and 0 < radius < math.inf):
        raise OptionError(f"The radius of {name} is a positive number.\nGot {radius!r}.\nUse e.g. radius=1.0.")
    return float(radius)


def uniform_on_disc(shape: tuple[int, ...], like: Tensor, radius: float, generator: torch.Generator | None) -> Tensor:
    """Complex numbers drawn uniformly from the disc, of the precision and device of ``like``."""
    area, angle = torch.rand((2, *shape), dtype=like.real.dtype, device=like.device, generator=generator)
    return torch.polar(radius * area.sqrt(), 2 * math.pi * angle)
