"""Weights of each kind of doubly stochastic matrices."""

import torch
from torch import nn

import manifold_rnn as mr
from support.seeds import seeded

REAL = torch.float64
KINDS = ("orthostochastic", "permutations", "sinkhorn")


def build(kind, n=4, dtype=REAL, batch=(), scale=0.5, **options):
    torch.manual_seed(0)
    start = torch.rand(*batch, n, n, dtype=dtype) + 0.1
    start = torch.eye(n, dtype=dtype).expand_as(start) if kind == "orthostochastic" else start  # found at once
    module = mr.Birkhoff(kind, **options).trivialize(start)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, dtype=dtype, generator=seeded(1)), alpha=scale)
    return module


def layer(kind="orthostochastic", n=4, dtype=REAL, sweeps=20, **options):
    torch.manual_seed(0)
    constraint = mr.Birkhoff(kind, sweeps=sweeps)
    if kind == "orthostochastic":
        options.setdefault("init", lambda W: torch.eye(len(W)))  # found at once
    return mr.constrain(nn.Linear(n, n, dtype=dtype), "weight", constraint, view="trivialized", **options)
