"""What RFLO refuses, by name and with everything unchanged."""

import pytest
import torch
from support.online_cases import (
    BATCH,
    EXACT,
    LEAKS,
    VIEWS,
    WIDE,
    K,
    M,
    N,
    by_trial,
    gradients,
    layer_with,
    linear,
    require_close,
    rule,
    sequences,
    stepped,
    targets,
)
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import DtypeError, NonFiniteError, OptionError, ShapeError, UnsupportedError
from manifold_rnn.nn import Layer
from manifold_rnn.nn.cells import LSTM, Elman, LeakyElman
from manifold_rnn.online import RFLO

BAD = {
    "a layer of torch": (lambda: RFLO(nn.RNN(M, N), linear()), UnsupportedError, "Expected a Layer.*got RNN"),
    "two levels": (lambda: RFLO(layer_with(num_layers=2), linear()), UnsupportedError, "num_layers=2"),
    "two directions": (lambda: RFLO(layer_with(bidirectional=True)), UnsupportedError, "bidirectional=True"),
    "a trained start": (lambda: RFLO(layer_with(train_initial_state=True)), UnsupportedError, "train_initial_state"),
    "another cell": (lambda: RFLO(layer_with(LSTM())), UnsupportedError, "got LSTM"),
    "other steps": (lambda: RFLO(layer_with(Doubled())), UnsupportedError, "got Doubled"),
    "a mixing nonlinearity": (
        lambda: RFLO(layer_with(LeakyElman(lambda z: z.softmax(-1)))), UnsupportedError, "each unit separately"),
    "a trained nonlinearity": (lambda: RFLO(layer_with(LeakyElman(nn.PReLU()))), UnsupportedError, "got PReLU"),
    "complex weights": (lambda: RFLO(layer_with(dtype=torch.complex64)), DtypeError, "complex64"),
    "a nonlinear readout": (lambda: RFLO(layer_with(), nn.ReLU()), UnsupportedError, "nn.Linear or None, got ReLU"),
    "a readout of another size": (lambda: RFLO(layer_with(), linear(7)), ShapeError, "in_features=5.*got 7"),
    "a readout of another dtype": (lambda: RFLO(layer_with(), linear(dtype=WIDE)), DtypeError, "got torch.float64"),
    "an unknown feedback": (lambda: RFLO(layer_with(), linear(), feedback="randm"), OptionError, "got 'randm'"),
    "feedback for no readout": (lambda: RFLO(layer_with(), feedback="random"), OptionError, "feedback=None"),
    "transposed feedback": (
        lambda: RFLO(layer_with(), linear(), feedback=torch.ones(K, N)), ShapeError, r"Expected \(5, 3\).*\(3, 5\)"),
    "feedback with NaN": (
        lambda: RFLO(layer_with(), linear(), feedback=torch.full((N, K), torch.nan)), NonFiniteError, "15 of 15"),
    "an unknown influence": (lambda: RFLO(layer_with(), linear(), influence="rtrl"), OptionError, "got 'rtrl'"),
    "an influence of another type": (lambda: RFLO(layer_with(), linear(), influence=3), OptionError, "got 3"),
    "to learn before a step": (lambda: RFLO(layer_with(), linear()).learn(torch.ones(1, K)), OptionError, "got none"),
    "an error of another shape": (lambda: stepped().learn(torch.ones(K)), ShapeError, r"Expected \(2, 3\).*\(3,\)"),
    "an error with infinity": (
        lambda: stepped().learn(torch.full((2, K), torch.inf)), NonFiniteError, "6 of 6 that are not"),
    "a step of a sequence": (lambda: stepped().step(torch.ones(2, 5, M)), ShapeError, r"\(2, 2\).*\(2, 5, 2\)"),
    "another batch": (lambda: stepped().step(torch.ones(3, M)), ShapeError, "another number of sequences"),
    "another input size": (lambda: stepped().step(torch.ones(2, 7)), ShapeError, "input_size 2"),
    "another dtype": (lambda: stepped().step(torch.ones(2, M, dtype=WIDE)), DtypeError, "got torch.float64"),
    "a step with a gradient": (
        lambda: stepped().step(torch.ones(2, M, requires_grad=True)), UnsupportedError, "Detach the inputs"),
    "inputs with a gradient": (
        lambda: stepped()(torch.ones(3, 2, M, requires_grad=True)), UnsupportedError, "Detach the inputs"),
    "a packed sequence": (
        lambda: stepped()(nn.utils.rnn.pack_sequence([torch.ones(3, M)])), UnsupportedError, "got a PackedSequence"),
    "no time step": (lambda: stepped()(torch.ones(0, 2, M)), ShapeError, "no time step"),
    "a state of another size": (
        lambda: stepped().start(2, torch.ones(2, 7)), ShapeError, r"Expected \(2, 5\).*got \(2, 7\)"),
    "a state for other sequences": (
        lambda: stepped().start(4, torch.ones(2, N)), ShapeError, r"Expected \(4, 5\).*got \(2, 5\)"),
    "a state of numbers": (lambda: stepped().start(1, [[0.0] * N]), ShapeError, r"Expected \(1, 5\).*got list"),
    "less than no sequence": (lambda: stepped().start(-1), OptionError, "`batch`.*got -1"),
    "sequences by a word": (lambda: stepped().start("a"), OptionError, "`batch`.*got 'a'"),
    "an error of numbers": (lambda: stepped().learn([1.0]), DtypeError, r"one of shape \(2, 3\), got list"),
    "an error of another dtype": (
        lambda: stepped().learn(torch.ones(2, K, dtype=WIDE)), DtypeError, "Expected torch.float32, got torch.float64"),
    "a loss of each entry": (
        lambda: stepped().step(torch.ones(2, M), torch.ones(2, K), loss=nn.MSELoss(reduction="none")),
        ShapeError, r"Expected a scalar, got shape \(2, 3\)"),
    "a loss without a graph": (
        lambda: stepped().step(torch.ones(2, M), torch.ones(2, K), loss=lambda y, _: y.detach().sum()),
        OptionError, "must depend on the outputs"),
    "a target of another shape": (
        lambda: stepped().step(torch.ones(2, M), torch.ones(K)), ShapeError, r"Expected \(2, 3\).*got \(3,\)"),
    "a target of numbers": (lambda: stepped().step(torch.ones(2, M), 1.0), ShapeError, r"\(2, 3\).*got float"),
    "a step after a conversion": (
        lambda: stepped().double().step(torch.ones(2, M, dtype=WIDE)), DtypeError, "got torch.float32.*Call start"),
    "to learn after a conversion": (
        lambda: stepped().double().learn(torch.ones(2, K, dtype=WIDE)), DtypeError, "got torch.float32.*Call start"),
    "a gain by a word": (lambda: mr.zoo.rflo(M, N, K, gain="a"), OptionError, "gain of rflo.*got 'a'"),
    "no gain": (lambda: mr.zoo.rflo(M, N, K, gain=0), OptionError, "positive number, got 0"),
    "a complex network": (lambda: mr.zoo.rflo(M, N, K, dtype=torch.complex64), DtypeError, "got torch.complex64"),
    "an input with NaN": (
        lambda: stepped().step(torch.tensor([[0.0, torch.nan]] * 2)), NonFiniteError, "2 of 4 that are not"),
}  # fmt: skip


