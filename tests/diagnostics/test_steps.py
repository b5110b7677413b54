"""A layer taken step by step gives what it gives otherwise, and each state is a node of the graph."""

import pytest
import torch
from support.cell_cases import CELLS, make, parts, shaken
from torch import nn

import manifold_rnn as mr
from manifold_rnn.diagnostics import steps
from manifold_rnn.errors import NonFiniteError, OptionError, ShapeError, UnsupportedError

TORCH = [
    nn.RNN(3, 4),
    nn.RNN(3, 4, num_layers=2, nonlinearity="relu", bias=False),
    nn.LSTM(3, 4, num_layers=2, batch_first=True),
    nn.LSTM(3, 5, proj_size=2, num_layers=2),
    nn.LSTM(3, 5, proj_size=2, bias=False),
    nn.GRU(3, 4, num_layers=2),
]


def assert_same(a, b):
    for left, right in zip(parts(a), parts(b), strict=True):
        assert left.shape == right.shape and torch.allclose(left, right, atol=1e-12, rtol=1e-12)


def assert_steps_equal_the_pass(layer, x, hx=None):
    layer.eval()
    y, h = layer(x, hx)
    with steps.stepwise(layer) as recorder:
        z, k = layer(x, hx)
    assert_same(y, z)
    assert_same(h, k)
    weights = [p for p in layer.parameters() if p.requires_grad]
    loss = [
        (out.abs().square().sum() + sum(part.abs().sum() for part in parts(last))) for out, last in ((y, h), (z, k))
    ]
    one, other = (torch.autograd.grad(each, weights, allow_unused=True) for each in loss)
    for a, b in zip(one, other, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-10, rtol=1e-10)
    return recorder.trajectory(layer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_cell(cell, dtype, generator):
    layer = shaken(make(cell, dtype=dtype, num_layers=2))
    x = torch.randn(5, 2, 3, dtype=dtype, generator=generator)
    trajectory = assert_steps_equal_the_pass(layer, x)
    assert len(trajectory.states) == 6 and not trajectory.states[0].is_complex()


@pytest.mark.parametrize("layer", TORCH, ids=str)
def test_layers_of_torch(layer, generator):
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=generator)
    assert_steps_equal_the_pass(layer.double(), x)
    with torch.no_grad():
        hx = layer(x.flip(0).flip(1))[1]
    assert_steps_equal_the_pass(layer, x, hx)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, mr.nn.GRU, mr.nn.LSTM, mr.nn.RNN])
def test_one_sequence_without_batch(kind, generator):
    layer = kind(3, 4, batch_first=True).double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    assert_steps_equal_the_pass(layer, x)
    with torch.no_grad():
        hx = layer(x)[1]
    assert_steps_equal_the_pass(layer, x, hx)


