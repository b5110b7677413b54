"""The exponential retraction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..linalg.action import moved_by_group
from ..linalg.checks import read_number, require_length
from ..linalg.expm import expm
from ..linalg.exponential import expm_skew
from ..linalg.logarithm import logm_unitary
from ..linalg.plane import along_geodesic
from ..linalg.polar import polish
from ..linalg.precision import double, host_max, may_read_device, recording
from ..linalg.skew import skew
from ..linalg.subspaces import subspace_log
from ..linalg.translation import Unpack, expm_coordinates, expm_times, unpack_at
from .base import Retraction

# bounds of the entries of a tangent vector; the first two apply in single precision
_WIDEN_SQUARE_ABOVE = 4.0  # rounding errors of x and of x^H u are amplified by the length of the vector
_WIDEN_TALL_ABOVE = 0.1  # the block matrix is not normal, so its exponential loses digits
_TALL_LONG_ABOVE = 4.0  # the square of the vector loses digits in any precision


@dataclass(frozen=True)
class Exponential(Retraction):
    r"""The exponential retraction, which on a group follows the geodesic.

    .. math:: \phi(A) = \exp(A), \qquad \phi^{-1}(Q) = \log Q \text{ (principal)}.

    With more rows than columns it is the curve :math:`\exp(\Omega)x` of the group action, with ``Omega`` as in
    `Cayley`. This curve is the geodesic of the canonical metric; for the Euclidean metric it has order 1. It consists
    of the first p columns of the exponential of a 2p x 2p matrix, and has no closed inverse.

    The map reaches every orthogonal matrix of determinant 1 and every unitary matrix. `inverse` raises
    `OffManifoldError` at an eigenvalue -1, where the logarithm is not unique. Source: Lezcano-Casado and
    Martinez-Rubio (2019) for recurrent networks.

    Examples
    --------
    >>> A = mr.linalg.skew(torch.randn(3, 3, dtype=torch.float64))
    >>> assert torch.allclose(mr.retractions.Exponential().group_map(A), torch.linalg.matrix_exp(A))
    """

    name: ClassVar[str] = "exp"
    projecting: ClassVar[bool] = True
    orders: ClassVar[dict[str, int]] = {"group": 2, "canonical": 2, "euclidean": 1, "sphere": 2, "grassmann": 2}

    def plane_rotation(self, square: Tensor) -> tuple[Tensor, Tensor]:
        return along_geodesic(square)

    def plane_length(self, angle: Tensor) -> Tensor:
        return angle

    def group_map(self, A: Tensor) -> Tensor:
        return expm_skew(A)

    def translate(self, x: Tensor, A: Tensor) -> Tensor:
        return expm_times(x, A)

    def translate_coordinates(self, x: Tensor, c: Tensor, unpack: Unpack = unpack_at) -> Tensor:
        return expm_coordinates(x, c, unpack)

    def inverse_group_map(self, Q: Tensor) -> Tensor:
        return logm_unitary(Q)

    def retract_square(self, x: Tensor, u: Tensor) -> Tensor:
        if _single(u) and _largest(u) > _WIDEN_SQUARE_ABOVE:
            return super().retract_square(polish(double(x)), double(u)).to(x.dtype)
        return super().retract_square(x, u)

    def inverse_subspace(self, x: Tensor, y: Tensor) -> Tensor:
        return subspace_log(x, y)

    def retract_tall(self, x: Tensor, u: Tensor) -> Tensor:
        largest = _largest(u)
        if not largest <= _TALL_LONG_ABOVE:  # NaN included
            require_length(u, "The exponential retraction")
            return moved_by_group(expm_skew, polish(double(x)), double(u)).to(x.dtype)
        if _single(u) and largest > _WIDEN_TALL_ABOVE:
            return self.retract_tall(polish(double(x)), double(u)).to(x.dtype)
        p = x.shape[-1]
        xu = x.mH @ u
        A = skew(xu)
        outside = u - x @ xu
        if not may_read_device() and not recording():
            return _along_basis(x, A, outside)  # torch's exponential waits for the device
        upper = torch.cat([A, -(outside.mH @ outside)], -1)
        lower = torch.cat([torch.eye(p, dtype=x.dtype, device=x.device).expand_as(A), torch.zeros_like(A)], -1)
        E = expm(torch.cat([upper, lower], -2))[..., :p]  # Omega in the basis (x, outside)
        return x @ E[..., :p, :] + outside @ E[..., p:, :]

    def inverse_tall(self, x: Tensor, y: Tensor) -> Tensor:
        raise UnsupportedError(
            "The exponential retraction of matrices with more rows than columns has no closed inverse.\n"
            f"Expected square matrices, got {tuple(x.shape)}.\nUse the Cayley, QR or polar retraction."
        )


def _along_basis(x: Tensor, A: Tensor, outside: Tensor) -> Tensor:
    """Compute it in an orthonormal basis, where the block matrix is skew; ``outside`` must have full rank."""
    Q, R = torch.linalg.qr(outside)
    p = R.shape[-2]  # less than the number of columns if there are too few rows outside
    zero = torch.zeros((*A.shape[:-2], p, p), dtype=A.dtype, device=A.device)
    block = torch.cat([torch.cat([A, -R.mH], -1), torch.cat([R, zero], -1)], -2)
    E = expm_skew(block)[..., : A.shape[-1]]
    return x @ E[..., : A.shape[-1], :] + Q @ E[..., A.shape[-1] :, :]


def _single(u: Tensor) -> bool:
    return u.dtype in (torch.float32, torch.complex64)


def _largest(u: Tensor) -> float:
    """Return the largest modulus of an entry, or 0 if no number may be read."""
    return read_number(host_max, u.abs()) if may_read_device() else 0.0
