"""Scopes: once where they hold, fresh where they do not."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.counting import evaluations, python_calls
from torch import nn
from torch.utils.checkpoint import checkpoint

import manifold_rnn as mr

M, N, T = 2, 4, 6


class Unrolled(nn.Module):
    def __init__(self, checkpointed=False):
        super().__init__()
        torch.manual_seed(0)
        self.cell = mr.constrain(nn.RNNCell(M, N), "weight_hh", mr.Orthogonal(), view="trivialized")
        self.checkpointed = checkpointed

    def forward(self, x):
        h = x.new_zeros(x.shape[1], N)
        for x_t in x:
            h = checkpoint(self.cell, x_t, h, use_reentrant=False) if self.checkpointed else self.cell(x_t, h)
        return h


def gradient(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return model.cell.constraints["weight_hh"].coordinates.grad.clone()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(T, 3, M)


def test_a_scope_on_the_root_computes_once(x):
    model = Unrolled()
    with evaluations(model) as counts:
        expected = gradient(model, x)
        assert counts.total() == T
        counts.clear()
        assert mr.constraints.scope(mr.constraints.scope(model)) is model
        torch.testing.assert_close(gradient(model, x), expected)
        assert counts.total() == 1
        counts.clear()
        model(x)
        model(x)
        assert counts.total() == 2


def test_the_context_computes_once_even_across_backward_passes(x):
    model = Unrolled()
    expected = gradient(model, x)
    with evaluations(model) as counts, mr.cached():
        torch.testing.assert_close(gradient(model, x), expected)
        torch.testing.assert_close(gradient(model, x), expected)
    assert counts.total() == 2


def test_checkpointed_steps_under_a_scope(x):
    expected = gradient(Unrolled(), x)
    torch.testing.assert_close(gradient(mr.constraints.scope(Unrolled(checkpointed=True)), x), expected)


def test_a_checkpointed_layer_under_a_scope_computes_once_each_way(x):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = mr.constrain(nn.RNN(M, N), "weight_hh_l0", mr.Orthogonal(), view="trivialized")

        def forward(self, x):
            return checkpoint(self.rnn, x, use_reentrant=False)[0]

    root = mr.constraints.scope(Root())
    with evaluations(root) as counts:
        y = root(x)
        assert counts.total() == 1
        y.sum().backward()
        assert counts.total() == 2


def test_a_checkpointed_function_inside_a_scope_reads_afresh(x):
    class Reading(Unrolled):
        def forward(self, x):
            h = x.new_zeros(x.shape[1], N)
            for x_t in x:
                h = checkpoint(self.read, x_t, h, use_reentrant=False)
            return h

        def read(self, x_t, h):
            c = self.cell
            return torch.tanh(x_t @ c.weight_ih.mT + c.bias_ih + h @ c.weight_hh.mT + c.bias_hh)

    expected = gradient(Unrolled(), x)
    torch.testing.assert_close(gradient(mr.constraints.scope(Reading()), x), expected)


def test_a_change_of_parameters_or_mode_is_seen(x):
    model = Unrolled()
    with mr.cached():
        with torch.no_grad():
            first = model.cell.weight_hh
            assert model.cell.weight_hh is first
        assert not first.requires_grad
        assert model.cell.weight_hh.requires_grad
        with torch.inference_mode():
            assert model.cell.weight_hh.is_inference()
        with torch.no_grad():
            model.cell.constraints["weight_hh"].coordinates.add_(0.1)
            assert not torch.equal(model.cell.weight_hh, first)
        other = {"constraints.weight_hh.coordinates": torch.zeros(N * (N - 1) // 2)}
        h = torch.func.functional_call(model.cell, other, (x[0],))
        base = model.cell.constraints["weight_hh"].base
        torch.testing.assert_close(h, torch.func.functional_call(model.cell, other, (x[0], torch.zeros(3, N) @ base)))


def test_transforms_inside_a_scope_keep_their_tensors(x):
    model = mr.constraints.scope(Unrolled())
    entry = model.cell.constraints["weight_hh"]
    with mr.cached():
        outside = model.cell.weight_hh

        def squared(c):
            return torch.func.functional_call(model, {"cell.constraints.weight_hh.coordinates": c}, (x,)).square().sum()

        inside = torch.func.grad(squared)(entry.coordinates.detach())
        assert model.cell.weight_hh is outside
    torch.testing.assert_close(inside, gradient(model, x))


def test_an_interrupt_does_no_harm(x):
    """No hook runs on a KeyboardInterrupt, so the scope stays open: what was kept must not outlive its graph."""

    class Interrupting(nn.Module):
        armed = True

        def forward(self, x):
            if self.armed:
                raise KeyboardInterrupt
            return x

    def interrupted():
        model, gate = Unrolled(), Interrupting()
        both = mr.constraints.scope(nn.Sequential(model, gate))
        with pytest.raises(KeyboardInterrupt):
            both(x)
        gate.armed = False
        expected = gradient(Unrolled(), x)
        for _ in range(3):
            torch.testing.assert_close(gradient(model, x), expected)
            both(x).sum().backward()

    with ThreadPoolExecutor(1) as thread:  # the scope that stays open is that thread's
        thread.submit(interrupted).result()


def test_a_module_that_calls_itself():
    class Nested(nn.Linear):
        def forward(self, x, depth=2):
            return super().forward(self(x, depth - 1) if depth else x)

    layer = mr.constrain(Nested(N, N), "weight", mr.Orthogonal(), view="trivialized")
    with evaluations(layer) as counts:
        layer(torch.randn(2, N)).sum().backward()
    assert counts.total() == 1


def test_hooks_of_the_update_view_are_a_few_calls():
    plain, constrained = nn.Linear(N, N), mr.constrain(nn.Linear(N, N), "weight", mr.Orthogonal())
    x = torch.randn(1, N)
    for layer in (plain, constrained):
        layer(x)
    assert python_calls(lambda: constrained(x)) <= python_calls(lambda: plain(x)) + 15
