"""The exponential retraction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..linalg.exponential import expm_skew
from ..linalg.logarithm import logm_unitary
from ..linalg.precision import double, host_max, may_read_device
from ..linalg.skew import skew
from .base import Retraction

_WIDEN_ABOVE = 0.1  # entries of a tall tangent vector: the block matrix is not normal, so its exponential loses digits


@dataclass(frozen=True)
class Exponential(Retraction):
    r"""The exponential, which on a group is the geodesic itself.

    .. math:: \phi(A) = \exp(A), \qquad \phi^{-1}(Q) = \log Q \text{ (principal)}.

    With more rows than columns it is the curve :math:`\exp(\Omega)x` of the group action, ``Omega`` as for `Cayley`:
    the geodesic of the canonical metric, of order 1 for the Euclidean. It is the first p columns of the exponential of
    a 2p x 2p matrix, and has no closed inverse.

    Onto: every orthogonal matrix of determinant 1 and every unitary matrix is reached. `inverse` raises
    `OffManifoldError` at an eigenvalue -1, where the logarithm is not unique. Source: Lezcano-Casado and
    Martinez-Rubio (2019) for recurrent networks.

    Examples
    --------
    >>> A = mr.linalg.skew(torch.randn(3, 3, dtype=torch.float64))
    >>> assert torch.allclose(mr.retractions.Exponential().group_map(A), torch.linalg.matrix_exp(A))
    """

    name: ClassVar[str] = "exp"
    orders: ClassVar[dict[str, int]] = {"group": 2, "canonical": 2, "euclidean": 1}

    def group_map(self, A: Tensor) -> Tensor:
        return expm_skew(A)

    def inverse_group_map(self, Q: Tensor) -> Tensor:
        return logm_unitary(Q)

    def retract_tall(self, x: Tensor, u: Tensor) -> Tensor:
        if x.dtype in (torch.float32, torch.complex64) and may_read_device() and host_max(u.abs()) > _WIDEN_ABOVE:
            return self.retract_tall(double(x), double(u)).to(x.dtype)
        p = x.shape[-1]
        A = skew(x.mH @ u)
        outside = u - x @ A
        upper = torch.cat([A, -(outside.mH @ outside)], -1)
        lower = torch.cat([torch.eye(p, dtype=x.dtype, device=x.device).expand_as(A), torch.zeros_like(A)], -1)
        E = torch.linalg.matrix_exp(torch.cat([upper, lower], -2))[..., :p]  # Omega in the basis (x, outside)
        return x @ E[..., :p, :] + outside @ E[..., p:, :]

    def inverse_tall(self, x: Tensor, y: Tensor) -> Tensor:
        raise UnsupportedError(
            "The exponential retraction of matrices with more rows than columns has no closed inverse.\n"
            f"Expected square matrices, got {tuple(x.shape)}.\nUse the Cayley, QR or polar retraction."
        )
