"""The warning about a loop that computes a weight again and again, and what does not cause it."""

import io
import warnings

import pytest
import torch
from support.loop_cells import Cell, inputs, unrolled
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import manifold_rnn as mr


def warned(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(w.message) for w in caught]


def test_a_loop_without_it_warns_once_for_each_weight_and_names_the_cure():
    cell, u = Cell(), inputs()
    (message,) = warned(lambda: unrolled(cell, u[:16]))
    assert all(word in message for word in ("'weight' of Linear", "16 times", "manifold_rnn.cached()"))
    assert len(message) <= 400
    assert not warned(lambda: unrolled(cell, u))
    assert len(warned(lambda: unrolled(Cell(), u))) == 1
    assert not warned(lambda: unrolled(Cell(), u[:15]))


def no_grad(cell, u):
    with torch.no_grad():
        unrolled(cell, u)


def accumulated(cell, u):
    total = 0
    for x in u:
        loss = cell(x, x).sum()
        loss.backward()
        total = total + loss  # which keeps the spent graphs


def trained(cell, u, fused=False):
    optimizer, losses = torch.optim.Adam(cell.parameters(), fused=fused), []
    for x in u:
        losses.append(cell(x, x).sum())
        torch.autograd.grad(losses[-1], list(cell.parameters()), retain_graph=True)
        accumulated(cell, u[:1])
        optimizer.step()


def rooted(cell, u):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, u):
            return unrolled(self.cell, u)

    mr.constraints.scope(Root())(u).backward()


def saved(cell, u):
    torch.save(cell.inner.weight, io.BytesIO())


ORDINARY = {
    "torch.save": saved,
    "no_grad": no_grad,
    "results that nobody keeps": lambda cell, u: [cell(x, x).detach() for x in u],
    "accumulation": accumulated,
    "training": trained,
    "fused training": lambda cell, u: trained(cell, u, fused=True),
    "cached": lambda cell, u: unrolled(cell, u, mr.cached),
    "torch's cached": lambda cell, u: unrolled(cell, u, parametrize.cached),
    "scope": rooted,
    "checkpoint": lambda c, u: unrolled(c, u, step=lambda *a: checkpoint(c, *a, use_reentrant=False)).backward(),
    "transform": lambda cell, u: torch.func.grad(lambda x: unrolled(cell, x))(u),
}


@pytest.mark.parametrize("use", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_use_does_not_warn(use):
    assert not warned(lambda: use(Cell(), inputs()))