class Doubled(LeakyElman):
    def step(self, u, state, W):
        return super().step(2 * u, state, W)


@pytest.mark.parametrize(("act", "kind", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused_by_name(act, kind, message):
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        act()
    assert type(caught.value) is kind and len(str(caught.value)) <= 400


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


BYPASSED = {
    "gates": (lambda layer, readout: mr.nn.gate_units(layer), "gates over the units"),
    "gates of the readout": (lambda layer, readout: mr.nn.gate_units(Layer(Elman(), M, N), readout), "GatedInput"),
    "spectral_norm": (lambda layer, readout: nn.utils.spectral_norm(readout), "SpectralNorm of the readout"),
    "a hook": (lambda layer, readout: readout.register_forward_hook(lambda m, x, y: 2 * y), "of the readout"),
    "a hook of the layer": (lambda layer, readout: layer.register_forward_hook(print), "hook print of the layer"),
    "another forward": (lambda layer, readout: setattr(readout, "__class__", Doubling), "forward method of Doubling"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BYPASSED.values(), ids=BYPASSED)
def test_what_the_rule_would_bypass_is_refused_before_and_after_it_is_built(change, message):
    network = RFLO(layer_with(Elman()), linear())
    network.step(torch.zeros(2, M))
    change(network.layer, network.readout)
    for act in (
        lambda: RFLO(network.layer, network.readout),
        lambda: network(torch.ones(3, 2, M)),
        lambda: network.step(torch.ones(2, M)),
        lambda: network.learn(torch.ones(2, K)),
    ):
        with pytest.raises(UnsupportedError, match=message) as caught:
            act()
        assert len(str(caught.value)) <= 400
    with torch.no_grad():
        network.eval()(torch.ones(3, 2, M))  # calls the modules


@pytest.mark.parametrize("view", VIEWS)
def test_hooks_of_constraints_and_parametrized_readouts_are_taken(view):
    network = rule(constraint=mr.Orthogonal(), view=view)
    mr.constraints.scope(network.layer)
    nn.utils.parametrizations.weight_norm(network.readout)
    other = RFLO(network.layer, network.readout, feedback="transpose", influence="full")
    found = by_trial(other, sequences(), targets())[1]
    require_close(found, by_trial(other.eval(), sequences(), targets())[1])


def test_nothing_changes_after_a_refusal():
    network = rule()
    network.step(sequences()[:, 0], targets()[:, 0])
    before = [network.state_dict(), gradients(network), network._state, network._influence.trace.clone()]
    for act in (
        lambda: network.learn(torch.full((BATCH, K), torch.nan, dtype=WIDE)),
        lambda: network.learn(torch.ones(BATCH, 7, dtype=WIDE)),
        lambda: network.step(torch.ones(BATCH, 7, dtype=WIDE)),
        lambda: network.step(torch.full((BATCH, M), torch.nan, dtype=WIDE)),
        lambda: network.step(sequences()[:, 0], torch.ones(K, dtype=WIDE)),
        lambda: network.start(BATCH, torch.ones(BATCH, 7, dtype=WIDE)),
    ):
        with pytest.raises(mr.errors.ManifoldError):
            act()
    after = [network.state_dict(), gradients(network), network._state, network._influence.trace]
    torch.testing.assert_close(after, before, atol=0, rtol=0)


def test_a_frozen_nonlinearity_and_single_leaks_are_taken():
    function = nn.PReLU().requires_grad_(False)
    network = RFLO(layer_with(LeakyElman(function, leak=LEAKS), dtype=torch.float32), linear(), **EXACT)
    x = sequences(dtype=torch.float32).transpose(0, 1)
    target = targets().float().transpose(0, 1)
    found = by_trial(network, x, target)[1]
    require_close(found, by_trial(network.eval(), x, target)[1], 1e-4)
