"""Householder reflections of rows."""

import torch
from torch import Tensor


def unit(v: Tensor) -> Tensor:
    r"""Scale vectors on the last axis to length 1, also where their squares would overflow or vanish; 0 stays 0.

    A reflection does not see the length of its vector, so the first scaling needs no derivative.
    """
    largest = v.detach().abs().amax(-1, keepdim=True)
    v = v / torch.where(largest > 0, largest, 1)
    square = (v * v.conj()).real.sum(-1, keepdim=True)
    return v / torch.where(square > 0, square, 1).sqrt()


def reflected(h: Tensor, u: Tensor) -> Tensor:
    r"""Map every row of ``h``, shape (..., B, n), to :math:`h - 2 u u^{\mathsf H} h`; ``u``, (..., n), has length 1."""
    u = u.unsqueeze(-2)
    return h - 2 * (h * u.conj()).sum(-1, keepdim=True) * u


def wy_factor(K: Tensor, beta: Tensor, ratio: Tensor | None = None) -> Tensor:
    r"""Return the triangular factor ``T`` of a product of reflections.

    .. math::
        (I - \beta_R k_R k_R^{\mathsf H}) \cdots (I - \beta_1 k_1 k_1^{\mathsf H}) = I - K^\top T \bar K, \qquad
        T = \bigl(I + \operatorname{tril}(B \bar K K^\top, -1)\bigr)^{-1} B,

    with the rows :math:`k_r^\top` of ``K`` and :math:`B = \operatorname{diag}(\beta)`. The triangular system is solved
    row by row, so the factor has small errors also where all vectors are equal.

    Parameters
    ----------
    K : Tensor, shape (..., R, n)
        The vectors, real or complex. The one in the first row acts first.
    beta : Tensor, shape (..., R), real
        Strengths of the reflections; 2 for a vector of length 1 is orthogonal, 0 is the identity.
    ratio : Tensor, shape (..., R, R), optional
        Factors of the products in the triangle, for states that decay between two reflections.

    Returns
    -------
    Tensor, shape (..., R, R)
        Lower triangular.

    Notes
    -----
    Source: Bischof and Van Loan (1987).
    """
    lower = (beta.unsqueeze(-1) * (K.conj() @ K.mT)).tril(-1)
    lower = lower if ratio is None else lower * ratio
    scales = torch.diag_embed(beta).to(K.dtype)
    # the solver reads ones on the diagonal
    return torch.linalg.solve_triangular(lower, scales, upper=False, unitriangular=True)


def reflect(h: Tensor, k: Tensor, beta: Tensor | float) -> Tensor:
    r"""Map each vector of ``h``, shape (..., n), to :math:`h - \beta k k^{\mathsf H} h` with its own ``k``.

    ``beta`` is real, of shape (..., 1) or a number.
    """
    return h - (beta * (h * k.conj()).sum(-1, keepdim=True)) * k
