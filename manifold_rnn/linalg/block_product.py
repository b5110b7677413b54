"""Products of rows with a block-diagonal matrix, or with a butterfly of such matrices."""

from typing import Any

import torch
from torch import Tensor

from .._torch import is_forward_mode, is_transformed
from .precision import batched, recorded


def plus_blocks(x: Tensor, D: Tensor) -> Tensor:
    r"""Return ``x``, shape (..., n), times :math:`I + \operatorname{diag}(D_1, \dots, D_N)`; exactly x where D is 0.

    ``D`` has shape (N, b, b) with n = N b, or (1, b, b) to repeat one block. It may also have the leading axes of
    ``x`` except its last two.
    """
    if D.ndim == 3 and not (torch.compiler.is_compiling() or is_transformed() or is_forward_mode()):
        result: Tensor = recorded(_PlusBlocks, x, D)
        return result
    return naive_plus_blocks(x, D)


def naive_plus_blocks(x: Tensor, D: Tensor) -> Tensor:
    """Compute `plus_blocks` by operations that torch differentiates itself."""
    b = D.shape[-1]
    rows = x.unflatten(-1, (-1, 1, b))
    return x + (rows @ (D.unsqueeze(-4) if D.ndim > 3 else D)).flatten(-3)


class _PlusBlocks(torch.autograd.Function):
    """One pass over the rows forward, and one backward for each gradient. No intermediate product is stored."""

    @staticmethod
    def forward(x: Tensor, D: Tensor) -> Tensor:
        count, b = D.shape[0], D.shape[-1]
        y = x.clone(memory_format=torch.contiguous_format)
        if count == 1:
            rows = y.view(-1, b)
            torch.addmm(rows, x.reshape(-1, b), D[0], out=rows)
            return y
        into = y.view(-1, count, b).transpose(0, 1)
        torch.baddbmm(into, x.reshape(-1, count, b).transpose(0, 1), D, out=into)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, D = ctx.saved_tensors
        simple = batched(g) or is_transformed()
        gx = gD = None
        if ctx.needs_input_grad[0]:
            gx = naive_plus_blocks(g, D.mH) if simple else plus_blocks(g, D.mH)
        if ctx.needs_input_grad[1]:
            b = D.shape[-1]
            count = D.shape[0]
            rows, grows = (t.reshape(-1, count, b).transpose(0, 1) for t in (x, g))
            if count == 1:
                rows, grows = (t.reshape(1, -1, b) for t in (x, g))
            gD = rows.mH @ grows
        return gx, gD


def interleaved(x: Tensor, distance: int, half: int) -> Tensor:
    """Make pieces of ``half`` entries that are ``distance`` pieces apart adjacent, in pairs, on the last axis."""
    if distance == 1:
        return x
    return x.unflatten(-1, (-1, 2, distance, half)).transpose(-3, -2).flatten(-4)


def separated(x: Tensor, distance: int, half: int) -> Tensor:
    """Undo `interleaved`."""
    if distance == 1:
        return x
    return x.unflatten(-1, (-1, distance, 2, half)).transpose(-3, -2).flatten(-4)
