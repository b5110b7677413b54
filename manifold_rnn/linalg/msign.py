"""The matrix sign, which replaces every positive singular value by 1, by a Newton-Schulz iteration."""

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import ShapeError
from .norms import normalized, unit_of
from .precision import applied, full_precision, recorded, without_autocast
from .product import multiply, multiply_add

# a, b, c of the step a X + b (X X^H) X + c (X X^H)^2 X; each step is optimal for the remaining singular values
_SCHEDULE = (
    (8.2051, -22.9019, 16.4607),
    (4.0664, -2.8612, 0.5184),
    (3.9096, -2.8234, 0.5250),
    (3.2856, -2.4153, 0.4853),
    (2.2779, -1.6198, 0.3985),
    (1.8726, -1.2307, 0.3585),
    (1.8564, -1.2132, 0.3568),
)
_LAST = (1.875, -1.25, 0.375)  # repeated at the end: converges to 1 with third order
_MARGIN = 1.01  # keeps rounded singular values below 1
_SMALLEST = 0.6  # singular values above this power of the rounding unit, relative to the norm, become 1
_CONVERGING = 4  # number of last steps, after small singular values have grown to order 1


@full_precision
def msign(x: Tensor) -> Tensor:
    r"""Matrix sign: the partial isometry with the singular vectors of a matrix.

    .. math:: \operatorname{msign}(U \Sigma V^H) = U \operatorname{sign}(\Sigma) V^H.

    It is computed by Newton-Schulz steps :math:`X \leftarrow aX + b(XX^H)X + c(XX^H)^2X`. The first coefficients raise
    small singular values, the last ones converge. The number of steps depends only on the precision. Nothing is
    therefore read from the device, and a matrix has the same result in every batch. A skew-Hermitian matrix has a
    skew-Hermitian result.

    Singular values above 7e-5 (single) or 4e-10 (double precision) of the Frobenius norm become 1. Those at the
    rounding error of the largest become 0, and those in between become a number between 0 and 1.

    Parameters
    ----------
    x : Tensor, shape (..., n, p)
        A real or complex matrix of any rank.

    Returns
    -------
    Tensor, shape (..., n, p)

    Raises
    ------
    ShapeError, DtypeError
        If ``x`` has fewer than two axes, or is not floating point.

    Notes
    -----
    Costs three matrix products per iteration, and 15 iterations in single or 34 in double precision.

    For full rank the adjoint is that of the polar factor. At lower rank the derivative does not exist in directions
    that raise the rank, and the adjoint omits them. Source: Amsel et al. (2025) for the coefficients.

    See Also
    --------
    manifold_rnn.linalg.polar : the same for matrices of full column rank.

    Examples
    --------
    >>> x = torch.tensor([[3.0, 0.0], [0.0, -0.1], [0.0, 0.0]])
    >>> assert torch.allclose(mr.linalg.msign(x), torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]), atol=1e-6)
    """
    if x.ndim < 2:
        raise ShapeError(
            f"msign needs matrices in the last two axes.\nExpected shape (..., n, p), got {tuple(x.shape)}.\n"
            "Reshape it first."
        )
    result: Tensor = recorded(_Sign, x)
    return result


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        if not x.numel():
            return x.clone()
        wide = x.shape[-2] < x.shape[-1]
        y = _iterated(x.mH if wide else x)
        return y.mH.contiguous() if wide else y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, W = ctx.saved_tensors
        if not x.numel():
            return torch.zeros_like(x)
        with without_autocast(x):
            unit = unit_of(x)
            x = x / unit
            right, left = W.mH @ x, x @ W.mH  # V S V^H and U S U^H
            s, V = torch.linalg.eigh(0.5 * (right + right.mH))
            t, U = torch.linalg.eigh(0.5 * (left + left.mH))
            Y = W.mH @ g
            turned = V.mH @ (Y - Y.mH) @ V  # twice the skew part
            inner = W @ (V @ (turned * _inverse(s.unsqueeze(-1) + s.unsqueeze(-2), _both(s))) @ V.mH)
            below = (g - W @ Y) @ (V * _inverse(s, _positive(s)).unsqueeze(-2)) @ V.mH
            beside = U @ ((U * _inverse(t, _positive(t)).unsqueeze(-2)).mH @ (g - (g @ W.mH) @ W))
            return (inner + below + beside) / unit

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[Tensor, int]:
        y: Tensor = applied(_Sign, x.movedim(in_dims[0], 0))
        return y, 0


def _positive(s: Tensor) -> Tensor:
    return s > s.shape[-1] * torch.finfo(s.dtype).eps * s.amax(-1, keepdim=True)


def _both(s: Tensor) -> Tensor:
    positive = _positive(s)
    return positive.unsqueeze(-1) & positive.unsqueeze(-2)


def _inverse(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, 1 / torch.where(where, values, 1), 0)


def _iterated(x: Tensor) -> Tensor:
    y, _ = normalized(x)
    size = torch.linalg.matrix_norm(y, keepdim=True)
    y = y / (_MARGIN * torch.where(size > 0, size, 1))
    for coefficients in (*_SCHEDULE, *[_LAST] * _last_steps(y.dtype)):
        y = _step(y, multiply(y.mH, y), *coefficients)
    gram = multiply(y.mH, y)
    # 3 s^5 - 2 s^7: maps rounding errors, which the steps have raised, back to 0, values near 1 change to second order
    square = multiply(gram, gram)
    return multiply(y, multiply_add(square, square, gram, beta=3, alpha=-2))


def _last_steps(dtype: torch.dtype) -> int:
    slopes = [step[0] for step in _SCHEDULE]  # a list, since torch's compiler does not support generators here
    raised = torch.finfo(dtype).eps ** _SMALLEST * math.prod(slopes)
    return math.ceil(-math.log(raised) / math.log(_LAST[0])) + _CONVERGING


def _step(y: Tensor, gram: Tensor, a: float, b: float, c: float) -> Tensor:
    return a * y + multiply(y, multiply_add(b * gram, gram, gram, beta=1, alpha=c))
