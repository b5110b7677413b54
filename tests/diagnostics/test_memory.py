"""Memory of layers whose memory is known."""

import importlib

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn import diagnostics
from manifold_rnn.diagnostics import Memory, memory
from manifold_rnn.errors import DtypeError, NonFiniteError, OptionError, ShapeError


def linear(W, V):
    layer = mr.nn.RNN(V.shape[1], len(W), nonlinearity=lambda z: z, bias=False, batch_first=True, dtype=W.dtype)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(W)
        layer.weight_ih_l0.copy_(V)
    return layer


def signal_to_noise(W, v=None, **options):
    head = torch.eye(len(W) if isinstance(W, torch.Tensor) else 2)[:1]
    return diagnostics.signal_to_noise(W, head[0] if v is None and len(head) else v, **options)


def zeros(*shape, dtype=torch.float64):
    return torch.zeros(shape, dtype=dtype)


def delay_chain(n, m=1, dtype=torch.float64):
    return linear(mr.nn.init.chain_(zeros(n, n, dtype=dtype), 1.0), mr.nn.init.source_(zeros(n, m, dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_a_delay_chain_recalls_as_many_inputs_as_it_has_units(dtype):
    result = memory(delay_chain(6, dtype=dtype), delays=10)
    (recall,) = result.recall
    assert min(recall[:6]) > 1 - 1e-9 and max(map(abs, recall[6:])) < 0.02
    assert result.delay == 5 and result.total == pytest.approx(6, abs=0.1)
    assert result.states == (12 if dtype.is_complex else 6)


def test_each_feature_has_its_own_capacity():
    """Feature 0 enters at the head of the chain, feature 1 two units later and thus leaves earlier."""
    layer = delay_chain(6, 2)
    with torch.no_grad():
        layer.weight_hh_l0[2, 1] = 0.0  # two chains, of 2 and of 4 units
        layer.weight_ih_l0.zero_()[0, 0] = layer.weight_ih_l0[2, 1] = 1.0
    result = memory(layer, delays=8)
    assert result.capacity == pytest.approx((2, 4), abs=0.1) and len(result.recall) == 2


def test_under_noise_an_orthogonal_network_recalls_what_the_closed_form_says(generator):
    """A scaled cyclic shift: C is diagonal. The other inputs of the layer are the noise of each unit."""
    n, a, noise = 5, 0.9, 0.3
    W = a * torch.eye(n, dtype=torch.float64).roll(1, 0)
    C = noise / (1 - a**2) + torch.tensor([a ** (2 * i) for i in range(n)], dtype=torch.float64) / (1 - a ** (2 * n))
    expected = [a ** (2 * k) / float(C[k % n]) for k in range(11)]
    result = signal_to_noise(W, noise=noise, delays=10)
    assert result.recall == pytest.approx(expected, rel=1e-10)
    assert result.ratio == pytest.approx([r / (1 - r) for r in expected], rel=1e-10)
    assert result.power == pytest.approx(1 / (n * noise), rel=1e-10)
    V = torch.cat([torch.eye(n, 1, dtype=torch.float64), noise**0.5 * torch.eye(n, dtype=torch.float64)], 1)
    measured = memory(linear(W, V), delays=10, steps=1500)
    assert measured.recall[0] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("gain", [0.95, 1.0, 1.05])
def test_the_ratio_of_a_chain_has_a_closed_form(gain):
    n, noise = 20, 0.7
    W = mr.nn.init.chain_(zeros(n, n), gain)
    result = signal_to_noise(W, noise=noise, delays=25)
    sums = torch.tensor([gain ** (2 * k) for k in range(n)], dtype=torch.float64).cumsum(0)
    expected = [gain ** (2 * k) / (noise * float(sums[k])) for k in range(n)] + [0.0] * 6
    assert result.ratio == pytest.approx(expected, rel=1e-9)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    scrambled = signal_to_noise(W[order][:, order], torch.eye(n)[0][order], noise=noise, delays=25)
    assert scrambled.ratio == pytest.approx(result.ratio, rel=1e-9)


@pytest.mark.parametrize("noise", [1e-6, 1e-20])
def test_the_ratio_under_faint_noise_is_not_bounded_by_rounding(noise):
    n, gain = 20, 0.95
    sums = torch.tensor([gain ** (2 * k) for k in range(n)], dtype=torch.float64).cumsum(0)
    result = signal_to_noise(mr.nn.init.chain_(zeros(n, n), gain), noise=noise, delays=n - 1)
    assert result.ratio == pytest.approx([gain ** (2 * k) / (noise * float(sums[k])) for k in range(n)], rel=1e-9)


def test_a_chain_beats_orthogonal_matrices_under_noise_but_not_against_its_direction():
    W = mr.nn.init.chain_(zeros(30, 30), 1.0)
    Q = 0.99 * mr.Orthogonal().random(30, 30, dtype=torch.float64)
    chain, orthogonal = signal_to_noise(W), signal_to_noise(Q, delays=600)
    assert chain.total > 3.9 and 0.5 < orthogonal.total <= 1 and signal_to_noise(W.T).total < 1.001
    faint = signal_to_noise(Q, noise=1e6, delays=2000)
    assert faint.total * 1e6 == pytest.approx(1, abs=1e-5)  # normal: the total of the Fisher memory is 1


def test_complex_recurrences_and_their_real_form_have_the_same_numbers():
    W = 0.8 * mr.Unitary().random(4, 4, dtype=torch.complex128) + 0.1 * torch.eye(4).roll(1, 0)
    V = torch.randn(4, 1, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    real_W = torch.cat([torch.cat([W.real, -W.imag], 1), torch.cat([W.imag, W.real], 1)])
    real_V = torch.cat([V.real, V.imag])
    one, other = signal_to_noise(W, V[:, 0], delays=10), signal_to_noise(real_W, real_V[:, 0], delays=10)
    assert one == other
    a, b = memory(linear(W, V), delays=10), memory(linear(real_W, real_V), delays=10)
    assert a.states == b.states == 8 and a.recall[0] == pytest.approx(b.recall[0], abs=1e-6)


def test_trained_networks_layers_of_torch_and_functions(generator):
    network = mr.zoo.exprnn(1, 8, 2)
    before, random = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    result = memory(network, steps=100)
    assert result == memory(network.layer, steps=100) and result != memory(network, steps=100, seed=1)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items()) and network.training
    assert torch.equal(torch.get_rng_state(), random)
    assert 0 < result.total < 8.5 and len(result.mean) == 9
    lstm = nn.LSTM(2, 5, num_layers=2)
    assert len(memory(lstm, steps=60).recall) == 2
    x = torch.randn(60, 6, 2, generator=generator)
    assert memory(lstm, x, delays=3).rows == (57 * 4, 57, 57)
    chain = delay_chain(3)
    x = torch.randn(6, 60, 1, dtype=torch.float64, generator=generator)
    assert memory(chain, x) == memory(lambda x: chain(x)[0], x) == memory(nn.Sequential(nn.Identity(), chain), x)


def test_the_recall_does_not_depend_on_how_many_delays_are_read_at_a_time(monkeypatch):
    layer = mr.nn.RNN(3, 7, dtype=torch.float64)
    whole = memory(layer, steps=60)
    monkeypatch.setattr(importlib.import_module("manifold_rnn.diagnostics.memory"), "_TARGETS", 2000)  # 2 delays
    assert memory(layer, steps=60).recall == tuple(pytest.approx(row, abs=1e-12) for row in whole.recall)


@pytest.mark.parametrize("scale", [1e-150, 1e-300, 1e200])
def test_the_recall_does_not_depend_on_the_scale_of_inputs(scale):
    one, other = (memory(delay_chain(4), delays=6, scale=size, steps=100) for size in (1.0, scale))
    assert other.recall[0] == pytest.approx(one.recall[0], abs=1e-9)


def test_embedded_inputs_and_single_sequences(generator):
    network = nn.Sequential(nn.Embedding(7, 3), nn.GRU(3, 10, batch_first=True))
    tokens = torch.randint(7, (1, 300), generator=generator)
    result = memory(network, tokens, delays=2)
    assert len(result.recall) == 3 and sum(result.rows) == 298 and result.mean[0] > 0.5
    x = torch.randn(8, 30, 2, dtype=torch.float64, generator=generator)
    x[..., 1] = 0.25  # a constant has nothing to recall
    recall = memory(delay_chain(3, 2), x).recall
    assert recall[1] == (0.0,) * 4 and min(recall[0][:2]) > 0.99


def test_a_state_that_never_changes_recalls_nothing():
    layer = mr.nn.RNN(1, 3, nonlinearity="relu", dtype=torch.float64)
    nn.init.constant_(layer.bias_hh_l0, -100.0)
    assert memory(layer, steps=50).total < 0.01


class Looping(nn.Module):
    """Calls its layer once for each step."""

    def __init__(self):
        super().__init__()
        self.layer = mr.nn.RNN(1, 3, batch_first=True, dtype=torch.float64)

    def forward(self, x):
        state, outputs = None, []
        for x_t in x.split(1, 1):
            y, state = self.layer(x_t, state)
            outputs.append(y)
        return torch.cat(outputs, 1)


def test_a_network_that_calls_its_layer_in_each_step_is_refused_and_its_function_is_not(generator):
    network, x = Looping(), torch.randn(8, 20, 1, dtype=torch.float64, generator=generator)
    for measure in (memory, diagnostics.coverage):
        with pytest.raises(OptionError, match="called its layer RNN 20 times"):
            measure(network, x)
    assert memory(lambda x: network(x), x) == memory(network.layer, x)
    data = x, torch.zeros(8, 20, 3, dtype=torch.float64)
    result = diagnostics.robustness(network, data, radii=(0.1,), norms=("inf",))
    assert result.growth == {} and result.lipschitz is None and "more than once" in result.lipschitz_reason
    assert result.attacks["inf", 0.1, 10] >= result.clean and "worst case" in result.weights


def test_bad_input_is_answered():
    layer = delay_chain(3)
    for options, words in [
        ({"steps": 1}, "`steps`"),
        ({"sequences": 0}, "`sequences`"),
        ({"delays": -1}, "`delays`"),
        ({"delays": 500}, "`delays`"),
        ({"scale": 0.0}, "`scale`"),
        ({"scale": torch.nan}, "`scale`"),
    ]:
        with pytest.raises(OptionError, match=words):
            memory(layer, **options)
    with pytest.raises(OptionError, match="Pass inputs as `data`"):
        memory(nn.Linear(1, 1))
    with pytest.raises(OptionError, match="one tensor"):
        memory(layer, (torch.zeros(1), torch.zeros(1)))
    with pytest.raises(ShapeError, match=r"shape \(B, T, n\)"):
        memory(nn.Flatten(), torch.zeros(2, 3, 4))
    with pytest.raises(ShapeError, match="same sequences and time steps"):
        memory(lambda x: x[:, 1:], torch.zeros(4, 9, 1))
    with pytest.raises(ShapeError, match="empty batch"):
        memory(layer, zeros(0, 12, 1))
    with pytest.raises(ShapeError, match="needs enough rows"):
        memory(layer, zeros(2, 4, 1), delays=2)
    with pytest.raises(NonFiniteError, match="finite inputs"):
        memory(layer, zeros(4, 9, 1) + torch.nan)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="finite states"):
        memory(layer)
    W = 0.5 * torch.eye(2)
    for call, error, words in [
        (lambda: signal_to_noise(torch.ones(2, 3)), ShapeError, "square"),
        (lambda: signal_to_noise(torch.zeros(0, 0)), ShapeError, "square"),
        (lambda: signal_to_noise(W * torch.nan), NonFiniteError, "finite"),
        (lambda: signal_to_noise(2 * W), OptionError, "spectral radius below 1"),
        (lambda: signal_to_noise(W, torch.ones(3)), ShapeError, "one entry for each unit"),
        (lambda: signal_to_noise(W, torch.ones(2) / 0), NonFiniteError, "finite"),
        (lambda: signal_to_noise(W, torch.ones(2) * 1j), DtypeError, "complex"),
        (lambda: signal_to_noise(W, [1.0, 0.0]), OptionError, "vector"),
        (lambda: signal_to_noise(W, noise="1"), OptionError, "`noise`"),
        (lambda: signal_to_noise(W, noise=0.0), OptionError, "`noise`"),
        (lambda: signal_to_noise(W, delays=-1), OptionError, "`delays`"),
        (lambda: signal_to_noise(nn.Linear(2, 2)), OptionError, "no recurrent matrix"),
    ]:
        with pytest.raises(error, match=words):
            call()
    assert signal_to_noise(0.5 * torch.eye(1)).recall[0] == pytest.approx(0.375)  # n = 1: (1 - a^2) / 2
    defective = torch.tensor([[0.5, 1.0], [0.0, 0.5]])
    assert 0 < signal_to_noise(defective).total < 3


def test_tables_and_pictures():
    pytest.importorskip("matplotlib")
    result = Memory(((1.0, 0.6, 0.2), (1.0, 0.2, -0.1)), 4, (30, 10, 10))
    assert result.capacity == pytest.approx((1.8, 1.2)) and result.delay == 0 and result.table().isascii()
    assert "3" in result.table() and len(result.plot().lines) == 2
    many = Memory(((1.0, 0.5),) * 9, 4, (30, 10, 10))
    axes = many.plot()
    assert len(axes.lines) == 1 and many.plot(axes) is axes
    ratio = signal_to_noise(mr.nn.init.chain_(torch.empty(5, 5), 1.0))
    assert "chain" not in ratio.table() and ratio.table().isascii()
    assert ratio.plot().get_xlabel() == "delay k"
    (point,) = signal_to_noise(0.5 * torch.eye(2), delays=0).plot().lines
    assert point.get_marker() == "."
