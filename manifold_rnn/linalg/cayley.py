"""The Cayley transform, with its own adjoint."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .precision import full_precision, without_autocast
from .skew import skew


@full_precision
def cayley(A: Tensor) -> Tensor:
    r"""Cayley transform of a skew-Hermitian matrix.

    .. math:: \operatorname{cay}(A) = (I - \tfrac12 A)^{-1}(I + \tfrac12 A) = 2 (I - \tfrac12 A)^{-1} - I,

    which agrees with :math:`\exp(A)` to second order and never has the eigenvalue -1. The inverse exists for every
    skew-Hermitian ``A`` and has norm at most 1, so forming it is safe; the adjoint is two products with it.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        Real or complex; its skew-Hermitian part is used.

    Returns
    -------
    Tensor, shape (..., n, n)
        Orthogonal (real) or unitary (complex).

    Raises
    ------
    ShapeError, DtypeError
        If ``A`` is not a batch of square matrices of floating point.

    Notes
    -----
    Costs one LU inverse forward and two matrix products backward. Source: Cayley (1846); as a retraction Wen and Yin
    (2013). Helfrich, Willmott and Ye (2018) use :math:`(I + S)^{-1}(I - S)`, which is ``cay(-2 S)``.

    Examples
    --------
    >>> W = mr.linalg.cayley(torch.tensor([[0.0, -2.0], [2.0, 0.0]]))
    >>> assert torch.allclose(W, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6)
    """
    result: Tensor = _Cayley.apply(skew(A))
    return result


class _Cayley(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor) -> Tensor:
        eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        inverse = torch.linalg.inv_ex(eye - 0.5 * A).inverse  # never singular, so no device sync to check
        return 2 * inverse - eye

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (W,) = ctx.saved_tensors
        with without_autocast(W):
            adjoint = 0.5 * (W.mH + torch.eye(W.shape[-1], dtype=W.dtype, device=W.device))
            return skew(adjoint @ g @ adjoint)
