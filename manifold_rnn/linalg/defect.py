"""The distance of a matrix from orthonormal columns, and sums with the identity."""

import torch
from torch import Tensor

from .checks import require_matrix
from .norms import unit_of
from .precision import full_precision, may_read_device


@full_precision
def defect(x: Tensor) -> Tensor:
    r"""Return the distance of the columns from orthonormal ones: :math:`\|X^H X - I\|_F`.

    Parameters
    ----------
    x : Tensor, shape (..., n, p), n >= p
        A real or complex matrix.

    Returns
    -------
    Tensor, shape (...), real
        Infinite if it exceeds the largest number, and NaN if squares do in `fixed_iterations`.

    Raises
    ------
    ShapeError, DtypeError
        If ``x`` is not a batch of square or tall floating point matrices.

    Examples
    --------
    >>> d = mr.linalg.defect(torch.diag(torch.tensor([1.0, 2.0])))
    >>> assert d == 3
    """
    require_matrix(x, "defect", tall=True, advice="Transpose a wide matrix, as in defect(x.mT), to measure its rows.")
    if not may_read_device():  # a captured step compares it with a bound, which NaN exceeds as infinity does
        return torch.linalg.matrix_norm(minus_identity(x.mH @ x))
    unit = unit_of(x).clamp(min=1)  # squares of the quotients do not overflow
    even = x / unit
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.linalg.matrix_norm(even.mH @ even - eye / unit.square()) * unit[..., 0, 0] * unit[..., 0, 0]


def minus_identity(x: Tensor) -> Tensor:
    """Return ``x - I``."""
    return x - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def plus_identity(x: Tensor) -> Tensor:
    """Return ``x + I``."""
    return x + torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def shift_diagonal(x: Tensor, by: float) -> Tensor:
    """Add ``by I`` to ``x``, in place."""
    x.diagonal(dim1=-2, dim2=-1).add_(by)
    return x
