"""Functions of a skew-Hermitian matrix by its eigenvectors, for norms whose powers would overflow."""

from collections.abc import Callable

import torch
from torch import Tensor

from .defect import plus_identity
from .norms import power_of_two_below
from .polar import polar
from .precision import double

_SLACK = 8  # eigenvalues below this many roundings of the norm, times n, are set to 0


def eigenangles(A: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\lambda` and ``V`` with :math:`A = V \operatorname{diag}(i\lambda) V^H`, in double precision.

    ``A`` is first scaled by a power of two, so that nothing overflows. An eigenvalue that may be a rounding error of 0
    is set to 0. The result then decomposes a skew-Hermitian matrix near ``A``, relative to its norm.
    """
    A = double(A)
    largest = A.abs().amax((-2, -1), keepdim=True)
    scale = power_of_two_below(largest)
    values, V = torch.linalg.eigh(-1j * (A / scale))
    unit = _SLACK * A.shape[-1] * torch.finfo(values.dtype).eps
    values = torch.where(values.abs() > unit * values.abs().amax(-1, keepdim=True), values, 0)
    return values * scale.squeeze(-1), V


def rotation_by(values: Tensor, V: Tensor, angle: Callable[[Tensor], Tensor], *, real: bool) -> Tensor:
    r"""Return :math:`V \operatorname{diag}(e^{i\,\mathrm{angle}(\lambda)}) V^H`, unitary, or a rotation if ``real``.

    ``angle`` must be odd. For a real matrix the eigenvalues with positive ``lambda`` determine the others, so the
    determinant is 1 for any rounding errors.
    """
    half = 0.5 * angle(values)
    turned = 2j * half.sin() * torch.polar(torch.ones_like(half), half)  # e^(2i half) - 1
    if not real:
        return polar(plus_identity((V * turned.unsqueeze(-2)) @ V.mH))
    turned = torch.where(values > 0, turned, 0)
    return polar(plus_identity(2 * ((V * turned.unsqueeze(-2)) @ V.mH).real))
