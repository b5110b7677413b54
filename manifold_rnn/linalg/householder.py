"""Householder reflections of rows."""

from typing import Any

import torch
from torch import Tensor

from .._torch import apply_function, sees_every_step


def unit(v: Tensor) -> Tensor:
    r"""Scale vectors on the last axis to length 1, also where their squares would overflow or vanish; 0 stays 0."""
    if not sees_every_step():
        k: Tensor = apply_function(_Unit, v)[0]
        return k
    # a unit vector does not depend on the length, so the first scaling needs no derivative
    v = v / _positive(v.detach().abs().amax(-1, keepdim=True))
    return v / _positive((v * v.conj()).real.sum(-1, keepdim=True)).sqrt()


class _Unit(torch.autograd.Function):
    """The unit vectors and the lengths of vectors, with a backward pass that needs only these two."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
        largest = _positive(v.abs().amax(-1, keepdim=True))
        k = v / largest
        length = _positive(torch.linalg.vector_norm(k, dim=-1, keepdim=True))
        k, length = k.div_(length), length * largest
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(k, length)
        return k, length

    @staticmethod
    def backward(ctx: Any, of_k: Tensor | None, of_length: Tensor | None) -> Tensor | None:
        k, length = ctx.saved_tensors
        g = None if of_length is None else k * of_length
        if of_k is not None:
            along = torch.linalg.vecdot(k, of_k).real.unsqueeze(-1)
            across = torch.addcmul(of_k, k, along.to(k.dtype), value=-1).div_(length)
            g = across if g is None else g + across
        return g


def _positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1)


def reflected(h: Tensor, u: Tensor) -> Tensor:
    r"""Map every row of ``h``, shape (..., B, n), to :math:`h - 2 u u^{\mathsf H} h`; ``u``, (..., n), has length 1."""
    u = u.unsqueeze(-2)
    return h - 2 * (h * u.conj()).sum(-1, keepdim=True) * u


def wy_inverse(lower: Tensor, beta: Tensor) -> Tensor:
    r"""Return the inverse ``U`` in the triangular factor of a product of reflections.

    .. math::
        (I - \beta_R k_R k_R^{\mathsf H}) \cdots (I - \beta_1 k_1 k_1^{\mathsf H}) = I - K^\top B U \bar K, \qquad
        U = \bigl(I + \operatorname{tril}(\bar K K^\top, -1) B\bigr)^{-1},

    with the rows :math:`k_r^\top` of ``K`` and :math:`B = \operatorname{diag}(\beta)`. The triangular system is solved
    by substitution, so the inverse has small errors also where all vectors are equal.

    Parameters
    ----------
    lower : Tensor, shape (..., R, R)
        :math:`\operatorname{tril}(\bar K K^\top, -1)`, multiplied by the decays between the reflections, if any.
    beta : Tensor, shape (..., R, 1), real
        Strengths of the reflections; 2 for a vector of length 1 is orthogonal, 0 is the identity.

    Returns
    -------
    Tensor, shape (..., R, R)
        Lower triangular, with ones on the diagonal.

    Notes
    -----
    Source: Bischof and Van Loan (1987).
    """
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    # from the right, which copies no matrix; the solver reads ones on the diagonal
    return torch.linalg.solve_triangular(lower * beta.mT, eye, upper=False, left=False, unitriangular=True)


def reflect(h: Tensor, k: Tensor, beta: Tensor | float) -> Tensor:
    r"""Map each vector of ``h``, shape (..., n), to :math:`h - \beta k k^{\mathsf H} h` with its own ``k``.

    ``beta`` is real, of shape (..., 1) or a number.
    """
    return h - (beta * (h * k.conj()).sum(-1, keepdim=True)) * k
