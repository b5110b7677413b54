"""Functions for the weights of cells: allocate them, initialize them, and project inputs with them."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import init


def allocate_empty(
    shapes: Mapping[str, tuple[int, ...]], *, device: torch.device | str | None, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return tensors of these shapes, uninitialized."""
    return {name: torch.empty(shape, device=device, dtype=dtype) for name, shape in shapes.items()}


def fill_uniform(weights: Mapping[str, Tensor], bound: float, generator: torch.Generator | None = None) -> None:
    """Fill every weight uniformly in [-bound, bound], in the order of the mapping."""
    for weight in weights.values():
        parts = torch.view_as_real(weight) if weight.is_complex() else weight
        init.uniform_(parts, -bound, bound, generator=generator)


def affine(x: Tensor, V: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``V x + b`` for all time steps at once. Complex weights accept a real ``x``."""
    return F.linear(x.to(V.dtype), V, bias)
