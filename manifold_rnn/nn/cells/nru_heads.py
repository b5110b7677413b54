"""The heads of a non-saturating recurrent unit: strengths, and directions of norm 1."""

import torch
from torch import Tensor

from ..activations import split_relu

_LARGEST = 2.0**32  # larger factors are scaled, so that their products are finite
SMALLEST = 1e-12  # rows with a smaller largest entry have no direction, and are not scaled to norm 1


def split_heads(z: Tensor, heads: int, memory_size: int, *, rectify: bool = False) -> tuple[Tensor, Tensor]:
    """Return strengths (..., 2, k) and directions (..., 2, k, M), of writing and of erasing, for (..., 2k + 4s)."""
    side = (z.shape[-1] - 2 * heads) // 4
    strengths, factors = z.split([2 * heads, 4 * side], -1)
    p, q = map(_without_huge, factors.unflatten(-1, (2, 2, side)).unbind(-2))  # (..., 2, s) each
    rows = (p.unsqueeze(-1) * q.unsqueeze(-2)).flatten(-2).unflatten(-1, (heads, memory_size))
    strengths = strengths.unflatten(-1, (2, heads))
    if rectify:
        strengths, rows = split_relu(strengths), split_relu(rows)
    return strengths, normalize_rows(rows)


def _without_huge(p: Tensor) -> Tensor:
    """Scale the factors of a product down to `_LARGEST`. A common factor of rows does not change their directions."""
    return p / (p.detach().abs().amax(-1, keepdim=True) / _LARGEST).clamp(min=1)


def memory_changes(strengths: Tensor, directions: Tensor) -> Tensor:
    """Return the written and the erased vector, (..., 2, M), as means over the heads."""
    return (strengths.unsqueeze(-1) * directions).mean(-2)


def normalize_rows(rows: Tensor) -> Tensor:
    """Divide rows by their 5-norm. Rows of zeros stay zero."""
    # scale entries to about 1, because fifth powers overflow early; a constant factor does not change the direction
    rows = rows / rows.detach().abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    return rows / torch.linalg.vector_norm(rows, 5, -1, keepdim=True).clamp(min=0.5)  # the norm is at least 1, or tiny
