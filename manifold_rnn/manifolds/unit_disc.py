"""Matrices with eigenvalues in a disc."""

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
    r"""Real or complex matrices with spectral radius at most ``radius``, so that repeated multiplication is stable.

    .. math:: \rho(x) \le r, \qquad R_x(u) = \frac{x + u}{\max(1, \rho(x + u) / r)}.

    The set is closed: it includes its boundary. It is neither convex nor bounded. A matrix that is not normal can
    stretch a state by any factor before it decays; use `Contraction` to prevent this. The boundary has a kink where
    two moduli are equal.

    Parameters
    ----------
    radius : float
        A positive radius.

    Raises
    ------
    OptionError
        If ``radius`` is not a positive number.

    See Also
    --------
    manifold_rnn.SchurDisc : the open disc, with parameters that never leave it.
    manifold_rnn.DiagonalDisc : the open disc for diagonal matrices.
    manifold_rnn.StickyDisc : the rule of ENRNN, which keeps the radius once it is reached.
    manifold_rnn.SpectralScaled : the same division after a plain step, or by the norm; a historical baseline.

    Notes
    -----
    Tensors have shape (..., n, n). On the boundary `egrad2rgrad` removes the component of the gradient against which a
    step would leave the set. A small step then decreases the loss if the largest modulus is simple. If several moduli
    are equal, or the eigenvalue is nearly defective, the subgradient of `manifold_rnn.linalg.spectral_radius` is used,
    and the loss may increase. In the trivialized view the gradient is orthogonal to ``base + c`` once this is outside.
    Source: Helfrich and Ye (2020).

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
        return True  # computes eigenvalues

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
        r"""Return the matrix divided by :math:`\max(1, \rho(x) / r)`: a point of the set, but not the nearest one.

        Parameters
        ----------
        x : Tensor, shape (..., n, n)
            Any square matrix.

        Returns
        -------
        Tensor, shape (..., n, n)

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If ``x`` has the wrong shape or dtype, or is not finite.
        """
        self.require(x)
        return scaled_within(x, spectral_radius, self.radius)

    @full_precision
    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the gradient; on the boundary, the component along which a step would leave the set is removed."""
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
        r"""Return the relative distance outside of the disc, :math:`\max(0, \rho(x) / r - 1)`, per matrix."""
        return (spectral_radius(x) / self.radius - 1).clamp(min=0)

    def sensitivity(self, x: Tensor) -> float:
        """Return the condition number of the dominant eigenvalue times the norm, which amplifies rounding errors."""
        size = spectral_norm(x) / self.radius
        return float((spectral_condition(x) * size).max()) if x.numel() else 0.0

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return Gaussian matrices, scaled so that the spectral radius is the modulus of a uniform point of the disc.

        Parameters
        ----------
        *size : int, or one tuple
            The shape ``(..., n, n)``.
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
        raise OptionError(f"The radius of {name} must be positive.\nGot {radius!r}.\nUse e.g. radius=1.0.")
    return float(radius)


def uniform_on_disc(shape: tuple[int, ...], like: Tensor, radius: float, generator: torch.Generator | None) -> Tensor:
    """Return complex numbers uniform on the disc, in the precision and on the device of ``like``."""
    area, angle = torch.rand((2, *shape), dtype=like.real.dtype, device=like.device, generator=generator)
    return torch.polar(radius * area.sqrt(), 2 * math.pi * angle)
