"""The distance of a matrix from orthonormal columns, and sums with the identity."""

import torch
from torch import Tensor

from .checks import require_matrix
from .precision import full_precision


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
    return torch.linalg.matrix_norm(minus_identity(x.mH @ x))


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
