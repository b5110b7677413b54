"""The group of unitary matrices with determinant 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._torch import uncompiled
from ..errors import OffManifoldError
from ..linalg import defect, logm_unitary, pack_skew, unpack_skew
from ..linalg.checks import on_numbers
from ..linalg.lu import slogdet
from ..linalg.precision import full_precision
from ..retractions import QR, Exponential
from .group import MatrixGroup

_SECANTS = 30
_STEP = 1e-3  # first step of the secant method, in radians


class SpecialUnitary(MatrixGroup):
    r"""The special unitary group SU(n): complex matrices with :math:`x^H x = I` and :math:`\det x = 1`.

    Its Lie algebra consists of the skew-Hermitian matrices of trace 0. Only the exponential preserves the determinant
    by itself, so the retraction divides by a root of the determinant:

    .. math::
        R_x(u) = \frac{x\,\phi(A)}{\det(x\,\phi(A))^{1/n}}, \qquad
        A = \operatorname{skew}(x^H u) - \tfrac1n \operatorname{tr}(\operatorname{skew}(x^H u))\, I.

    The root is the principal one, which is smooth while the phase of :math:`\det \phi(A)` is not :math:`\pi`. The
    division only changes third-order terms, so it does not change the retraction's order.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of `retr`: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n); all axes except the last two are batch axes. Coordinates are :math:`n^2 - 1` real
    numbers: the diagonal is expressed in an orthonormal basis of the vectors of sum 0. `projx` divides the nearest
    unitary matrix by the root of its determinant. The inverse of the QR retraction is not compiled by
    ``torch.compile``. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.SpecialUnitary("polar").random(4, 4, dtype=torch.complex128)
    >>> assert torch.isclose(torch.linalg.det(x), torch.ones((), dtype=torch.complex128))
    """

    name = "SpecialUnitary"
    is_complex = True

    @full_precision
    def defect(self, x: Tensor) -> Tensor:
        return defect(x) + (slogdet(x)[0] - 1).abs()

    # --- the Lie algebra ---

    def coordinate_shape(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1] ** 2 - 1)

    def _lie(self, A: Tensor) -> Tensor:
        return _traceless(super()._lie(A))

    def _ambient(self, w: Tensor, u: Tensor) -> Tensor:
        return w @ self._lie(w.mH @ u)

    def _pack(self, A: Tensor) -> Tensor:
        c, n = pack_skew(A), A.shape[-1]
        return torch.cat([c[..., :-n], _reflect(c[..., -n:])[..., :-1]], -1)

    def _unpack(self, c: Tensor, dtype: torch.dtype) -> Tensor:
        n = math.isqrt(c.shape[-1] + 1)
        off, diagonal = c.tensor_split([n * n - n], -1)
        diagonal = _reflect(torch.cat([diagonal, c.new_zeros((*c.shape[:-1], 1))], -1))
        return unpack_skew(torch.cat([off, diagonal], -1), dtype)

    def _translated(self, x: Tensor, c: Tensor) -> Tensor:
        return self.retraction.translate_coordinates(x, c, self._algebra)

    # --- the determinant ---

    def _settle(self, w: Tensor) -> Tensor:
        angle = slogdet(w)[0].angle() / w.shape[-1]
        return w * _phase(-angle)[..., None, None]

    # --- inverses ---

    def _log(self, Q: Tensor) -> Tensor:
        """Return the shortest logarithm of trace 0: the principal one, with some extreme angles shifted by 2 pi."""
        cut = _cut(Q.detach())[..., None, None]
        angle = cut - torch.pi
        eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
        return _traceless(logm_unitary(Q * _phase(-angle)) + 1j * angle * eye)

    def _inverse_map(self, Q: Tensor) -> Tensor:
        """Return ``A`` of trace 0 that the map takes to ``Q`` up to a phase, which is the only unknown."""
        if isinstance(self.retraction, Exponential):
            return self._log(Q)
        if isinstance(self.retraction, QR):  # torch's inductor silently computes a wrong gradient for it
            return _uncompiled(self, Q)
        return self._solve_for_phase(Q)

    def _solve_for_phase(self, Q: Tensor) -> Tensor:
        n = Q.shape[-1]

        def trace(angle: Tensor) -> tuple[Tensor, Tensor]:
            A = self.retraction.inverse_group_map(Q * _phase(angle)[..., None, None])
            return A, A.diagonal(dim1=-2, dim2=-1).imag.mean(-1)

        with torch.no_grad():
            angle = torch.zeros(Q.shape[:-2], dtype=Q.real.dtype, device=Q.device)
            value, slope = trace(angle)[1], torch.ones_like(angle)
            step, small = torch.full_like(angle, _STEP), torch.finfo(angle.dtype).eps ** 0.5
            for _ in range(_SECANTS):
                new = trace(angle + step)[1]
                known = step.abs() > small  # shorter secants are rounding error
                slope = torch.where(known, (new - value) / torch.where(known, step, 1), slope)
                angle, value = angle + step, new
                step = -value / slope
            h = torch.finfo(angle.dtype).eps ** (1 / 3)
            slope = (trace(angle + h)[1] - trace(angle - h)[1]) / (
                2 * h
            )  # the last secant is too short for derivatives
            on_numbers(_require_solved, torch.stack([value, angle * n], -1))
        for _ in range(2):  # steps of length 0, which give the angle its first and second derivatives
            angle = angle - trace(angle)[1] / slope
        return _traceless(trace(angle)[0])


@uncompiled
def _uncompiled(manifold: SpecialUnitary, Q: Tensor) -> Tensor:
    return manifold._solve_for_phase(Q)


def _require_solved(solution: Tensor) -> None:
    value, phase = solution.unbind(-1)
    if not bool((value.abs() < 1e-3).all() and (phase.abs() < torch.pi).all()):  # NaN included
        raise OffManifoldError(
            "The inverse retraction of SpecialUnitary needs x phi(A) such that the phase of det phi(A) is below pi.\n"
            f"Got {float(phase.abs().max()):.3g}, with a trace of {float(value.abs().max()):.3g} left.\n"
            "Use the exponential retraction, or a base point nearer to it."
        )


def _cut(Q: Tensor) -> Tensor:
    """Return where to cut the circle, so that the eigenangles between two cuts have sum 0."""
    angles = torch.linalg.eigvals(Q).angle().sort(-1).values
    n, turns = Q.shape[-1], torch.round(angles.sum(-1) / (2 * torch.pi)).long()
    if n == 1:
        return torch.full_like(angles[..., 0], torch.pi)
    # for a positive number of turns, shift as many of the largest angles below the cut; else the smallest above it
    above = torch.where(turns > 0, n - turns, -turns).clamp(1, n - 1)[..., None]
    middle = 0.5 * (angles.gather(-1, above - 1) + angles.gather(-1, above))[..., 0]
    return torch.where(turns > 0, middle, torch.where(turns < 0, middle + 2 * torch.pi, torch.pi))


def _traceless(A: Tensor) -> Tensor:
    mean = A.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return A - mean * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)


def _phase(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)


def _reflect(d: Tensor) -> Tensor:
    """Apply the reflection that swaps ``(1, ..., 1)/sqrt(n)`` and the last unit vector: sum 0 becomes last entry 0."""
    n = d.shape[-1]
    v = torch.full((n,), -(n**-0.5), dtype=d.dtype, device=d.device)
    v[-1] += 1
    return d - (d @ v / max(1 - n**-0.5, 0.1))[..., None] * v
