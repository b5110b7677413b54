"""The groups of orthogonal matrices and of rotations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..linalg import defect
from ..linalg.lu import slogdet
from ..linalg.precision import full_precision
from .group import MatrixGroup


class Orthogonal(MatrixGroup):
    r"""The orthogonal group O(n): real matrices with :math:`x^\top x = I`.

    The group has two components. Every map preserves the determinant of a point, +1 or -1.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of `retr`: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n); all axes except the last two are batch axes. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.Orthogonal().random(4, 4)
    >>> assert mr.Orthogonal().defect(x) < 1e-5
    """

    name = "Orthogonal"
    is_complex = False
    is_orthonormal = True

    @property
    def identity_component(self) -> SpecialOrthogonal:
        return SpecialOrthogonal(self.retraction)


class SpecialOrthogonal(MatrixGroup):
    r"""The special orthogonal group SO(n): rotations, :math:`x^\top x = I` and :math:`\det x = 1`.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of `retr`: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n); all axes except the last two are batch axes. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.SpecialOrthogonal("exp").random(4, 4, dtype=torch.float64)
    >>> assert torch.isclose(torch.linalg.det(x), torch.ones((), dtype=torch.float64))
    """

    name = "SpecialOrthogonal"
    is_complex = False
    is_orthonormal = True

    def _component(self, Vh: Tensor, U: Tensor) -> Tensor:
        sign = slogdet(U @ Vh)[0]
        return torch.cat([Vh[..., :-1, :], Vh[..., -1:, :] * sign[..., None, None]], -2)

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        return defect(x) + (slogdet(x)[0] - 1).abs()
