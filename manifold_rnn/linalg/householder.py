"""Householder reflections of rows."""

from typing import Any

import torch
from torch import Tensor

from .._torch import sees_every_step
from .precision import recorded


def unit(v: Tensor) -> Tensor:
    r"""Scale vectors on the last axis to length 1, also if their squares overflow or underflow; 0 stays 0."""
    return unit_and_lengths(v)[0]


def unit_and_lengths(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `unit` of vectors (..., n), and two divisors: the largest parts, and the lengths after dividing by them.

    Both divisors have the shape (..., 1), and are 1 for a zero vector.
    """
    if not sees_every_step():
        parts: tuple[Tensor, Tensor, Tensor] = recorded(_Unit, v)
        return parts
    # a unit vector does not depend on the length, so the first scaling needs no derivative
    largest = _largest_part(v.detach())
    v = divided(v, largest)
    square = (v * v.conj()).real.sum(-1, keepdim=True)
    length = torch.where(square > 0, square, 1).sqrt()
    return v / length, largest, length


def unit_gradient(k: Tensor, largest: Tensor, length: Tensor, of_k: Tensor) -> Tensor:
    """Return the gradient of vectors, given that of their `unit` and the results of `unit_and_lengths`."""
    along = torch.linalg.vecdot(k, of_k).real.unsqueeze(-1)
    across = torch.addcmul(of_k, k, along.to(k.dtype), value=-1)
    return divided(across, largest * length) if k.is_complex() else across.div_(largest * length)


def divided(v: Tensor, divisor: Tensor) -> Tensor:
    """Return ``v / divisor`` for a real divisor (..., 1), even a tiny or huge one, for which complex division fails."""
    if not v.is_complex():
        return v / divisor
    return torch.view_as_complex(torch.view_as_real(v.resolve_conj()) / divisor.unsqueeze(-1))


def _largest_part(v: Tensor) -> Tensor:
    """Return the largest real or imaginary part, (..., 1), since a modulus may overflow; 1 for a zero vector.

    A subnormal part is replaced by the smallest normal number, so that the square of the length does not underflow.
    """
    sizes = torch.maximum(v.real.abs(), v.imag.abs()) if v.is_complex() else v.abs()
    largest = sizes.amax(-1, keepdim=True)
    return torch.where(largest == 0, 1, largest.clamp(min=torch.finfo(v.dtype).tiny))


class _Unit(torch.autograd.Function):
    """`unit_and_lengths` with a backward pass that needs only its results."""

    @staticmethod
    def forward(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        largest = _largest_part(v)
        k = divided(v, largest)
        length = torch.linalg.vector_norm(k, dim=-1, keepdim=True)  # about 1 or more, or 0; less if v is subnormal
        length.masked_fill_(length == 0, 1)
        return k.div_(length), largest, length

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, of_k: Tensor | None, _: None, of_length: Tensor | None) -> Tensor | None:
        k, largest, length = ctx.saved_tensors
        g = None if of_length is None else k * (of_length / largest)
        if of_k is not None:
            across = unit_gradient(k, largest, length, of_k)
            g = across if g is None else g + across
        return g


def reflected(h: Tensor, u: Tensor) -> Tensor:
    r"""Map every row of ``h``, shape (..., B, n), to :math:`h - 2 u u^{\mathsf H} h`, for unit vectors ``u``."""
    u = u.unsqueeze(-2)
    return h - 2 * (h * u.conj()).sum(-1, keepdim=True) * u


def wy_inverse(gram: Tensor, beta: Tensor) -> Tensor:
    r"""Return the inverse ``U`` in the triangular factor of a product of reflections.

    .. math::
        (I - \beta_R k_R k_R^{\mathsf H}) \cdots (I - \beta_1 k_1 k_1^{\mathsf H}) = I - K^\top B U \bar K, \qquad
        U = \bigl(I + \operatorname{tril}(\bar K K^\top, -1) B\bigr)^{-1}.

    The rows of ``K`` are :math:`k_r^\top`, and :math:`B = \operatorname{diag}(\beta)`. The triangular system is solved
    by substitution, so the inverse has small errors also if all vectors are equal.

    Parameters
    ----------
    gram : Tensor, shape (..., R, R)
        :math:`\bar K K^\top`, multiplied by any decays between the reflections. Only the part below the diagonal is
        used.
    beta : Tensor, shape (..., R, 1), real
        Factors of the reflections. For a unit vector, 2 gives a reflection and 0 the identity.

    Returns
    -------
    Tensor, shape (..., R, R)
        Lower triangular, with ones on the diagonal.

    Notes
    -----
    Source: Bischof and Van Loan (1987).
    """
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).expand_as(gram)
    # solves from the right, which copies no matrix; the solver assumes ones on the diagonal
    return torch.linalg.solve_triangular(gram * beta.mT, eye, upper=False, left=False, unitriangular=True)


def reflect(h: Tensor, k: Tensor, beta: Tensor | float) -> Tensor:
    r"""Map each vector of ``h``, shape (..., n), to :math:`h - \beta k k^{\mathsf H} h` with its own ``k``.

    ``beta`` is real, of shape (..., 1) or a number.
    """
    return h - (beta * (h * k.conj()).sum(-1, keepdim=True)) * k
