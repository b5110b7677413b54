"""Lyapunov exponents of layers whose exponents are known."""

import math

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.diagnostics import Lyapunov, lyapunov_exponents
from manifold_rnn.errors import NonFiniteError, OptionError, UnsupportedError

EXACT = 1e-8  # of the issue, in double precision


def linear(W):
    """A linear layer with one input and this recurrent matrix."""
    layer = mr.nn.RNN(1, len(W), nonlinearity=lambda z: z, batch_first=True, dtype=W.dtype)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(W)
    return layer


def inputs(generator, steps=60, batch=3):
    return torch.randn(batch, steps, 1, dtype=torch.float64, generator=generator)


def test_of_a_diagonal_network_they_are_the_logarithms_of_its_entries(generator):
    d = torch.tensor([0.3, -1.1, 0.95, 1e-3], dtype=torch.float64)
    expected = d.abs().log().sort(descending=True)[0]
    for count in (None, 4):
        measured = lyapunov_exponents(linear(d.diag()), inputs(generator), count)
        assert torch.tensor(measured.exponents, dtype=torch.float64).sub(expected).abs().max() < EXACT
        assert max(measured.deviations) < EXACT and measured.states == 4 and measured.steps == 45
    fewer = lyapunov_exponents(linear(d.diag()), inputs(generator, 400), 2, transient=300)
    assert torch.tensor(fewer.exponents, dtype=torch.float64).sub(expected[:2]).abs().max() < EXACT


def test_a_singular_jacobian_has_an_exponent_of_minus_infinity(generator):
    W = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    W[3] = W[0] + W[1]  # of rank 3, up to rounding error
    measured = lyapunov_exponents(linear(W), inputs(generator))
    assert measured.exponents[3] == -math.inf and math.isfinite(measured.exponents[2])
    assert measured.deviations[3] == 0


def test_an_exponent_that_is_infinite_for_some_sequences_has_no_deviation():
    layer = mr.nn.RNN(1, 1, nonlinearity="relu", batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(0.5 if p.dim() == 2 else 0.0)
    x = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None, None].expand(2, 8, 1)  # the second is dead
    measured = lyapunov_exponents(layer, x)
    assert measured.exponents == (-math.inf,) and math.isnan(measured.deviations[0])


def test_the_transpose_and_the_embedding_have_the_same(generator):
    d = torch.polar(torch.tensor([0.3, 1.2, 0.9]), torch.tensor([0.1, 2.0, -0.4])).to(torch.complex128)
    Q = mr.Unitary().random(3, 3, dtype=torch.complex128)
    W = (Q * d) @ Q.mH
    x = inputs(generator, 2000, 1)
    expected = d.abs().log().sort(descending=True)[0].repeat_interleave(2)
    embedding = torch.cat([torch.cat([W.real, -W.imag], 1), torch.cat([W.imag, W.real], 1)])
    for matrix in (W, W.mT, embedding, embedding.mT):
        layer = linear(0.4 * matrix)
        measured = torch.tensor(lyapunov_exponents(layer, x, transient=1000).exponents, dtype=torch.float64)
        assert (measured - math.log(0.4) - expected).abs().max() < EXACT


