"""Gradients over time, products of Jacobians and idle units, against plain loops."""

import math

import pytest
import torch
from support import tolerances
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

import manifold_rnn as mr
from manifold_rnn.diagnostics import gradient_flow, steps
from manifold_rnn.diagnostics.products import Product, median
from manifold_rnn.errors import NonFiniteError, OptionError, ShapeError, UnsupportedError

CLOSE = 100 * tolerances.atol(torch.float64)


def batch(generator, sequences=4, length=7, classes=2):
    x = torch.randn(sequences, length, 3, dtype=torch.float64, generator=generator)
    return x, torch.randint(classes, (sequences,), generator=generator)


def elman(dtype=torch.float64, **options):
    return mr.zoo.Network(mr.nn.RNN(3, 4, batch_first=True, dtype=dtype, **options), 2)


def naive_norms(network, x, y):
    """Norms of dL/dh_t of an Elman network by a loop in which each state is a leaf of its own gradient."""
    layer = network.layer
    h, states = torch.zeros(len(x), 4, dtype=torch.float64), []
    for x_t in x.unbind(1):
        h = torch.tanh(h @ layer.weight_hh_l0.T + x_t @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0)
        states.append(h)
    loss = F.cross_entropy(network.readout(h), y)
    return loss, torch.stack([g.norm(dim=-1) for g in torch.autograd.grad(loss, states)])


def test_norms_are_those_of_a_plain_loop(generator):
    network, (x, y) = elman(), batch(generator)
    loss, norms = naive_norms(network, x, y)
    flow = gradient_flow(network, (x, y))
    assert flow.loss == pytest.approx(float(loss.detach()), rel=CLOSE)
    assert flow.gradient_mean == pytest.approx(norms.mean(1).tolist(), rel=CLOSE)
    for q, values in ((0.25, flow.gradient_lower), (0.5, flow.gradient_median), (0.75, flow.gradient_upper)):
        assert values == pytest.approx(norms.quantile(q, dim=1).tolist(), rel=CLOSE)
    assert flow.states == 4 and flow.sequences == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_gradients_in_low_precision_do_not_vanish(dtype, generator):
    network, (x, y) = elman(dtype), batch(generator)
    x = x.to(dtype)
    one, small = (gradient_flow(network, (x, y), lambda out, _, c=c: c * out.sum()) for c in (1.0, 2.0**-90))
    assert small.gradient_median[-1] == pytest.approx(2.0**-90 * one.gradient_median[-1], rel=1e-5)


def test_norms_follow_from_the_jacobians_also_for_several_parts_and_levels(generator):
    """dL/ds_t = dL/ds_T ds_T/ds_t for a loss of the last state, with all parts as independent variables."""
    lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True).double()
    x, _ = batch(generator, 1)
    target = torch.zeros(1, 7, 4, dtype=torch.float64)
    flow = gradient_flow(lstm, (x, target), lambda out, y: (out[:, -1] - y[:, -1]).square().sum(), times=7)
    trajectory = steps.record(lstm, x)
    g = torch.zeros(16, dtype=torch.float64)
    g[8:12] = 2 * trajectory.states[-1][0, 8:12]  # h of the upper level
    expected = [g.norm()]
    for _, J, _ in list(trajectory.derivatives(1))[:0:-1]:
        g = g @ J[0]
        expected.append(g.norm())
    assert flow.gradient_mean == pytest.approx([float(e) for e in reversed(expected)], rel=CLOSE)


def test_singular_values_are_those_of_the_products(generator):
    network, (x, y) = elman(), batch(generator, 2)
    flow = gradient_flow(network, (x, y), times=100)
    assert flow.times == tuple(range(7))
    trajectory = steps.record(network, x)
    P = torch.eye(4, dtype=torch.float64)
    for t, J, _ in trajectory.derivatives(2, reverse=True):
        P = P @ J
        logs = torch.linalg.svdvals(P).log10().quantile(0.5, dim=0)
        for name, k in (("largest", 0), ("smallest", 3)):
            assert flow.log10_singular_values[name][t] == pytest.approx(float(logs[k]), abs=1e-6)


@pytest.mark.parametrize(("scale", "length"), [(0.2, 300), (1.5, 300), (1.0, 5)])
def test_products_keep_values_beyond_the_range_of_numbers(scale, length, generator):
    """A rotation, then a diagonal of known logarithms whose product spans hundreds of orders of magnitude."""
    logs = torch.tensor([1.0, 0.5, 0.25, -1.0, -3.0], dtype=torch.float64) + math.log(scale)
    bases = [mr.Orthogonal().random(5, 5, dtype=torch.float64) for _ in range(length + 1)]
    product = Product(1, 5, torch.device("cpu"))
    for left, right in zip(bases[1:], bases, strict=False):
        product.multiply((left @ logs.exp().diag() @ right.T)[None])
    assert torch.allclose(product.log_singular_values()[0], length * logs, atol=1e-2, rtol=1e-10)
    product.multiply(torch.zeros(1, 5, 5))
    assert (product.log_singular_values() == -torch.inf).all()


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    logs = torch.tensor([[1.0, 3.0], [-math.inf, -math.inf], [4.0, -math.inf], [2.0, 5.0]])
    assert median(logs).tolist() == [1.5, -math.inf] and median(logs[:3]).tolist() == [1.0, -math.inf]


