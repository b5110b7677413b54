"""RFLO written out for single units, in plain loops; and the layers and networks that its tests use."""

import math

import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.nn.cells import LeakyElman
from support.seeds import seeded

WIDE = torch.float64
LEAKS = (0.3, 0.2, 0.5, 0.9, 1.0)
M, N, K, BATCH, STEPS = 2, 5, 3, 4, 12
INFLUENCES = ("local", "diagonal", "full")
FEEDBACKS = ("random", "transpose")
EXACT = {"feedback": "transpose", "influence": "full"}
VIEWS = ("update", "trivialized")


def require_close(one, other, bound=1e-9):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=bound, rtol=bound, msg=name)


def layer_with(cell=None, m=M, n=N, **options):
    return mr.nn.Layer(cell or LeakyElman(), m, n, **options)


def linear(n=N, k=K, dtype=torch.float32):
    return nn.Linear(n, k, dtype=dtype)


def stepped():
    network = mr.online.RFLO(layer_with(), linear())
    network.step(torch.zeros(2, M))
    return network


def rule(nonlinearity="tanh", *, leak=LEAKS, bias=True, dtype=WIDE, feedback="random", influence="local", **options):
    """A layer with weights large enough for every term to matter, its readout, and the rule."""
    torch.manual_seed(0)
    cell = LeakyElman(nonlinearity, bias, leak=leak)
    layer = mr.nn.Layer(cell, M, N, batch_first=True, dtype=dtype, **options)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if "hh" not in name or "bias" in name or "constraint" not in options:
                p.add_(0.3 * torch.randn(p.shape, dtype=dtype, generator=seeded(2)))
    readout = nn.Linear(N, K, dtype=dtype)
    return mr.online.RFLO(layer, readout, feedback=feedback, influence=influence, generator=seeded(3))


def sequences(steps=STEPS, dtype=WIDE):
    return torch.randn(BATCH, steps, M, dtype=dtype, generator=seeded(1))


def targets(steps=STEPS, dtype=WIDE):
    return torch.randn(BATCH, steps, K, dtype=dtype, generator=seeded(5))


def half_square(y, target):
    return (y - target).square().sum() / 2


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def by_trial(network, x, target, every_step=True):
    """The outputs of all steps or the last, and the gradient of every parameter."""
    network.zero_grad()
    y = network(x, every_step=every_step)
    half_square(y, target).backward()
    return y.detach(), gradients(network)


def written_out(network, x, target):
    """The same for all steps, unit by unit, of a tanh layer that is not constrained."""
    w = {name.removesuffix("_l0"): p.detach() for name, p in network.layer.named_parameters()}
    W, V, b = w["weight_hh"], w["weight_ih"], w["bias_ih"] + w["bias_hh"]
    U, c = network.readout.weight.detach(), network.readout.bias.detach()
    B = U.T if network.feedback is None else network.feedback
    leaks, n, columns = network.layer.cell.leak, len(W), len(W) + V.shape[1] + 1
    total, of_U, of_c, outputs = torch.zeros(n, columns, dtype=WIDE), torch.zeros_like(U), torch.zeros_like(c), []
    for sequence, wanted in zip(x, target, strict=True):
        h = torch.zeros(n, dtype=WIDE)
        M = torch.zeros(n, n, columns, dtype=WIDE)  # of unit j in the row of unit i
        for x_t, target_t in zip(sequence, wanted, strict=True):
            row, z, before = [*h, *x_t, 1.0], W @ h + V @ x_t + b, M.clone()
            for j in range(n):
                a, slope = leaks[j], 1 - math.tanh(z[j]) ** 2
                for i in range(n):
                    through = {
                        "local": 0.0,
                        "diagonal": W[j, j] * before[j, i],
                        "full": sum(W[j, k] * before[k, i] for k in range(n)),
                    }[network.influence]
                    M[j, i] = (1 - a) * before[j, i] + a * slope * through
                M[j, j] += a * slope * torch.tensor(row, dtype=WIDE)
            h = torch.stack([(1 - a) * old + a * math.tanh(zj) for a, old, zj in zip(leaks, h, z, strict=True)])
            y = U @ h + c
            error = y - target_t
            total += torch.einsum("j,jic->ic", B @ error, M)
            of_U += torch.outer(error, h)
            of_c += error
            outputs.append(y)
    parts = total[:, :n], total[:, n:-1], total[:, -1]
    found = dict(zip(("layer.weight_hh_l0", "layer.weight_ih_l0", "layer.bias_ih_l0"), parts, strict=True))
    found |= {"layer.bias_hh_l0": total[:, -1], "readout.weight": of_U, "readout.bias": of_c}
    return torch.stack(outputs).view(len(x), -1, len(c)), found
