"""Weighted sums over time, used for momentum. The weights do not depend on the states."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...linalg.precision import applied


def accumulate(a: Tensor, factor: float | Tensor, start: Tensor) -> Tensor:
    """Return ``v_t = factor_t v_{t-1} + a_t`` for all steps of ``a``, (T, B, n).

    A tensor of factors has the shape (T, B, 1) and receives no gradient.
    """
    sums: Tensor = applied(_Accumulate, a, factor, start)
    return sums


class _Accumulate(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, factor: float | Tensor, start: Tensor) -> Tensor:
        v = a.clone()
        previous, steps = start, v.unbind(0)
        factors: Sequence[float | Tensor] = factor.unbind(0) if isinstance(factor, Tensor) else [factor] * len(steps)
        for f, step in zip(factors, steps, strict=True):
            if isinstance(f, Tensor):
                step.addcmul_(f, previous)
            else:
                step.add_(previous, alpha=f)
            previous = step
        return v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float | Tensor, Tensor], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, Tensor]:
        factor = ctx.factor
        if isinstance(factor, Tensor):  # step t needs the factor of t + 1; the first factor belongs to the start
            first, shifted = factor[0], torch.cat([factor[1:], factor[:1]]).flip(0)
        else:
            first = shifted = factor
        d = accumulate(g.flip(0), shifted, torch.zeros_like(g[0])).flip(0)
        return d, None, first * d[0]
