"""A triangular root of the stationary covariance of a linear recurrence with noise."""

import torch
from torch import Tensor

from ..errors import NonFiniteError, OptionError
from ..linalg import spectral_radius

_DOUBLINGS = 60


def stationary_radius(W: Tensor, who: str) -> float:
    """Return the spectral radius of a matrix. Raises `OptionError` unless it is below 1."""
    radius = float(spectral_radius(W))
    if radius >= 1:
        raise OptionError(
            f"`{who}` needs a stable recurrence, in which noise stays bounded.\n"
            f"Expected a spectral radius below 1. Got {radius:.6g}.\n"
            f"Scale the matrix, for instance by {0.99 / radius:.4g}."
        )
    return radius


def root_of_sum(W: Tensor, start: Tensor, who: str) -> Tensor:
    r"""Return a triangular R with :math:`R^H R = \sum_k (W^k)^H S^H S W^k`, by doubling the number of terms.

    The sum itself is too ill-conditioned to invert in double precision.
    """
    root, power = start, W
    for _ in range(_DOUBLINGS):
        further = root @ power
        if not further.isfinite().all():
            raise NonFiniteError(
                f"`{who}` needs powers of the matrix within the range of double precision.\n"
                "Got powers that overflow.\nScale the matrix down."
            )
        if float(further.abs().max()) <= torch.finfo(W.dtype).tiny ** 0.5 * float(root.abs().max()):
            break
        root, power = torch.linalg.qr(torch.cat([root, further]), mode="r").R, power @ power
    return root
