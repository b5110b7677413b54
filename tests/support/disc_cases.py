"""The charts of the unit disc, the sticky rule and block triangles, and layers that take one for their weight."""

import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn import linalg

N = 5


class Plain(nn.Module):
    """A layer with one square weight of any dtype, called by products."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return x @ self.weight


def plain(constraint, weight):
    return mr.constrain(Plain(weight.clone()), "weight", constraint, view="trivialized")


def entry(layer):
    (only,) = layer.constraints.values()
    return only


CHARTS = {
    "normalized": (mr.UnitDisc(0.9), torch.float64),
    "schur": (mr.UnitDisc(0.9, "schur"), torch.float64),
    "schur, rotation": (mr.UnitDisc(0.9, "schur", "exp", blocks="rotation"), torch.float64),
    "schur, complex": (mr.UnitDisc(0.9, "schur"), torch.complex128),
    "diagonal": (mr.UnitDisc(0.9, "diagonal"), torch.complex128),
    "sticky": (mr.StickyDisc(0.9), torch.float64),
    "sticky, complex": (mr.StickyDisc(0.9), torch.complex128),
    "blocks": (mr.BlockTriangular(mr.FixedBase(mr.Orthogonal(), 1), mr.StickyDisc(0.9), split=2), torch.float64),
    "blocks of charts": (mr.BlockTriangular(mr.Orthogonal("exp"), mr.UnitDisc(0.9, "schur")), torch.float64),
    "blocks of manifolds": (mr.BlockTriangular(mr.Orthogonal(), mr.UnitDisc(0.9), split=2), torch.float64),
}


def start(name, n=N, generator=None, batch=()):
    constraint, dtype = CHARTS[name]
    x = torch.randn(*batch, n, n, dtype=dtype, generator=generator)
    return constraint, 0.5 * x / linalg.spectral_radius(x)[..., None, None]
