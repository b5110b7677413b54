"""A base that moves at each step: its weight and its gradients are those of the map."""

import pytest
import torch
from support.counting import map_calls
from torch import nn

import manifold_rnn as mr

AT_THE_BASE = [
    (mr.Orthogonal("exp"), (4, 4)),
    (mr.SpecialOrthogonal("qr"), (4, 4)),
    (mr.Unitary("cayley"), (4, 4)),
    (mr.SpecialUnitary("polar"), (4, 4)),
    (mr.UnitaryRealForm("exp"), (4, 4)),
    (mr.manifolds.Blocks(mr.Orthogonal("exp"), blocks=2, which=(1,)), (8, 4)),
]


@pytest.mark.parametrize(("manifold", "shape"), AT_THE_BASE, ids=lambda v: getattr(v, "name", None))
def test_a_base_that_moves_at_each_step_needs_no_adjoint(manifold, shape):
    dtype = torch.complex128 if manifold.is_complex else torch.float64
    found = []
    for every in (None, 1):
        torch.manual_seed(0)
        layer = nn.Linear(shape[1], shape[0], bias=False, dtype=dtype)
        mr.constrain(layer, "weight", manifold, view="trivialized", rebase_every=every)
        g = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
        free = layer.constraints["weight"].coordinates
        with map_calls() as calls:
            W = layer.weight
        assert bool(calls["retr_coordinates"]) == (every is None)
        loss = (W * g + W * W * g.conj()).real.sum()
        (gradient,) = torch.autograd.grad(loss, free, retain_graph=True)
        (again,) = torch.autograd.grad(loss, free, create_graph=True)
        (second,) = torch.autograd.grad(again.square().sum(), free)
        with torch.no_grad():
            free.add_(0.1)  # and away from the base it is the map again
        found.append([W, gradient, again, second, layer.weight])
    torch.testing.assert_close(*found, atol=1e-13, rtol=1e-13)


def test_a_base_that_moves_at_each_step_takes_mapped_gradients():
    found = []
    for every in (None, 1):
        torch.manual_seed(0)
        layer = nn.Linear(4, 4, bias=False, dtype=torch.float64)
        mr.constrain(layer, "weight", mr.Orthogonal("cayley"), view="trivialized", rebase_every=every)
        free = layer.constraints["weight"].coordinates
        W = layer.weight
        basis = torch.eye(16, dtype=torch.float64).view(16, 4, 4)
        (rows,) = torch.autograd.grad(W, free, basis, is_grads_batched=True)
        found.append(rows)
    torch.testing.assert_close(*found, atol=1e-13, rtol=0)


def test_a_base_made_from_a_trained_weight_is_no_part_of_its_graph():
    source = torch.eye(3, requires_grad=True)
    entry = mr.constraints.Trivialization(mr.Orthogonal(), 1.0 * source)
    entry().sum().backward()
    assert source.grad is None and not entry.base.requires_grad and entry.coordinates.grad is not None