def test_complex_cells_and_their_real_form_have_the_same(generator):
    layer = mr.nn.RNN(1, 3, nonlinearity="relu", dtype=torch.complex128)
    real = mr.nn.RNN(1, 6, nonlinearity="relu", dtype=torch.float64)
    W, V, b = layer.weight_hh_l0, layer.weight_ih_l0, layer.bias_ih_l0 + layer.bias_hh_l0
    with torch.no_grad():
        real.weight_hh_l0.copy_(torch.cat([torch.cat([W.real, -W.imag], 1), torch.cat([W.imag, W.real], 1)]))
        real.weight_ih_l0.copy_(torch.cat([V.real, V.imag]))
        real.bias_ih_l0.copy_(torch.cat([b.real, b.imag]))
        real.bias_hh_l0.zero_()
    x = torch.randn(20, 2, 1, dtype=torch.float64, generator=generator)
    one, other = lyapunov_exponents(layer, x), lyapunov_exponents(real, x)
    assert one.states == other.states == 6
    assert one.exponents == pytest.approx(other.exponents, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_of_an_orthogonal_linear_network_they_are_zero(dtype, generator):
    manifold = mr.Unitary() if dtype.is_complex else mr.Orthogonal()
    layer = linear(manifold.random(5, 5, dtype=dtype))
    assert max(map(abs, lyapunov_exponents(layer, inputs(generator)).exponents)) < EXACT
    assert max(map(abs, lyapunov_exponents(layer, inputs(generator), 2).exponents)) < EXACT


def test_their_sum_is_the_mean_logarithm_of_the_determinants(generator):
    layer = nn.LSTM(1, 3, batch_first=True).double()
    x = inputs(generator, 12, 1)
    measured = lyapunov_exponents(layer, x, transient=0)
    trajectory = mr.diagnostics.steps.record(layer, x)
    logs = [torch.linalg.slogdet(J)[1] for _, J, _ in trajectory.derivatives(1)]
    assert sum(measured.exponents) == pytest.approx(float(torch.stack(logs).mean()), abs=1e-9)


def test_a_dead_unit_has_minus_infinity(generator):
    layer = mr.nn.RNN(1, 2, nonlinearity="relu", batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.bias_hh_l0.copy_(torch.tensor([10.0, -10.0]))
    measured = lyapunov_exponents(layer, inputs(generator))
    assert math.isfinite(measured.largest) and measured.exponents[1] == -math.inf
    assert measured.deviations == pytest.approx((0.0, 0.0), abs=1e-12) and "-inf" in measured.table()


def test_networks_and_edges(generator):
    network = mr.zoo.exprnn(1, 4, 2)
    x = torch.randn(1, 1, 1, generator=generator)
    measured = lyapunov_exponents(network, x)  # one sequence of one step
    assert (measured.steps, measured.transient, measured.sequences) == (1, 0, 1)
    one = lyapunov_exponents(mr.nn.RNN(1, 1, batch_first=True), x)
    assert one.states == 1 and len(one.exponents) == 1
    batch = torch.randn(6, 9, 1, generator=generator)
    first = lyapunov_exponents(network, batch, 2, sequences=3)
    assert first == lyapunov_exponents(network, batch[:3], 2) and first.sequences == 3


def test_bad_input_is_answered():
    layer, x = mr.nn.RNN(1, 3, batch_first=True), torch.zeros(2, 5, 1)
    for options, name in [
        ({"count": 0}, "count"),
        ({"count": 4}, "count"),
        ({"transient": 5}, "transient"),
        ({"transient": -1}, "transient"),
        ({"sequences": 0}, "sequences"),
        ({"sequences": 1.5}, "sequences"),
    ]:
        with pytest.raises(OptionError, match=f"`{name}` is out of range"):
            lyapunov_exponents(layer, x, **options)
    with pytest.raises(OptionError, match="no recurrent matrix"):
        lyapunov_exponents(nn.Linear(1, 1), x)
    with pytest.raises(OptionError, match="one tensor"):
        lyapunov_exponents(layer, (x, x))
    with pytest.raises(UnsupportedError, match="bidirectional"):
        lyapunov_exponents(nn.RNN(1, 3, bidirectional=True), x)
    with pytest.raises(NonFiniteError, match="not finite at step 1"):
        lyapunov_exponents(layer, x + torch.nan)


def test_the_table_and_the_picture():
    pytest.importorskip("matplotlib")
    measured = Lyapunov((0.25, -1.0), (0.1, 0.2), 4, 30, 10, 2)
    assert measured.largest == 0.25 and measured.table().isascii()
    assert "2 of 4 exponents" in measured.table() and "0.25" in measured.table()
    axes = measured.plot()
    assert axes.get_title() == "Lyapunov exponents" and measured.plot(axes) is axes
