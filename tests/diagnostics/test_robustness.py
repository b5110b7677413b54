"""Scores under noise, attack and perturbed weights: closed forms, laws, and that the network is left alone."""

import copy
import math

import pytest
import torch
from support.cell_cases import CELLS
from support.robustness_cases import B, C, Last, M, T, data, network, quick
from support.seeds import seeded
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import manifold_rnn as mr
from manifold_rnn.diagnostics import recurrent_matrix, robustness
from manifold_rnn.diagnostics.attacks import Judge
from manifold_rnn.errors import NonFiniteError


class Threshold(nn.Module):
    """Answers 1 where the first number of a sequence is above 0, with a slope; closed forms hold."""

    def forward(self, x):
        first = x[:, 0, 0]
        return torch.stack([-first, first], -1)


def on_a_line():
    """Sequences whose first numbers are spread over [-1, 1], each answered right without perturbation."""
    first = (torch.arange(200) + 0.5) / 100 - 1
    x = torch.zeros(200, 4, 1)
    x[:, 0, 0] = first
    return x, (first > 0).long()


def test_a_threshold_is_broken_as_far_as_the_radius_reaches():
    x, y = on_a_line()
    result = robustness(Threshold(), (x, y), radii=(0.1, 0.25), noise=(0.5,))
    assert result.clean == 1 and result.sequences == 200
    for radius in (0.1, 0.25):
        assert result.attacks["inf", radius, 1] == pytest.approx(1 - radius, abs=0.011)
        # one number of four moves: by the radius times the root of 4
        assert result.attacks["2", radius, 1] == pytest.approx(1 - 2 * radius, abs=0.011)
        assert result.attacks["inf", radius, 10] == result.attacks["inf", radius, 1]
    # |u| <= 0.5 flips a number a < 0.5 with the probability (0.5 - a) / 1, on average 1/8
    assert result.noise["uniform", 0.5] == pytest.approx(1 - 0.125, abs=0.06)
    assert result.weights == {} and result.growth == {} and result.spectral == {}
    assert "no recurrent layer" in result.lipschitz_reason


def test_bounds_keep_perturbed_inputs_in_their_range():
    class Seen(nn.Module):
        least, most = math.inf, -math.inf

        def forward(self, x):
            seen = x.detach()
            Seen.least, Seen.most = min(Seen.least, float(seen.min())), max(Seen.most, float(seen.max()))
            return x.sum(1)

    x, y = torch.rand(30, T, C, generator=seeded(0)), torch.arange(30) % C
    robustness(Seen(), (x, y), radii=(0.5,), noise=(0.5,), bounds=(0.0, 1.0))
    assert Seen.least >= 0 and Seen.most <= 1
    robustness(Seen(), (x, y), radii=(0.5,), noise=(0.5,))
    assert Seen.least < 0 and Seen.most > 1


def test_the_longer_attack_is_never_the_weaker_one():
    for classes in (True, False):
        for seed in range(3):
            result = quick(network(seed=seed), data(classes=classes), radii=(0.1, 0.5))
            for (norm, radius, steps), score in result.attacks.items():
                one = result.attacks[norm, radius, 1]
                assert steps in (1, 3) and (score <= one if classes else score >= one)


def test_regression_is_scored_by_the_loss():
    module, (x, y) = network(), data(classes=False)
    result = quick(module, (x, y))
    assert result.measure == "loss"
    assert result.clean == pytest.approx(float((module(x) - y).square().mean().detach()), rel=1e-6)
    assert all(score > result.clean for score in result.attacks.values())
    absolute = quick(module, (x, y), loss=lambda a, b: (a - b).abs().mean())
    assert absolute.clean == pytest.approx(float((module(x) - y).abs().mean().detach()), rel=1e-6)


def test_targets_at_every_step():
    x, _ = data()
    y = torch.randint(C, (B, T), generator=seeded(0))
    module = network()
    result = quick(module, (x, y))
    expected = (module(x, every_step=True).argmax(-1) == y).double().mean()
    assert result.clean == pytest.approx(float(expected), abs=1e-9)


