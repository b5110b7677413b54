"""The weight profile finds the chain in scrambled matrices and layers."""

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.diagnostics import weight_profile
from manifold_rnn.errors import NonFiniteError, OptionError, ShapeError, UnsupportedError


def scrambled(n, gain, generator):
    order = torch.randperm(n, generator=generator)
    return mr.nn.init.chain_(torch.empty(n, n, dtype=torch.float64), gain)[order][:, order], order


def spike(n, gain):
    return {distance: gain if distance == 1 else 0.0 for distance in range(1 - n, n)}


@pytest.mark.parametrize("gain", [0.9, 1.0, 1.02, 1.05])
@pytest.mark.parametrize("n", [2, 60, 200])
def test_a_scrambled_chain_is_a_spike_at_one(n, gain, generator):
    W, order = scrambled(n, gain, generator)
    result = weight_profile(W)
    expected = spike(n, gain)
    assert result.profile == pytest.approx(expected, abs=2e-15)
    assert all(value == 0 for distance, value in result.profile.items() if distance != 1)
    assert torch.equal(order[list(result.order)], torch.arange(n)) and torch.equal(order, torch.tensor(result.peaks))
    assert result.peak == 1 and result.asymmetry == 1
    backwards = weight_profile(W.T)  # its head is the other end
    assert backwards.profile == pytest.approx(expected, abs=2e-15)


def test_a_scrambled_chain_is_found_in_layers_with_their_nonlinearity(generator):
    W, order = scrambled(40, 1.02, generator)
    for layer in (
        mr.nn.RNN(1, 40, nonlinearity="relu", dtype=torch.float64),
        mr.nn.RNN(1, 40, nonlinearity=nn.functional.elu, bias=False, num_layers=2, batch_first=True).double(),
        nn.RNN(1, 40, nonlinearity="relu", batch_first=True).double(),
    ):
        with torch.no_grad():
            layer.weight_hh_l0.copy_(W)
            layer.weight_ih_l0.copy_(0.9 * (order == 0)[:, None])
            for name, p in layer.named_parameters():
                if "bias" in name:
                    p.zero_()
        result = weight_profile(layer)
        assert result.profile == pytest.approx(spike(40, 1.02), abs=2e-15)
        assert result == weight_profile(layer, pulse=torch.tensor([1.0]))


def test_feedback_chains_and_symmetric_matrices(generator):
    W = mr.nn.init.feedback_chain_(torch.empty(50, 50, dtype=torch.float64))
    order = torch.randperm(50, generator=generator)
    assert weight_profile(W[order][:, order]).profile[1] > 0.9  # its pulse enters at the second unit
    result = weight_profile(W[order][:, order], pulse=(order == 0).double())
    assert result.profile[1] == pytest.approx(0.99) and result.profile[-1] == pytest.approx(0.04)
    S = torch.randn(20, 20, dtype=torch.float64, generator=generator)
    symmetric = weight_profile(0.1 * (S + S.T))
    assert symmetric.asymmetry == pytest.approx(0, abs=1e-12)
    assert max(symmetric.schur[1:]) < 1e-12  # normal: its Schur form is diagonal


def test_the_schur_form_has_a_chain_in_any_basis():
    n = 30
    W = 0.5 * torch.eye(n, dtype=torch.float64) + mr.nn.init.chain_(torch.empty(n, n, dtype=torch.float64), 0.01)
    upper = weight_profile(W.T, steps=20)
    assert upper.schur == pytest.approx([0.5, 0.01] + [0.0] * (n - 2), abs=1e-12)
    rotation = mr.Orthogonal().random(n, n, dtype=torch.float64)
    assert weight_profile(rotation).schur == pytest.approx([1.0] + [0.0] * (n - 1), abs=1e-10)


def test_the_modulus_has_the_peak_unless_asked_otherwise():
    W = torch.tensor([[0.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    pulse = torch.tensor([1.0, 0.0])
    assert weight_profile(W, pulse=pulse).peaks == (0, 1)
    assert weight_profile(W, pulse=pulse, abs=False).peaks == (0, 0)
    assert weight_profile(-0.5 * torch.eye(2), pulse=-torch.ones(2), abs=False).peaks == (1, 1)


def test_complex_matrices_have_moduli(generator):
    W, _ = scrambled(12, 1.02, generator)
    phases = torch.polar(torch.ones(12, dtype=torch.float64), torch.arange(12, dtype=torch.float64))
    result = weight_profile(phases[:, None] * W.to(torch.complex128))
    assert result.profile == pytest.approx(spike(12, 1.02), abs=1e-14)
    layer = mr.nn.RNN(2, 5, nonlinearity="modrelu", constraint=mr.Unitary(), dtype=torch.complex64)
    assert len(weight_profile(layer).profile) == 9


def test_gated_networks_and_small_matrices():
    lstm = nn.LSTM(3, 6, num_layers=2)
    before, random = lstm.weight_hh_l0.clone(), torch.get_rng_state()
    result = weight_profile(nn.Sequential(lstm))
    assert result.matrix == "W_hh of g" and len(result.order) == 6 and result == weight_profile(lstm)
    assert torch.equal(before, lstm.weight_hh_l0) and torch.equal(random, torch.get_rng_state())
    assert weight_profile(mr.zoo.exprnn(1, 8, 2)).matrix == "W_hh"
    one = weight_profile(torch.tensor([[0.5]]))
    assert one.profile == {0: 0.5} and one.schur == (0.5,) and one.asymmetry == 0 and one.table()
    assert weight_profile(torch.zeros(3, 3), steps=1).peaks == (0, 0, 0)


def test_bad_input_is_answered():
    W, layer = torch.eye(3), mr.nn.RNN(2, 3)
    for call, error, words in [
        (lambda: weight_profile(torch.ones(2, 3)), ShapeError, "square"),
        (lambda: weight_profile(torch.zeros(0, 0)), ShapeError, "square"),
        (lambda: weight_profile(W * torch.nan), NonFiniteError, "finite"),
        (lambda: weight_profile(W, steps=0), OptionError, "`steps`"),
        (lambda: weight_profile(W, pulse=torch.ones(2)), ShapeError, "`pulse`"),
        (lambda: weight_profile(layer, pulse=torch.ones(3)), ShapeError, "`pulse`"),
        (lambda: weight_profile(layer, pulse=1), OptionError, "vector"),
        (lambda: weight_profile(layer, pulse=torch.ones(2) * torch.inf), NonFiniteError, "`pulse`"),
        (lambda: weight_profile(layer, pulse=torch.ones(2) * 1j), OptionError, "complex"),
        (lambda: weight_profile(1e9 * W), NonFiniteError, "response"),
        (lambda: weight_profile(nn.Linear(2, 2)), OptionError, "no recurrent matrix"),
        (lambda: weight_profile(nn.GRU(2, 2, bidirectional=True)), UnsupportedError, "bidirectional"),
    ]:
        with pytest.raises(error, match=words):
            call()


def test_the_table_and_the_picture(generator):
    pytest.importorskip("matplotlib")
    result = weight_profile(scrambled(8, 1.0, generator)[0])
    assert result.table().isascii() and "distance of the peak" in result.table()
    axes = result.plot()
    assert len(axes.get_legend().get_texts()) == 2 and result.plot(axes) is axes
