"""A matrix product added to a matrix, in one pass where torch has one."""

import torch
from torch import Tensor


def multiply_add(C: Tensor, X: Tensor, Y: Tensor, *, beta: float, alpha: float, out: Tensor | None = None) -> Tensor:
    """``beta C + alpha X Y``, in the memory of ``out`` where it can."""
    if C.ndim == X.ndim == Y.ndim == 2:
        return torch.addmm(C, X, Y, beta=beta, alpha=alpha, out=out)
    if C.ndim == 3 and C.shape[0] == X.shape[0] == Y.shape[0] and X.ndim == Y.ndim == 3:
        return torch.baddbmm(C, X, Y, beta=beta, alpha=alpha, out=out)
    return beta * C + alpha * (X @ Y)
