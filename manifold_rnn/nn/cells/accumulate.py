"""Sums over time with a factor that does not depend on the states: what momentum is made of."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def accumulate(a: Tensor, factor: float | Tensor, start: Tensor) -> Tensor:
    """Return ``v_t = factor_t v_{t-1} + a_t`` for all steps of ``a``, (T, B, n); factors (T, B, 1) have no gradient."""
    states: Tensor = _Accumulate.apply(a, factor, start)
    return states


class _Accumulate(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, factor: float | Tensor, start: Tensor) -> Tensor:
        v = a.clone()
        before, steps = start, v.unbind(0)
        factors: Sequence[float | Tensor] = factor.unbind(0) if isinstance(factor, Tensor) else [factor] * len(steps)
        for f, step in zip(factors, steps, strict=True):
            if isinstance(f, Tensor):
                step.addcmul_(f, before)
            else:
                step.add_(before, alpha=f)
            before = step
        return v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float | Tensor, Tensor], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, Tensor]:
        factor = ctx.factor
        if isinstance(factor, Tensor):  # at t the factor of t + 1; that of the first belongs to the start
            first, shifted = factor[0], torch.cat([factor[1:], factor[:1]]).flip(0)
        else:
            first = shifted = factor
        d = accumulate(g.flip(0), shifted, torch.zeros_like(g[0])).flip(0)
        return d, None, first * d[0]