def test_decimal_logarithms_are_those_of_double_precision(generator):
    layer = mr.nn.RNN(3, 1, nonlinearity=lambda z: z, batch_first=True, dtype=torch.float64)
    nn.init.constant_(layer.weight_hh_l0, 0.1)
    flow = gradient_flow(layer, (batch(generator, length=50)[0], torch.zeros(4, 50, 1, dtype=torch.float64)))
    assert flow.log10_singular_values["largest"][0] == pytest.approx(-50, rel=1e-13)


def test_of_an_orthogonal_linear_network_nothing_vanishes(generator):
    layer = mr.nn.RNN(3, 4, nonlinearity=lambda z: z, constraint=mr.Orthogonal(), batch_first=True, dtype=torch.float64)
    flow = gradient_flow(mr.zoo.Network(layer, 2), batch(generator, length=50))
    assert flow.gradient_mean == pytest.approx([flow.gradient_mean[0]] * 50, rel=1e-9)
    assert all(abs(v) < 1e-9 for values in flow.log10_singular_values.values() for v in values)
    assert abs(flow.lyapunov.largest) < 1e-9 and flow.saturation == 0 and flow.dead == ((),)


def test_complex_networks_and_their_real_form_have_the_same_numbers(generator):
    layer = mr.nn.RNN(3, 2, nonlinearity="relu", dtype=torch.complex128, batch_first=True)
    real = mr.nn.RNN(3, 4, nonlinearity="relu", dtype=torch.float64, batch_first=True)
    W, V, b = layer.weight_hh_l0, layer.weight_ih_l0, layer.bias_ih_l0 + layer.bias_hh_l0
    with torch.no_grad():
        real.weight_hh_l0.copy_(torch.cat([torch.cat([W.real, -W.imag], 1), torch.cat([W.imag, W.real], 1)]))
        real.weight_ih_l0.copy_(torch.cat([V.real, V.imag]))
        real.bias_ih_l0.copy_(torch.cat([b.real, b.imag]))
        real.bias_hh_l0.zero_()
    one, other = mr.zoo.Network(layer, 2), mr.zoo.Network(real, 2)
    other.readout.load_state_dict(one.readout.state_dict())
    data = batch(generator)
    a, b = gradient_flow(one, data), gradient_flow(other, data)
    assert a.loss == pytest.approx(b.loss) and a.gradient_mean == pytest.approx(b.gradient_mean, rel=1e-9)
    assert a.lyapunov.exponents == pytest.approx(b.lyapunov.exponents, abs=1e-9)
    for name, values in a.log10_singular_values.items():
        assert values == pytest.approx(b.log10_singular_values[name], abs=1e-6)


def test_dead_and_saturated_units_are_found(generator):
    network = elman(nonlinearity="relu")
    with torch.no_grad():
        network.layer.bias_hh_l0.copy_(torch.tensor([0.0, -50.0, 0.0, 0.0]))
    flow = gradient_flow(network, batch(generator))
    assert flow.dead == ((1,),) and flow.dead_fraction == 0.25
    network = elman()
    with torch.no_grad():
        network.layer.bias_hh_l0.copy_(torch.tensor([0.0, 6.0, 0.0, -7.0]))
    flow = gradient_flow(network, batch(generator))
    assert flow.saturated == ((1, 3),) and flow.saturated_fraction == 0.5 and flow.saturation >= 0.5
    with torch.no_grad():
        network.layer.bias_hh_l0.fill_(6.0)  # all of them: compared with the slope at rest
    assert gradient_flow(network, batch(generator)).saturated == ((0, 1, 2, 3),)
    with torch.no_grad():
        network.layer.bias_hh_l0.fill_(100.0)  # constant up to rounding error
    assert gradient_flow(network, batch(generator)).dead == ((0, 1, 2, 3),)


def test_a_closed_gate_saturates_its_unit_in_the_upper_level(generator):
    lstm = mr.nn.LSTM(3, 4, num_layers=2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        lstm.bias_hh_l1[12 + 2] = -9.0  # the output gate of unit 2
    flow = gradient_flow(mr.zoo.Network(lstm, 2), batch(generator))
    assert flow.saturated == ((), (2,)) and flow.states == 16


def test_sources_of_data_and_losses(generator):
    network, (x, y) = elman(), batch(generator)
    expected = gradient_flow(network, (x, y))
    assert gradient_flow(network, TensorDataset(x, y)) == expected
    loader = DataLoader(TensorDataset(x, y), batch_size=4, generator=torch.Generator().manual_seed(3))
    state, random = loader.generator.get_state(), torch.get_rng_state()
    assert gradient_flow(network, loader) == expected
    assert torch.equal(loader.generator.get_state(), state) and torch.equal(torch.get_rng_state(), random)
    assert gradient_flow(network, [x, y], F.cross_entropy) == expected
    assert gradient_flow(network, TensorDataset(x, y), batch=2).sequences == 2
    assert gradient_flow(network, Subset(TensorDataset(x, y), range(3))).sequences == 3
    labels = torch.randint(2, (4, 7), generator=generator)
    every = gradient_flow(network, (x, labels))
    assert every.loss == pytest.approx(float(F.cross_entropy(network(x, every_step=True).mT, labels).detach()))
    values = torch.zeros(4, 2, dtype=torch.float64)
    assert gradient_flow(network, (x, values)).loss == pytest.approx(float(network(x).square().mean().detach()))


class Sandwich(nn.Module):
    """A user's network, with an embedding before and normalization after the layer."""

    def __init__(self, layer):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(5, 3), layer
        self.norm, self.readout = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, tokens):
        return self.readout(self.norm(self.layer(self.embedding(tokens))[0][:, -1]))


