"""The constraints that build a weight from factors, and how their tests make one."""

import math

import torch
from torch import nn

import manifold_rnn as mr
from support.seeds import seeded

REAL, COMPLEX = torch.float64, torch.complex128
ORTHOGONAL = {
    "tunable": mr.Rotations(),
    "two layers": mr.Rotations(layers=2),
    "fft": mr.Rotations("fft"),
    "reflections": mr.Reflections(),
    "one reflection": mr.Reflections(1),
    "product": mr.UnitaryProduct(),
}
OTHERS = {
    "euler": mr.DampedSkew(0.1, 0.2),
    "exp": mr.DampedSkew(0.1, 0.2, "exp"),
    "cayley": mr.DampedSkew(0.1, 0.2, "cayley"),
    "residual": mr.DampedSkew(0.1, 0.2, "cayley", residual=True),
    "mixture": mr.LipschitzMixture(),
    "schur": mr.SchurForm(),
    "legacy": mr.SchurForm("cayley", legacy_mask=True),
}


def build(constraint, n, dtype=REAL, batch=()):
    torch.manual_seed(0)
    like = torch.randn(*batch, n, n, dtype=dtype) / math.sqrt(n)
    return disturb(constraint.trivialize(like))


def disturb(module, scale=0.3):
    generator = seeded(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype, generator=generator), alpha=scale)
    return module


def layer(constraint, n=4, dtype=REAL):
    torch.manual_seed(0)
    return mr.constrain(nn.Linear(n, n, dtype=dtype), "weight", constraint, view="trivialized")


def entry(module):
    return module.constraints["weight"]
