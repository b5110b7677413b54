"""Optimizers that contain other optimizers."""

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import OptimizerError


def constrained(**options):
    return mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal(), **options)


def steps(module, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad()
        module(torch.eye(4)).sin().sum().backward()
        optimizer.step()


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another one, such as Lookahead."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        self.inner.step(closure)


def test_a_step_of_a_wrapper_counts_once_also_after_an_error():
    module = constrained(view="trivialized", rebase_every=2)
    entry = module.constraints["weight"]
    inner = torch.optim.SGD(module.parameters(), 0.1)
    wrapper, base = Wrapper(inner), entry.base.clone()
    steps(module, wrapper, 1)
    assert entry.steps == 1 and torch.equal(entry.base, base)
    with pytest.raises(ZeroDivisionError):
        wrapper.step(lambda: 1 / 0)
    steps(module, wrapper, 1)
    assert entry.steps == 2 and not torch.equal(entry.base, base)
    steps(module, inner, 1)
    assert entry.steps == 3


def test_a_wrapper_of_a_riemannian_optimizer_may_be_declared_as_one():
    kind = type("Declared", (Wrapper,), {"moves_on_manifolds": True})
    module = constrained()
    inner = mr.optim.RiemannianSGD(module.parameters(), 0.1)
    with pytest.raises(OptimizerError, match="a wrapper of one") as caught:
        steps(module, Wrapper(inner), 1)
    assert len(str(caught.value)) <= 400
    steps(module, kind(inner), 1)


@pytest.mark.parametrize("outer", [torch.optim.SGD, torch.optim.LBFGS])
def test_a_step_inside_the_closure_of_another_optimizer_counts(outer):
    inner, head = constrained(view="trivialized", rebase_every=2), nn.Linear(4, 1)
    own, other = torch.optim.SGD(inner.parameters(), 0.1), outer(head.parameters(), 0.1)
    calls = []

    def closure():
        calls.append(1)
        own.zero_grad(), other.zero_grad()
        loss = head(inner(torch.eye(4))).square().sum()
        loss.backward()
        own.step()
        return loss

    base = inner.constraints["weight"].base.clone()
    for _ in range(3):
        other.step(closure)
    assert inner.constraints["weight"].steps == len(calls)
    assert not torch.equal(inner.constraints["weight"].base, base)


def test_an_optimizer_that_was_never_finished_hides_no_refusal():
    with pytest.raises(ValueError, match="learning rate") as kept:
        torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=-1)
    module = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(module.parameters())
    mr.constrain(module, "weight", mr.Orthogonal(), view="trivialized")
    module(torch.eye(4)).sum().backward()
    with pytest.raises(OptimizerError, match="constrain"):
        optimizer.step()
    assert kept.value is not None
