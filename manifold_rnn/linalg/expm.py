"""The exponential of a general square matrix."""

import math

import torch
from torch import Tensor

from .checks import read_number
from .precision import host_max, may_read_device

_RADIUS = 0.6  # norm at which the Taylor remainder of degree 15 is below the rounding unit of double precision
_FIXED_SQUARINGS = 12  # if no number may be read from the device; enough for norms up to about 2400
_COEFFICIENTS = [1 / math.factorial(k) for k in range(16)]


def expm(A: Tensor) -> Tensor:
    r"""Exponential of a square matrix.

    .. math:: \exp(A) = \bigl(p(2^{-s}A)\bigr)^{2^s}, \qquad p \text{ the Taylor polynomial of degree 15}.

    Its errors are at rounding error, which grows with the norm. ``torch.linalg.matrix_exp`` has errors of up to 2e-10
    in double and 6e-5 in single precision for a small matrix. For norms of about 10 its errors are 6e-12.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        A real or complex matrix in single or double precision.

    Returns
    -------
    Tensor, shape (..., n, n)

    Notes
    -----
    Costs 6 + s matrix products, where s grows with the logarithm of the largest column sum of moduli. Every matrix of a
    batch has its own s. Derivatives of any order are those of the products. If no number may be read from the device, a
    norm beyond 2400 gives NaN. Source: Higham (2008), chapter 10; Paterson and Stockmeyer (1973) for the polynomial.

    Examples
    --------
    >>> A = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    >>> assert torch.equal(expm(A), torch.eye(2) + A)
    """
    size = A.detach().abs().sum(-2).amax(-1)[..., None, None]
    squarings = torch.log2(size / _RADIUS).ceil().clamp(min=0)
    if may_read_device():
        count = read_number(host_max, squarings)
        most = int(count) if math.isfinite(count) else 0  # non-finite entries stay non-finite
    else:
        most = _FIXED_SQUARINGS
        squarings = torch.where(squarings > most, torch.nan, squarings)
    E = _polynomial(A * torch.exp2(-squarings) if most or not may_read_device() else A)
    for k in range(most):
        E = torch.where(squarings > k, E @ E, E)
    return E


def _polynomial(B: Tensor) -> Tensor:
    """Return the Taylor polynomial of degree 15 by six products: four cubic polynomials, combined in ``B^4``."""
    eye = torch.eye(B.shape[-1], dtype=B.dtype, device=B.device)
    second = B @ B
    third, fourth = second @ B, second @ second
    c = _COEFFICIENTS
    parts = [c[k] * eye + c[k + 1] * B + c[k + 2] * second + c[k + 3] * third for k in (0, 4, 8, 12)]
    total = parts[3]
    for part in (parts[2], parts[1], parts[0]):
        total = part + total @ fourth
    return total
