"""A cell whose constrained layer is called in each time step, and the loop over time."""

import contextlib

import torch
from torch import nn

import manifold_rnn as mr

N, T = 4, 20


class Cell(nn.Module):
    """As in most papers' code: the constrained layer is called in each time step."""

    def __init__(self, constraint=None, dtype=torch.float64, **options):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(N, N, bias=False, dtype=dtype)
        mr.constrain(self.inner, "weight", constraint or mr.Orthogonal("exp"), view="trivialized", **options)

    @property
    def entry(self):
        return self.inner.constraints["weight"]

    def forward(self, u, h):
        return torch.tanh(u + self.inner(h))


def inputs(dtype=torch.float64):
    return torch.randn(T, 2, N, dtype=dtype, generator=torch.Generator().manual_seed(1))


def unrolled(cell, u, context=contextlib.nullcontext, step=None):
    h = u.new_zeros(u.shape[1:])
    with context():
        for x in u:
            h = (step or cell)(x, h)
    return h.abs().square().sum()
