"""The Cayley transform by a truncated geometric series, which is not orthogonal, and its defect."""

import torch
from torch import Tensor

from .._options import is_integer
from ..errors import DtypeError, OptionError
from .checks import require_matrix
from .precision import full_precision
from .skew import skew


@full_precision
def cayley_series(A: Tensor, terms: int = 5) -> Tensor:
    r"""Cayley transform with the inverse replaced by a finite geometric series.

    .. math::
        R_k(A) = (I + Q)(I + Q + \dots + Q^{k-2}) = I + 2Q + \dots + 2Q^{k-2} + Q^{k-1}, \qquad Q = \tfrac12 A.

    The result is not orthogonal. This function computes what some adapter libraries compute; otherwise use
    `manifold_rnn.linalg.cayley`.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        A real or complex matrix; only its skew-Hermitian part is used.
    terms : int
        The number ``k`` of terms, at least 2.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    ShapeError, DtypeError
        If ``A`` is not a batch of square floating point matrices.
    OptionError
        If ``terms`` is not an integer of at least 2.

    Notes
    -----
    Costs k - 2 products. `cayley_series_defect` returns the distance of the singular values from 1.

    Examples
    --------
    >>> A = mr.linalg.skew(torch.randn(4, 4, dtype=torch.float64)) / 20
    >>> assert torch.allclose(mr.linalg.cayley_series(A, 12), mr.linalg.cayley(A), atol=1e-9)
    """
    require_matrix(A, "cayley_series")
    _require_terms(terms)
    Q = skew(A) * 0.5
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    if terms == 2:
        return eye + Q
    inner = 2 * eye + Q  # Horner's rule
    for _ in range(terms - 3):
        inner = 2 * eye + Q @ inner
    return eye + Q @ inner


def cayley_series_defect(theta: Tensor | float, terms: int = 5) -> Tensor:
    r"""Distance from 1 of the singular values of `cayley_series`.

    .. math:: |\sigma - 1|, \qquad \sigma = \bigl|1 - (i\theta)^{k-1}\bigr|.

    This holds because :math:`R_k(A) = \operatorname{cay}(A)\,(I - Q^{k-1})` and the Cayley transform is orthogonal.

    Parameters
    ----------
    theta : Tensor or float
        Real numbers for which :math:`i\theta` is an eigenvalue of :math:`Q = A/2`. The Cayley transform rotates by
        :math:`2 \arctan\theta` there, so 1 corresponds to 90 degrees.
    terms : int
        The number ``k`` of terms, at least 2.

    Returns
    -------
    Tensor
        Has the shape of ``theta``.

    Raises
    ------
    OptionError, DtypeError
        If ``terms`` is not an integer of at least 2, or ``theta`` is not real.

    Notes
    -----
    With k = 5 the distance is :math:`\theta^4` for rotations of up to 90 degrees. At 90 degrees the matrix is singular.

    Examples
    --------
    >>> assert mr.linalg.cayley_series_defect(1.0) == 1 and mr.linalg.cayley_series_defect(0.1) < 1.01e-4
    """
    _require_terms(terms)
    try:
        angle = torch.as_tensor(theta)
    except (TypeError, ValueError, RuntimeError):
        angle = None
    if angle is None or angle.is_complex() or angle.dtype is torch.bool:
        raise DtypeError(
            "cayley_series_defect needs real numbers.\n"
            f"Got {type(theta).__name__ if angle is None else angle.dtype}.\nPass for example theta=0.1."
        )
    power = angle.abs() ** (terms - 1)
    if terms % 2 == 0:  # an imaginary power is orthogonal to 1
        long = torch.hypot(torch.ones_like(power), power)
        return torch.where(power < 1, power * power / (long + 1), long - 1)
    return torch.where(power < 1, power, (power - 2).abs()) if terms % 4 == 1 else power


def _require_terms(terms: int) -> None:
    if not is_integer(terms, 2):
        raise OptionError(
            "The series of the Cayley transform needs at least two terms.\n"
            f"Expected terms to be an integer of at least 2, got {terms!r:.40}.\nUse 5, or cayley for the exact map."
        )