def test_trained_initial_states_and_constraints(generator):
    layer = mr.nn.LSTM(
        3, 4, constraint=mr.Orthogonal(), view="trivialized", train_initial_state=True, dtype=torch.float64
    )
    shaken(layer)
    assert_steps_equal_the_pass(layer, torch.randn(5, 2, 3, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_jacobians_are_those_of_autograd(cell, wide, generator):
    layer = shaken(make(cell, dtype=wide, num_layers=2))
    x = torch.randn(3, 2, 3, dtype=wide, generator=generator)
    trajectory = steps.record(layer, x)
    for (t, J, _), state in zip(trajectory.derivatives(2), trajectory.states, strict=False):
        for b in range(2):
            s = state[b : b + 1]
            expected = torch.autograd.functional.jacobian(
                lambda s, t=t, b=b: trajectory.steps.step(x[t, b : b + 1], s)[0], s
            )
            assert torch.allclose(J[b], expected[0, :, 0], atol=1e-10)


def test_chunks_of_time_change_nothing(monkeypatch, generator):
    layer = make(mr.nn.cells.LSTM())
    trajectory = steps.record(layer, torch.randn(7, 2, 3, dtype=torch.float64, generator=generator))
    whole = list(trajectory.derivatives(2))
    monkeypatch.setattr(steps, "_BUDGET", 8 * 2 * 8 * (8 + 16) * 3)
    pieces = list(trajectory.derivatives(2))
    backwards = list(trajectory.derivatives(2, reverse=True))[::-1]
    for (t, J, g), *others in zip(whole, pieces, backwards, strict=True):
        for u, K, h in others:
            assert t == u and torch.allclose(J, K, atol=1e-14) and torch.allclose(g[0], h[0], atol=1e-14)


def test_gains_of_an_elman_cell_are_slopes_of_its_nonlinearity(generator):
    layer = make(mr.nn.cells.Elman())
    trajectory = steps.record(layer, torch.randn(4, 2, 3, dtype=torch.float64, generator=generator))
    for t, _, (gain,) in trajectory.derivatives(2):
        assert torch.allclose(gain, 1 - trajectory.states[t + 1] ** 2, atol=1e-12)


class Looping(nn.Module):
    """Calls its layer once for each step, from the state before, or anew."""

    def __init__(self, hands_on):
        super().__init__()
        self.layer, self.hands_on = mr.nn.LSTM(3, 4, dtype=torch.float64), hands_on

    def forward(self, x):
        state, outputs = None, []
        for x_t in x.split(1):
            y, state = self.layer(x_t, state if self.hands_on else None)
            outputs.append(y)
        return torch.cat(outputs)


def test_a_network_that_calls_its_layer_step_by_step_has_one_trajectory(generator):
    network, x = Looping(True), torch.randn(5, 2, 3, dtype=torch.float64, generator=generator)
    states = steps.record(network, x).states
    for a, b in zip(states, steps.record(network.layer, x).states, strict=True):
        assert torch.allclose(a, b, atol=1e-14)
    with pytest.raises(OptionError, match="called its layer several times"):
        steps.record(Looping(False), x)


def test_the_module_and_the_random_state_are_left_as_they_were(generator):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layer = nn.BatchNorm1d(3), mr.nn.RNN(3, 4, num_layers=2, dropout=0.5, batch_first=True)

        def forward(self, x):
            return self.layer(self.norm(x.mT).mT + torch.randn(()))

    network = Noisy()
    network.norm.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random, hooks = torch.get_rng_state(), len(network.layer._forward_hooks)
    steps.record(network, torch.randn(2, 5, 3, generator=generator))
    with pytest.raises(NonFiniteError, match="not finite at step 1"):
        steps.record(network, torch.full((2, 5, 3), torch.nan))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert [part.training for part in network.modules()] == [True, False, True]
    assert torch.equal(random, torch.get_rng_state()) and len(network.layer._forward_hooks) == hooks
    assert all(p.grad is None for p in network.parameters())


def test_what_has_no_trajectory_is_refused():
    with pytest.raises(UnsupportedError, match="bidirectional"):
        steps.record(nn.GRU(3, 4, bidirectional=True), torch.zeros(5, 2, 3))
    with pytest.raises(UnsupportedError, match="bidirectional"):
        steps.record(mr.nn.GRU(3, 4, bidirectional=True), torch.zeros(5, 2, 3))
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 3), torch.zeros(2, 3)])
    with pytest.raises(UnsupportedError, match="packed batch"):
        steps.record(mr.nn.GRU(3, 4), packed)
    with pytest.raises(OptionError, match="no recurrent matrix"):
        steps.record(nn.Linear(3, 4), torch.zeros(5, 2, 3))
    for layer in (nn.GRU(3, 4), mr.nn.GRU(3, 4), mr.zoo.Network(mr.nn.GRU(3, 4), 2)):
        for shape in ((5, 0, 3), (0, 2, 3)):
            with pytest.raises(ShapeError, match=r"GRU receives inputs without.*\n.*Got shape \("):
                steps.record(layer, torch.zeros(shape))
    unused = nn.Linear(3, 4)
    unused.add_module("layer", nn.GRU(3, 4))
    with pytest.raises(OptionError, match="did not call"):
        steps.record(unused, torch.zeros(2, 3))