def test_batches_and_kinds_of_data_give_the_same_numbers():
    pair, module = data(torch.float64), network(dtype=torch.float64)
    whole = quick(module, pair)
    dataset = torch.utils.data.TensorDataset(*pair)
    for other in (dataset, torch.utils.data.DataLoader(dataset, batch_size=7)):
        again = quick(module, other, batch_size=11)
        assert again.attacks == whole.attacks and again.noise == whole.noise and again.weights == whole.weights
        for kind, curve in whole.growth.items():
            assert again.growth[kind] == pytest.approx(curve, rel=1e-6)


def everything(module):
    return {
        **{k: v.clone() for k, v in module.state_dict().items()},
        **{f"{k}.grad": p.grad for k, p in module.named_parameters()},
        **{f"{k}.training": m.training for k, m in module.named_modules()},
        **{f"{k}.requires": p.requires_grad for k, p in module.named_parameters()},
        "random": torch.get_rng_state(),
    }


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items()
    )


CONSTRAINED = {
    "free": (None, "update"),
    "orthogonal": (mr.Orthogonal(), "update"),
    "trivialized": (mr.Orthogonal(), "trivialized"),
    "dynamic": (mr.SchurDisc(), "trivialized"),
    "scaled": (mr.SpectralScaled("norm", 0.5), "update"),
    "enrnn": (mr.block_triangular(mr.Orthogonal(), mr.StickyDisc()), "trivialized"),
}


@pytest.mark.parametrize("name", CONSTRAINED)
def test_the_network_is_left_alone_also_after_an_error(name):
    module = network(*CONSTRAINED[name])
    module.layer.dropout = 0.5
    module.readout.eval()
    module(data()[0]).sum().backward()
    before = everything(module)
    first, second = quick(module), quick(module)
    assert first == second and same(before, everything(module))
    with pytest.raises(ZeroDivisionError):
        quick(module, loss=lambda *_: 1 / 0)
    assert same(before, everything(module))
    optimizer = mr.optim.RiemannianSGD(module.parameters(), lr=0.1)
    optimizer.step()
    assert all(float(entry.defect() or 0) < 1e-5 for _, entry in mr.constraints.parametrizations(module))


@pytest.mark.parametrize("name", CONSTRAINED)
def test_what_is_perturbed_is_the_computed_weight(name):
    """The scores equal those of a plain layer that has the computed weight."""
    module, pair = network(*CONSTRAINED[name]), data()
    plain = network()
    with torch.no_grad():
        for key in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(plain.layer, key).copy_(getattr(module.layer, key))
        plain.readout.load_state_dict(module.readout.state_dict())
    ours, theirs = quick(module, pair, weight_radius=2.0), quick(plain, pair, weight_radius=2.0)
    assert ours.weights == theirs.weights and ours.attacks == theirs.attacks
    assert ours.spectral == pytest.approx(theirs.spectral, rel=1e-5)
    assert len({ours.clean, *ours.weights.values()}) > 1


def test_random_perturbations_have_the_norm_and_their_mean_is_taken():
    module, (x, y) = network(), data()
    W = recurrent_matrix(module).weight
    g, scores = torch.Generator().manual_seed(5), []
    for _ in range(3):
        E = torch.randn(W.shape, dtype=torch.float64, generator=g)
        other = copy.deepcopy(module)
        other.layer.weight_hh_l0.data.add_(1.5 * E / torch.linalg.matrix_norm(E, 2))
        scores.append(float((other(x).argmax(-1) == y).double().mean()))
    assert quick(module, weight_radius=1.5, draws=3, seed=5).weights["random"] == pytest.approx(sum(scores) / 3)


