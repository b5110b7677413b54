"""The closed ball of the spectral norm."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from ..linalg import clip_singular_values
from ..linalg.norms import norm, spectral_norm
from ..linalg.precision import full_precision
from .region import Region


class Contraction(Region):
    r"""Matrices whose largest singular value is at most ``bound``. The set is closed and convex.

    .. math:: \|x\|_2 = \sigma_{\max}(x) \le b, \qquad R_x(u) = \operatorname{proj}(x + u).

    Here proj is the nearest point of the set, by clipping singular values. With ``bound = 1`` no state grows:
    :math:`\|xh\| \le \|h\|`. This is a stronger condition than that of `UnitDisc`, which bounds only eigenvalues.

    Parameters
    ----------
    bound : float
        A positive bound.

    Raises
    ------
    OptionError
        If ``bound`` is not a positive number.

    Notes
    -----
    Tensors have shape (..., n, p), real or complex. A step is that of the projected gradient method, which descends
    also on the boundary. In the trivialized view a singular value beyond the bound has no gradient until the base
    moves. Use ``rebase_every``, which makes it the same method. A step costs one singular value decomposition. Source:
    Bertsekas (1976) for the method.

    For the kernel of a convolution, `constrain` bounds the flattened matrix (out, in * taps), not the map between
    images. For taps k and strides s, up to :math:`m = \prod_i \lceil k_i / s_i \rceil` patches contain a pixel, so the
    norm of that map is at most :math:`b \sqrt m`. For 3 x 3 taps and stride 1 this is 3b, which a constant kernel
    attains. Pass ``bound=1/3`` for a norm of at most 1. `manifold_rnn.OrthogonalConv` has norm 1 without such a factor.

    Examples
    --------
    >>> x = mr.Contraction(0.5).projx(torch.randn(3, 5))
    >>> assert torch.linalg.matrix_norm(x, 2) < 0.5 + 1e-5
    """

    name = "Contraction"

    def __init__(self, bound: float = 1.0) -> None:
        super().__init__()
        if not (isinstance(bound, (int, float)) and 0 < bound < math.inf):
            raise OptionError(f"The bound of Contraction must be positive.\nGot {bound!r}.\nUse e.g. bound=1.0.")
        self.bound = float(bound)

    @property
    def reads_device(self) -> bool:
        return True  # computes singular values

    def key(self) -> Hashable:
        return (type(self), self.bound)

    def extra_repr(self) -> str:
        return f"bound={self.bound}"

    def _require_kind(self, x: Tensor, name: str) -> None:
        self._require_floating(x, name)
        ok, reason = self._check_shape(tuple(x.shape), name)
        if not ok:
            raise ShapeError(f"{reason}.\nContraction needs matrices of at least 1 x 1.\nReshape it first.")

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok = len(shape) >= 2 and min(shape[-2:]) >= 1
        return ok, None if ok else f"`{name}` needs shape (..., n, p), got {tuple(shape)}"

    @full_precision
    def projx(self, x: Tensor) -> Tensor:
        self._require_kind(x, "x")
        return clip_singular_values(x, self.bound)

    @full_precision
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return norm(self.logmap(x, y), keepdim=keepdim)

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        r"""Return the relative distance outside of the ball, :math:`\max(0, \sigma_{\max}(x) / b - 1)`, per matrix."""
        return (spectral_norm(x) / self.bound - 1).clamp(min=0)

    def random(
        self,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return matrices with Gaussian directions and a largest singular value uniform in (0, bound).

        Parameters
        ----------
        *size : int, or one tuple
            The shape ``(..., n, p)``.
        dtype : torch.dtype, optional
            A real or complex dtype.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        shape, dtype = self._new(size, dtype)
        x = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        size_ = torch.linalg.matrix_norm(x, 2, keepdim=True)
        return x * (self.bound * torch.rand(size_.shape, dtype=size_.dtype, device=device, generator=generator) / size_)
