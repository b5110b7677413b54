"""Adapters of every kind, and how their tests make a layer with one."""

import torch
from torch import nn

import manifold_rnn as mr
from support.seeds import seeded

TURNING = {
    "blocks": mr.OrthogonalAdapter(4),
    "exp": mr.OrthogonalAdapter(4, "exp"),
    "polar": mr.OrthogonalAdapter(8, "polar"),
    "shared": mr.OrthogonalAdapter(4, share=True),
    "output": mr.OrthogonalAdapter(4, side="output"),
    "butterfly": mr.OrthogonalAdapter(4, factors=3),
    "butterfly output": mr.OrthogonalAdapter(2, "exp", factors=2, side="output"),
    "reflections": mr.ReflectionAdapter(4),
    "reflections output": mr.ReflectionAdapter(2, side="output"),
    "subspace": mr.SubspaceAdapter(5, scales=False),
}
OTHERS = {
    "series": mr.OrthogonalAdapter(4, series_terms=5),
    "scaled subspace": mr.SubspaceAdapter(5),
    "stiefel": mr.StiefelAdapter(3, alpha=2.0),
}
ALL = TURNING | OTHERS
SIDES = [name for name in TURNING if "output" not in name]  # that keep the inner products of rows
INPUTS, OUTPUTS = 16, 12


def layer(constraint, dtype=torch.float64, disturbed=True, **options):
    """A linear layer with an adapter that is away from its start."""
    torch.manual_seed(0)
    module = mr.constrain(nn.Linear(INPUTS, OUTPUTS, dtype=dtype), "weight", constraint, **options)
    return disturb(module) if disturbed else module


def disturb(module, scale=0.3):
    generator = seeded(1)
    with torch.no_grad():
        for p in module.constraints.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype, generator=generator), alpha=scale)
    return module


def entry(module):
    return module.constraints["weight"]


def inputs(count, dtype=torch.float64):
    return torch.randn(count, INPUTS, dtype=dtype, generator=seeded(2))
