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
