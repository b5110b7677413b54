"""Sets of matrices with eigenvalues in a disc, block triangles of them, and layers that take one for their weight."""

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


DISCS = {
    "unit disc": (mr.UnitDisc(0.9), torch.float64),
    "schur": (mr.SchurDisc(0.9), torch.float64),
    "schur, rotation": (mr.SchurDisc(0.9, "exp", blocks="rotation"), torch.float64),
    "schur, complex": (mr.SchurDisc(0.9), torch.complex128),
    "diagonal": (mr.DiagonalDisc(0.9), torch.complex128),
    "sticky": (mr.StickyDisc(0.9), torch.float64),
    "sticky, complex": (mr.StickyDisc(0.9), torch.complex128),
    "blocks": (mr.block_triangular(mr.FixedBase(mr.Orthogonal(), 1), mr.StickyDisc(0.9), split=2), torch.float64),
    "blocks of discs": (mr.block_triangular(mr.Orthogonal("exp"), mr.SchurDisc(0.9)), torch.float64),
    "blocks of manifolds": (mr.BlockTriangular(mr.Orthogonal(), mr.UnitDisc(0.9), split=2), torch.float64),
}


def start(name, n=N, generator=None, batch=()):
    constraint, dtype = DISCS[name]
    x = torch.randn(*batch, n, n, dtype=dtype, generator=generator)
    return constraint, 0.5 * x / linalg.spectral_radius(x)[..., None, None]
