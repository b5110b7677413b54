"""Matrix products by the fastest available call, fused with an addition if torch supports it."""

import torch
from torch import Tensor

from .._torch import has_onednn, onednn_linear
from .precision import recording

_ONEDNN_FROM = 2 << 20  # multiplications from which oneDNN, including its call, is faster than the BLAS


def multiply(X: Tensor, Y: Tensor) -> Tensor:
    """Return ``X Y``. If nothing is recorded, oneDNN computes large single precision products on a CPU."""
    if X.dtype == torch.float32 and _takes_onednn(X, Y):
        linear = onednn_linear()
        alone = X.ndim == 3
        Z: Tensor = linear(X[0] if alone else X, (Y[0] if alone else Y).mT, None, "none", [], None)
        return Z.unsqueeze(0) if alone else Z
    return X @ Y


def multiply_add(C: Tensor, X: Tensor, Y: Tensor, *, beta: float, alpha: float, out: Tensor | None = None) -> Tensor:
    """Return ``beta C + alpha X Y``, written to ``out`` if possible."""
    if X.dtype == torch.float32 and _takes_onednn(X, Y):
        total = multiply(X, Y)
        return torch.add(total.mul_(alpha), C, alpha=beta) if alpha != 1 else total.add_(C, alpha=beta)
    if C.ndim == X.ndim == Y.ndim == 2:
        return torch.addmm(C, X, Y, beta=beta, alpha=alpha, out=out)
    if C.ndim == 3 and C.shape[0] == X.shape[0] == Y.shape[0] and X.ndim == Y.ndim == 3:
        return torch.baddbmm(C, X, Y, beta=beta, alpha=alpha, out=out)
    return beta * C + alpha * (X @ Y)


def _takes_onednn(X: Tensor, Y: Tensor) -> bool:
    one_matrix = X.ndim == Y.ndim and (X.ndim == 2 or (X.ndim == 3 and len(X) == len(Y) == 1))
    if not one_matrix or X.numel() * Y.shape[-1] < _ONEDNN_FROM or X.device.type != "cpu" or recording():
        return False
    # oneDNN has no fast kernel for a slice of a larger matrix
    return Y.dtype == X.dtype and _is_dense(X) and _is_dense(Y) and has_onednn()


def _is_dense(x: Tensor) -> bool:
    """Return whether the entries of a matrix or of its transpose are adjacent in memory."""
    (rows, columns), (down, right) = x.shape[-2:], x.stride()[-2:]
    return (right == 1 and down == columns) or (down == 1 and right == rows)
