"""A small network and data for it, whose robustness is measured quickly."""

import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.diagnostics import robustness
from support.seeds import seeded

B, T, M, C = 40, 6, 3, 4


def data(dtype=torch.float32, classes=True):
    g = seeded(3)
    x = torch.randn(B, T, M, dtype=dtype, generator=g)
    y = torch.randint(C, (B,), generator=g) if classes else torch.randn(B, C, dtype=dtype.to_real(), generator=g)
    return x, y


def network(constraint=None, view="update", n=8, seed=0, **options):
    torch.manual_seed(seed)
    return mr.zoo.Network(mr.nn.RNN(M, n, batch_first=True, constraint=constraint, view=view, **options), C)


def quick(module, pair=None, **options):
    pair = data() if pair is None else pair
    return robustness(module, pair, **{"radii": (0.1,), "noise": (0.2,), "steps": 3, "draws": 2, **options})


class Last(nn.Module):
    """A layer of torch with a readout of its last output."""

    def __init__(self, layer, size):
        super().__init__()
        self.layer, self.readout = layer, nn.Linear(size, C)

    def forward(self, x):
        return self.readout(self.layer(x)[0][:, -1])