def test_the_growth_is_that_of_the_states_and_below_the_certified_bound():
    module = network(mr.Orthogonal(), nonlinearity="relu", dtype=torch.float64)
    result = quick(module, data(torch.float64))
    x, _ = data(torch.float64)
    d = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    change = torch.linalg.vector_norm(module.layer(x + d)[0] - module.layer(x)[0], dim=-1)
    ratios = change.detach() / torch.linalg.vector_norm(d.flatten(1), dim=1)[:, None]
    assert result.growth["random"] == pytest.approx(ratios.amax(0).tolist(), rel=1e-6)
    assert len(result.growth["random"]) == T and result.largest_growth <= result.lipschitz


def test_one_linear_unit_has_its_growth_in_closed_form():
    torch.manual_seed(0)
    layer = mr.nn.RNN(1, 1, nonlinearity="modrelu", bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(1.0)
        layer.weight_ih_l0.fill_(1.0)
    module = mr.zoo.Network(layer, 1)
    x, y = torch.zeros(1, T, 1, dtype=torch.float64), torch.full((1, 1), 100.0, dtype=torch.float64)
    result = quick(module, (x, y))
    # the sign of the gradient is the same at every step, so that h_t moves by t r and d by r sqrt T
    assert result.growth["gradient"] == pytest.approx([t / math.sqrt(T) for t in range(1, T + 1)], rel=1e-9)
    assert result.lipschitz == pytest.approx(math.sqrt(T), rel=1e-12)


def test_a_network_that_changes_its_inputs_has_no_bound():
    module = nn.Sequential(nn.Linear(M, M), network())
    result = quick(module)
    assert result.lipschitz is None and "transforms its inputs" in result.lipschitz_reason
    assert set(result.growth) == {"random", "gradient"}


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("view", [None, "update", "trivialized"])
def test_layers_of_torch(kind, view):
    torch.manual_seed(0)
    layer = kind(M, 5, batch_first=True, num_layers=2, dropout=0.3)
    gates = layer.weight_hh_l0.shape[0] // 5
    if view:
        mr.constrain(layer, "weight_hh_l0", mr.Orthogonal(), blocks=gates, view=view)
    result = quick(Last(layer, 5), weight_radius=3.0)
    assert set(result.weights) == {"random", "worst case"} and len(result.growth["gradient"]) == T
    assert (result.lipschitz is not None) == (kind is nn.RNN)
    assert result.spectral["perturbed radius"] > result.spectral["radius"]


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_every_cell(cell):
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.complex64):
        module = mr.zoo.Network(mr.nn.Layer(cell, M, 8, batch_first=True, dtype=dtype), C)
        result = quick(module, data(dtype), weight_radius=5.0)
        assert 0 <= result.clean <= 1 and all(map(math.isfinite, result.growth["random"]))
        assert bool(result.weights) == bool(cell.gates) == (not result.weights_reason)
        if cell.gates:
            assert result.spectral["perturbed radius"] >= result.spectral["radius"] + 5.0 - 1e-4


def test_a_complex_network_is_as_robust_as_its_real_form():
    torch.manual_seed(0)
    options = {"nonlinearity": "modrelu", "bias": False, "batch_first": True}
    unitary = mr.zoo.Network(mr.nn.RNN(M, 4, dtype=torch.complex128, **options), C)
    real = mr.zoo.Network(mr.nn.RNN(2 * M, 8, dtype=torch.float64, **options), C)
    with torch.no_grad():
        for key in ("weight_ih_l0", "weight_hh_l0"):
            A = getattr(unitary.layer, key)
            form = torch.cat([torch.cat([A.real, -A.imag], 1), torch.cat([A.imag, A.real], 1)], 0)
            getattr(real.layer, key).copy_(form)
        real.readout.load_state_dict(unitary.readout.state_dict())
    x, y = data(torch.complex128)
    ours = quick(unitary, (x, y), weight_radius=0, norms=("2", "inf"))
    theirs = quick(real, (mr.nn.real_features(x), y), weight_radius=0, norms=("2", "inf"))
    assert ours.attacks == theirs.attacks and ours.clean == theirs.clean
    assert ours.lipschitz == pytest.approx(theirs.lipschitz, rel=1e-12)
    assert ours.spectral == pytest.approx(theirs.spectral, rel=1e-12)


