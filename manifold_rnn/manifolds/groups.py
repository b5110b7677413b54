"""The groups of orthogonal and unitary matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ShapeError
from ..linalg import defect
from ..linalg.precision import full_precision
from .group import MatrixGroup


class Orthogonal(MatrixGroup):
    r"""The orthogonal group O(n): real matrices with :math:`x^\top x = I`.

    It has two components; every map keeps the determinant, +1 or -1, that a point has.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n), all axes but the last two are batch. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.Orthogonal().random(4, 4)
    >>> assert mr.Orthogonal().defect(x) < 1e-5
    """

    name = "Orthogonal"
    complex_ = False


class SpecialOrthogonal(MatrixGroup):
    r"""The special orthogonal group SO(n): rotations, :math:`x^\top x = I` and :math:`\det x = 1`.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n), all axes but the last two are batch. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.SpecialOrthogonal("exp").random(4, 4, dtype=torch.float64)
    >>> assert torch.isclose(torch.linalg.det(x), torch.ones((), dtype=torch.float64))
    """

    name = "SpecialOrthogonal"
    complex_ = False

    def _component(self, Vh: Tensor, U: Tensor) -> Tensor:
        sign = torch.linalg.det(U @ Vh).sign()
        return torch.cat([Vh[..., :-1, :], Vh[..., -1:, :] * sign[..., None, None]], -2)

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        return defect(x) + (torch.linalg.slogdet(x).sign - 1).abs()


class Unitary(MatrixGroup):
    r"""The unitary group U(n): complex matrices with :math:`x^H x = I`.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n), all axes but the last two are batch. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.Unitary().random(4, 4)
    >>> assert x.dtype == torch.complex64 and mr.Unitary().defect(x) < 1e-5
    """

    name = "Unitary"
    is_complex = True
    complex_ = True


class UnitaryRealForm(MatrixGroup):
    r"""The unitary group U(n/2) as real n x n matrices, for cells with a real state.

    .. math::
        x = \begin{pmatrix} \operatorname{Re} w & -\operatorname{Im} w \\
        \operatorname{Im} w & \operatorname{Re} w \end{pmatrix}, \qquad w \in U(n/2).

    A subgroup of SO(n) of dimension :math:`n^2/4`; n must be even. All algebra is done on the complex matrix, at a
    quarter of the cost.

    Parameters
    ----------
    retraction : str or Retraction
        What `retr` does: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n), all axes but the last two are batch. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.UnitaryRealForm().random(4, 4)
    >>> assert torch.equal(x[:2, :2], x[2:, 2:]) and torch.equal(x[:2, 2:], -x[2:, :2])
    """

    name = "UnitaryRealForm"
    complex_ = False
    _scale = math.sqrt(2)

    @property
    def complex_or_form(self) -> bool:
        return True

    def _size(self, shape: tuple[int, ...]) -> int:
        return shape[-1] // 2

    def _enter(self, x: Tensor) -> Tensor:
        """Complex matrix of the projection onto matrices of the form."""
        m = x.shape[-1] // 2
        a, b, c, d = x[..., :m, :m], x[..., :m, m:], x[..., m:, :m], x[..., m:, m:]
        return torch.complex((a + d) * 0.5, (c - b) * 0.5)

    def _leave(self, w: Tensor) -> Tensor:
        return torch.cat([torch.cat([w.real, -w.imag], -1), torch.cat([w.imag, w.real], -1)], -2)

    def _require_kind(self, x: Tensor, name: str) -> None:
        super()._require_kind(x, name)
        if x.shape[-1] % 2:
            raise ShapeError(
                "UnitaryRealForm holds complex matrices as real ones of twice the size.\n"
                f"Expected an even n, got {name} of shape {tuple(x.shape)}.\nChoose an even size, or Orthogonal."
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        ok, reason = super()._check_shape(shape, name)
        return (
            (ok, reason) if not ok or shape[-1] % 2 == 0 else (False, f"`{name}` needs an even n, got {tuple(shape)}")
        )

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        return defect(x) + torch.linalg.matrix_norm(x - self._leave(self._enter(x)))