@pytest.mark.parametrize(
    "layer",
    [
        nn.RNN(3, 4, batch_first=True),
        nn.LSTM(3, 4, batch_first=True),
        nn.GRU(3, 4, num_layers=2, dropout=0.5, batch_first=True),
    ],
    ids=["RNN", "LSTM", "GRU"],
)
def test_networks_of_users_are_left_as_they_were(layer, generator):
    network = Sandwich(layer).requires_grad_(False)  # a gradient by the states needs none by the weights
    data = torch.randint(5, (4, 6), generator=generator), torch.randint(2, (4,), generator=generator)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    flow = gradient_flow(network, data)
    assert flow.gradient_mean[0] > 0
    with pytest.raises(ShapeError):
        gradient_flow(network, (data[0], data[1][:2]))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(part.training for part in network.modules()) and torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in network.parameters()) and gradient_flow(network, data) == flow


def test_one_step_one_sequence_and_one_unit(generator):
    x = torch.randn(1, 1, 3, generator=generator)
    flow = gradient_flow(mr.zoo.Network(mr.nn.RNN(3, 1, batch_first=True), 2), (x, torch.tensor([0])))
    assert len(flow.gradient_mean) == 1 and flow.times == (0,) and flow.dead == ((),)


def test_bad_input_is_answered(generator):
    network, (x, y) = elman(), batch(generator)
    for options, words in [
        ({"sequences": 0}, "`sequences` is out of range"),
        ({"times": 0}, "`times`"),
        ({"exponents": -1}, "`exponents`"),
        ({"batch": 0}, "`batch`"),
        ({"threshold": 1.0}, "`threshold`"),
        ({"threshold": 0}, "`threshold`"),
    ]:
        with pytest.raises(OptionError, match=words):
            gradient_flow(network, (x, y), **options)
    for data in ((x,), (x, y, y), (x, None), [], DataLoader(TensorDataset(x), batch_size=2)):
        with pytest.raises(OptionError, match="a batch of inputs and targets"):
            gradient_flow(network, data)
    with pytest.raises(ShapeError, match="do not fit the targets"):
        gradient_flow(network, (x, torch.zeros(4, 3, dtype=torch.float64)))
    with pytest.raises(ShapeError, match="loss must be a scalar"):
        gradient_flow(network, (x, y), lambda out, _: out)
    with pytest.raises(OptionError, match="does not depend on the states"):
        gradient_flow(network, (x, y), lambda out, _: out.detach().sum())
    with pytest.raises(OptionError, match="does not depend on the states"):
        gradient_flow(network, (x, y), lambda out, _: network.readout.bias.sum())
    with pytest.raises(NonFiniteError, match="not finite at step 1"):
        gradient_flow(network, (x * torch.nan, y))
    with pytest.raises(UnsupportedError, match="bidirectional"):
        gradient_flow(nn.LSTM(3, 4, bidirectional=True), (x, y))
    with pytest.raises(OptionError, match="no recurrent matrix"):
        gradient_flow(nn.Linear(3, 2), (x, y))


def test_zero_states_of_modrelu_pass_nothing_on_and_the_table_names_the_first_product_that_does():
    layer = mr.nn.RNN(1, 3, nonlinearity="modrelu", batch_first=True, constraint=mr.Orthogonal(), dtype=torch.float64)
    with torch.no_grad():
        layer.bias_l0.fill_(-0.01)
    x = torch.ones(2, 6, 1, dtype=torch.float64)
    x[:, :3] = 0
    flow = gradient_flow(layer, (x, torch.zeros(2, 6, 3, dtype=torch.float64)))
    assert flow.log10_singular_values["largest"][:3] == (-math.inf,) * 3
    assert "of the product of the last 3 Jacobians" in flow.table()


def test_the_table_and_the_pictures(generator):
    pytest.importorskip("matplotlib")
    short = gradient_flow(elman(), batch(generator, length=1)).plot()
    assert [line.get_marker() for line in short.lines] == ["."]  # a line through one point is invisible
    flow = gradient_flow(elman(), batch(generator))
    assert flow.table().isascii() and flow.table().count("\n") == 11
    assert flow.plot().get_title() == "gradient over time"
    axes = flow.plot(quantity="products")
    assert len(axes.lines) == 5 and flow.plot(axes) is axes
    with pytest.raises(OptionError, match="quantity"):
        flow.plot(quantity="loss")
