"""A matrix product added to a matrix, in one pass where torch has one."""

import torch
from torch import Tensor


def multiply_add(C: Tensor, X: Tensor, Y: Tensor, *, beta: float, alpha: float, out: Tensor | None = None) -> Tensor:
    """``beta C + alpha X Y`` for matrices of equal batch shape; in the memory of ``out`` where it can."""
    if X.ndim == 2:
        return torch.addmm(C, X, Y, beta=beta, alpha=alpha, out=out)
    if X.ndim == 3:
        return torch.baddbmm(C, X, Y, beta=beta, alpha=alpha, out=out)
    return beta * C + alpha * (X @ Y)
