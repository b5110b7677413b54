"""Matrices scaled as a whole until their spectral radius or their norm is within a limit: a historical baseline."""

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
    r"""Matrices that are divided by their spectral radius, or by their norm, where that exceeds a limit.

    .. math:: W = \frac{V}{\max(1, \mu(V) / l)}, \qquad \mu = \rho \text{ (radius) or } \sigma_{\max} \text{ (norm)},

    so that :math:`\mu(W) \le l`. In the update view an optimizer takes its plain step and the weight is scaled after
    it, as in the experiments that this class reproduces. In the trivialized view :math:`V` is the base plus the
    coordinates.

    Parameters
    ----------
    measure : "radius" or "norm"
    limit : float
        Positive.

    Raises
    ------
    OptionError
        If ``measure`` is neither of the two, or ``limit`` is not a positive number.

    See Also
    --------
    manifold_rnn.UnitDisc : the set of ``measure="radius"``, with steps along its boundary.
    manifold_rnn.Contraction : the set of ``measure="norm"``, with the nearest point of it.

    Notes
    -----
    Use it as a baseline; use `UnitDisc` or `Contraction` to train. It does not promise the following:

    - *It is not a projection.* Scaling shrinks all directions, not only those that are too large.
    - *A radius of at most 1 does not bound* :math:`\|W^k\|`. Only powers far enough out decay. A norm of at most 1
      does bound it by 1.
    - *On the boundary a small step need not reduce the loss.* The step is not made tangent to the set, unlike that of
      `UnitDisc`.

    Tensors have shape (..., n, n) for the radius and (..., n, p) for the norm, real or complex. Both measures are
    computed anew at every evaluation, by `manifold_rnn.linalg.spectral_radius` and from singular values, so the limit
    holds up to rounding error from any start. They are differentiated: beyond the limit the gradient of the
    trivialized view is orthogonal to :math:`V`. Source: Sengupta and Friston (2018) for the experiments, Gelfand
    (1941) for the radius.

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
                "SpectralScaled scales by one of two measures.\n"
                f"Expected 'radius' or 'norm', got {measure!r}.\nCheck the spelling."
            )
        if not (isinstance(limit, (int, float)) and 0 < limit < math.inf):
            raise OptionError(f"The limit of SpectralScaled is a positive number.\nGot {limit!r}.\nUse e.g. limit=1.0.")
        self.measure, self.limit = measure, float(limit)

    @property
    def bounded(self) -> UnitDisc | Contraction:
        """The set in which the weight lies."""
        return UnitDisc(self.limit) if self.measure == "radius" else Contraction(self.limit)

    @property
    def reads_device(self) -> bool:
        return True  # eigenvalues or singular values

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
        r"""The matrix divided by :math:`\max(1, \mu(x) / l)`; a point of the set, not the nearest.

        Parameters
        ----------
        x : Tensor, shape (..., n, n), or (..., n, p) for the norm

        Returns
        -------
        Tensor, of that shape

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If ``x`` cannot be brought into the set.
        """
        self.require(x)
        return scaled_within(x, spectral_radius if self.measure == "radius" else spectral_norm, self.limit)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.bounded.dist(x, y, keepdim=keepdim)

    # --- points ---

    def defect(self, x: Tensor) -> Tensor:
        r"""How far out ``x`` is, relative to the limit: :math:`\max(0, \mu(x) / l - 1)`, per matrix."""
        return self.bounded.defect(x)

    def sensitivity(self, x: Tensor) -> float:
        """That of the set: how many rounding errors of its entries the measure of a matrix may have."""
        return self.bounded.sensitivity(x)

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Random matrices of the set: those of `UnitDisc` or of `Contraction`.

        Parameters
        ----------
        *size : int, or one tuple
            ``(..., n, n)``, or ``(..., n, p)`` for the norm.
        dtype : torch.dtype, optional
            Real or complex.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        return self.bounded.random(*size, dtype=dtype, device=device, generator=generator)