def test_one_sequence_of_one_step():
    result = quick(network(), (torch.randn(1, 1, M, generator=seeded(0)), torch.tensor([2])))
    assert result.sequences == 1 and len(result.growth["random"]) == 1 and result.clean in (0.0, 1.0)


def test_where_the_gradient_is_zero_nothing_moves():
    class Constant(nn.Module):
        def forward(self, x):
            return 0 * x.sum((1, 2))[:, None] + torch.eye(C)[0]

    class Rounded(nn.Module):
        def forward(self, x):
            return (x[:, 0] > 0).float()

    result = quick(Constant(), (torch.randn(B, T, M), torch.zeros(B, dtype=torch.long)))
    assert set(result.attacks.values()) == {1.0}
    result = quick(Rounded(), (torch.rand(B, T, M), torch.zeros(B, dtype=torch.long)))
    assert set(result.attacks.values()) == {result.clean}


def test_a_tiny_gradient_is_followed():
    class Faint(Threshold):
        def forward(self, x):
            return 1e-30 * super().forward(x)

    x, y = on_a_line()
    result = robustness(Faint(), (x, y), loss=lambda out, y: (out[range(len(y)), 1 - y]).mean(), radii=(0.25,))
    assert result.attacks["2", 0.25, 1] == pytest.approx(0.5, abs=0.011)


def test_the_table_has_a_line_for_each_number():
    table = quick(network()).table()
    lines = table.splitlines()
    assert table.isascii() and len({line.index(line.split()[-1]) for line in lines[2:4]}) == 1
    for words in (
        "no perturbation",
        "gaussian noise 0.2",
        "L-inf 0.1, 1 step",
        "L2 0.1, 3 steps",
        "random E, norm 0.3",
    ):
        assert sum(words in line for line in lines) == 1
    assert sum("growth" in line for line in lines) == 3 and max(map(len, lines)) < 120
    loss = quick(mr.zoo.Network(mr.nn.LSTM(M, 4, batch_first=True), C), data(classes=False)).table()
    assert loss.startswith("robustness: loss of 40") and "none" in loss


def test_the_picture_has_a_bar_for_each_score():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    result = quick(network())
    axes = result.plot()
    assert len(axes.patches) == sum(map(len, result.scores().values()))
    assert axes.get_title() and axes.get_xlabel() == "accuracy"
    own = Figure().add_subplot()
    assert quick(Threshold(), on_a_line()).plot(own) is own


class Broken(nn.Module):
    """Answers 0, and NaN where the first number is at least a limit."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        first = x[:, 0, :1]
        return torch.cat([first.exp(), -first.exp()], 1).where(first < self.limit, math.nan)


def test_an_answer_of_nan_is_wrong_and_one_without_perturbation_is_an_error():
    x, y = on_a_line()
    result = robustness(Broken(1.0), (x, y * 0), radii=(), noise=(0.5,))
    assert result.clean == 1 and result.noise["uniform", 0.5] < 0.95
    losses = robustness(Broken(1.0), (x, torch.zeros(200, 2)), radii=(), noise=(0.5,))
    assert losses.noise["uniform", 0.5] == math.inf
    with pytest.raises(NonFiniteError, match="100 of"):
        robustness(Broken(0.5), (x, y * 0))


def test_an_attack_of_some_steps_takes_as_many_gradients(monkeypatch):
    taken, gradient = [], Judge.gradient
    monkeypatch.setattr(Judge, "gradient", lambda *args: taken.append(1) or gradient(*args))
    Judge.of(network(), *data(), None, B, None, "robustness").attacked("inf", 0.1, 10)
    assert len(taken) == 10


def test_random_numbers_of_torch_and_of_a_loader_are_left_alone():
    class Drawing(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :C] + torch.rand(len(x), C)

    generator = seeded(5)
    loader = DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True, generator=generator)
    before = generator.get_state(), torch.get_rng_state()
    quick(Drawing(), loader)
    assert torch.equal(before[0], generator.get_state()) and torch.equal(before[1], torch.get_rng_state())
