"""Matrices scaled so that their spectral radius or norm is within a limit: a historical baseline."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from ..linalg import spectral_radius
from ..linalg.checks import require_matrix
from ..linalg.norms import spectral_norm
from ..linalg.precision import full_precision
from .contraction import Contraction
from .region import Region, scaled_within
from .unit_disc import UnitDisc

_Measure = Literal["radius", "norm"]


class SpectralScaled(Region):
    r"""Matrices divided by their spectral radius or their norm if it exceeds a limit.

    .. math:: W = \frac{V}{\max(1, \mu(V) / l)}, \qquad \mu = \rho \text{ (radius) or } \sigma_{\max} \text{ (norm)}.

    Therefore :math:`\mu(W) \le l`. In the update view an optimizer makes its plain step, and the weight is scaled
    after it, as in the experiments that this class reproduces. In the trivialized view :math:`V` is the base plus the
    coordinates.

    Parameters
    ----------
    measure : "radius" or "norm"
        The spectral radius, or the spectral norm.
    limit : float
        A positive limit.

    Raises
    ------
    OptionError
        If ``measure`` is unknown, or ``limit`` is not a positive number.

    See Also
    --------
    manifold_rnn.UnitDisc : the set of ``measure="radius"``, with steps along its boundary.
    manifold_rnn.Contraction : the set of ``measure="norm"``, with projection to the nearest point.

    Notes
    -----
    Use it only as a baseline, and `UnitDisc` or `Contraction` for training. It has these limits:

    - *It is not a projection.* Scaling shrinks all directions, not only those that are too large.
    - *A radius of at most 1 does not bound* :math:`\|W^k\|`. Powers only decay for large k. A norm of at most 1 bounds
      every power by 1.
    - *On the boundary a small step may increase the loss.* The step is not projected onto the tangent directions of
      the set, unlike that of `UnitDisc`.

    Tensors have shape (..., n, n) for the radius and (..., n, p) for the norm, real or complex. Both measures are
    computed at every evaluation, by `manifold_rnn.linalg.spectral_radius` or from singular values. The limit therefore
    holds up to rounding error from any start. They are also differentiated: beyond the limit, the gradient of the
    trivialized view is orthogonal to :math:`V`. Source: Sengupta and Friston (2018) for the experiments, Gelfand (1941)
    for the radius.

    Examples
    --------
    >>> x = mr.SpectralScaled("norm").projx(torch.tensor([[3.0, 0.0], [0.0, 1.5]]))
    >>> assert torch.allclose(x, torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    """

    name = "SpectralScaled"

    def __init__(self, measure: _Measure = "radius", limit: float = 1.0) -> None:
        super().__init__()
        if measure not in get_args(_Measure):
            raise OptionError(
                "measure of SpectralScaled is unknown.\n"
                f"Expected 'radius' or 'norm', got {measure!r}.\nCheck the spelling."
            )
        if not (isinstance(limit, (int, float)) and 0 < limit < math.inf):
            raise OptionError(f"The limit of SpectralScaled must be positive.\nGot {limit!r}.\nUse e.g. limit=1.0.")
        self.measure, self.limit = measure, float(limit)

    @property
    def bounded(self) -> UnitDisc | Contraction:
        """The manifold with the same set of weights."""
        return UnitDisc(self.limit) if self.measure == "radius" else Contraction(self.limit)

    @property
    def reads_device(self) -> bool:
        return True  # computes eigenvalues or singular values

    def key(self) -> Hashable:
        return (type(self), self.measure, self.limit)

    def extra_repr(self) -> str:
        return f"measure={self.measure!r}, limit={self.limit}"

    # --- checks ---

    def _require_kind(self, x: Tensor, name: str) -> None:
        if self.measure == "radius":
            require_matrix(x, f"SpectralScaled: {name}")
        elif x.ndim < 2 or 0 in x.shape[-2:]:
            raise ShapeError(
                f"SpectralScaled: {name} needs matrices in the last two axes, of at least 1 x 1.\n"
                f"Expected shape (..., n, p), got {tuple(x.shape)}.\nReshape it first."
            )
        self._require_floating(x, name)

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        return self.bounded._check_shape(shape, name)

    # --- geometry ---

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        r"""Return the matrix divided by :math:`\max(1, \mu(x) / l)`: a point of the set, but not the nearest one.

        Parameters
        ----------
        x : Tensor, shape (..., n, n), or (..., n, p) for the norm
            Any matrix.

        Returns
        -------
        Tensor, of that shape

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If ``x`` has the wrong shape or dtype, or is not finite.
        """
        self.require(x)
        return scaled_within(x, spectral_radius if self.measure == "radius" else spectral_norm, self.limit)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.bounded.dist(x, y, keepdim=keepdim)

    # --- points ---

    def defect(self, x: Tensor) -> Tensor:
        r"""Return the relative distance outside of the set, :math:`\max(0, \mu(x) / l - 1)`, per matrix."""
        return self.bounded.defect(x)

    def sensitivity(self, x: Tensor) -> float:
        """Return the factor by which the measure amplifies rounding errors of the entries."""
        return self.bounded.sensitivity(x)

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return random matrices of the set, by `UnitDisc` or `Contraction`.

        Parameters
        ----------
        *size : int, or one tuple
            The shape ``(..., n, n)``, or ``(..., n, p)`` for the norm.
        dtype : torch.dtype, optional
            A real or complex dtype.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        return self.bounded.random(*size, dtype=dtype, device=device, generator=generator)
