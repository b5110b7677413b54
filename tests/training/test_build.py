"""Networks and constraints from settings, and hidden sizes that meet a budget."""

import pytest
import torch

import manifold_rnn as mr
from manifold_rnn import diagnostics
from manifold_rnn.constraints import degrees_of_freedom
from manifold_rnn.errors import ManifoldError, OptionError
from manifold_rnn.tasks import memory
from manifold_rnn.training import NetworkSettings, build, build_network
from manifold_rnn.training.build import build_constraint, closest_hidden_size
from manifold_rnn.training.choices import cells, constraints_by_name, option_names

INSIDE = {
    "FixedBase": {"manifold": "Orthogonal", "negatives": 3},
    "PhaseScaled": {"manifold": "Unitary"},
    "block_triangular": {"top": "Orthogonal", "bottom": "StickyDisc"},
}


def outputs(settings, **options):
    torch.manual_seed(0)
    network = build_network(settings, 2, 3, **options)
    x = torch.randn(4, 5, 2, dtype=options.get("dtype", torch.float32))
    y = network(x)
    y.square().sum().backward()
    assert y.shape == (4, 3) and y.dtype == x.dtype
    return network


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("view", [None, "trivialized"])
@pytest.mark.parametrize("name", constraints_by_name())
def test_every_constraint_can_be_named(name, view, dtype):
    constraint = {"name": name, **INSIDE.get(name, {})}
    settings = NetworkSettings(cell="Elman", hidden_size=8, nonlinearity="modrelu", constraint=constraint, view=view)
    network = outputs(settings, dtype=dtype)
    assert all(p.grad is not None for p in network.parameters())
    largest = diagnostics.defects(network).largest
    assert largest is None or largest < 1e-4


@pytest.mark.parametrize("name", cells())
def test_every_cell_can_be_named(name):
    disc = {"constraint": "DiagonalDisc"} if name == "LRU" else {}
    outputs(NetworkSettings(cell=name, hidden_size=8, num_layers=2, **disc))


@pytest.mark.parametrize("name", mr.zoo.available())
def test_every_published_network_can_be_named(name):
    network = outputs(NetworkSettings(zoo=name, hidden_size=8), dtype=torch.float64)
    torch.manual_seed(0)
    same = getattr(mr.zoo, name)(2, 8, 3, dtype=torch.float64)
    for (key, value), (_, expected) in zip(network.state_dict().items(), same.state_dict().items(), strict=True):
        assert torch.equal(value, expected), key


def test_retraction_view_gates_and_base_reach_the_weights():
    options = {"constraint": "SpecialOrthogonal", "retraction": "exp", "gates": ["g", "o"]}
    network = build_network(NetworkSettings(cell="LSTM", hidden_size=4, view="trivialized", **options), 2, 3)
    blocks = network.layer.weight_hh_l0.detach().view(4, 4, 4)
    defects = mr.linalg.defect(blocks)
    assert defects[2:].max() < 1e-5 < 1e-2 < defects[:2].min()
    options = {"constraint": "Orthogonal", "retraction": "polar", "rebase_every": 3}
    network = build_network(NetworkSettings(cell="Elman", view="trivialized", **options), 2, 3)
    entry = network.layer.constraints["weight_hh_l0"]
    assert entry.rebase_every == 3 and entry.manifold.retraction.name == "polar"
    network = build_network(NetworkSettings(zoo="dtriv", rebase_every=0), 2, 3)
    assert network.layer.constraints["weight_hh_l0"].rebase_every is None


def test_constraints_inside_a_constraint_get_the_retraction_and_may_have_options():
    bottom = {"name": "UnitDisc", "radius": 0.5}
    built = build_constraint({"name": "block_triangular", "top": "Orthogonal", "bottom": bottom}, "exp")
    assert built.top.retraction.name == "exp" and built.bottom.radius == 0.5


@pytest.mark.parametrize("constraint", [{"name": "FixedBase", "manifold": "Unitary"}, "SpecialUnitary", "DiagonalDisc"])
def test_a_constraint_on_complex_matrices_makes_the_cell_complex(constraint):
    assert outputs(NetworkSettings(cell="Elman", hidden_size=4, constraint=constraint)).layer.weight_ih_l0.is_complex()


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_the_scan_is_the_one_asked_for(backend):
    for settings in (
        NetworkSettings(zoo="exprnn", hidden_size=4, backend=backend, recompute=True),
        NetworkSettings(cell="Elman", hidden_size=4, backend=backend, recompute=True),
    ):
        layer = outputs(settings).layer
        assert layer.backend == backend and layer.recompute


def test_initializations_and_hosts_have_names():
    torch.manual_seed(0)
    network = build_network(NetworkSettings(zoo="exprnn", hidden_size=6, options={"angles": "henaff"}), 2, 3)
    torch.manual_seed(0)
    same = mr.zoo.exprnn(2, 6, 3, angles=mr.nn.init.henaff_)
    assert torch.equal(network.layer.weight_hh_l0, same.layer.weight_hh_l0)
    network = build_network(NetworkSettings(cell="Momentum", hidden_size=6, options={"host": "GRU"}), 2, 3)
    assert isinstance(network.layer.cell.host, mr.nn.cells.GRU)


REFUSED = {
    "an option of a published network of another kind": (
        {"zoo": "scornn", "options": {"negatives": "many"}},
        "`network.options.negatives` needs an integer",
    ),
    "an unknown initialization": ({"zoo": "exprnn", "options": {"angles": "hennaf"}}, "Did you mean `henaff`"),
    "an unknown host": ({"cell": "Momentum", "options": {"host": "LTSM"}}, "Did you mean `LSTM`"),
    "a constraint of kernels": ({"cell": "Elman", "constraint": "OrthogonalConv"}, "Got 'OrthogonalConv'"),
    "a constraint that needs another": ({"cell": "Elman", "constraint": "FixedBase"}, "manifold"),
    "an unknown constraint inside another": (
        {"cell": "Elman", "constraint": {"name": "FixedBase", "manifold": "Ortogonal"}},
        "Did you mean `Orthogonal`",
    ),
    "a constraint without a name": ({"cell": "Elman", "constraint": {"radius": 1}}, "a mapping with the key `name`"),
    "real numbers for a complex constraint": (
        {"cell": "Elman", "constraint": "Unitary", "numbers": "real"},
        "complex64 or complex128",
    ),
    "an option of a constraint that it does not have": (
        {"cell": "Elman", "constraint": {"name": "UnitDisc", "radios": 1}},
        "Unknown key `network.constraint.radios`. Did you mean `network.constraint.radius`?",
    ),
    "a constraint for a published network": ({"zoo": "lem", "constraint": "Orthogonal"}, "needs a `network.cell`"),
    "layers for a published network": ({"zoo": "lem", "num_layers": 2}, "needs a `network.cell`"),
    "a base that does not move": (
        {"cell": "Elman", "constraint": "Orthogonal", "view": "update", "rebase_every": 3},
        "rebase_every",
    ),
    "a retraction of nothing": ({"cell": "LSTM", "retraction": "cayley"}, "`network.retraction` needs a `network.con"),
    "a retraction of a constraint without": (
        {"cell": "LSTM", "constraint": "Contraction", "retraction": "qr"},
        "`network.retraction` needs a network with this option",
    ),
    "a view of nothing": ({"cell": "LSTM", "view": "trivialized"}, "`network.view` needs a `network.constraint`"),
    "a base of nothing": ({"cell": "LSTM", "rebase_every": 1}, "needs a `network.constraint`. Got 1."),
    "gates for nothing": ({"cell": "LSTM", "gates": ["f"]}, "needs a `network.constraint`. Got ['f']."),
    "a list of cells": ({"cell": ["LSTM"]}, "`network.cell` needs one of"),
    "more units than memory": ({"cell": "LSTM", "hidden_size": 10**8}, "fits into memory. Got 100000000."),
    "more units than numbers": ({"zoo": "lem", "hidden_size": 10**20}, "an integer from 1 to 2^31 - 1. Got 1000000"),
    "an odd size": ({"cell": "Elman", "constraint": "UnitaryRealForm", "hidden_size": 7}, "even"),
    "a budget of nothing": ({"zoo": "lem", "budget": 0}, "`network.budget` needs an integer of at least 1. Got 0."),
}


@pytest.mark.parametrize(("network", "answer"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_few_words(network, answer):
    with pytest.raises(ManifoldError) as caught:
        build_network(NetworkSettings(**network), 2, 3)
    assert answer in " ".join(str(caught.value).split())
    assert len(str(caught.value)) <= 400


def lstm(size):
    return torch.nn.Sequential(torch.nn.LSTM(1, size), torch.nn.Linear(size, 10))


@pytest.mark.parametrize("budget", [1, 50, 365, 366, 2794, 20_000])
def test_no_other_hidden_size_is_closer_to_the_budget(budget):
    chosen = closest_hidden_size(lstm, budget)
    gaps = {size: abs(degrees_of_freedom(lstm(size)) - budget) for size in range(2, 80)}
    assert gaps[chosen] == min(gaps.values())


@pytest.mark.parametrize("network", [{"zoo": "scornn"}, {"cell": "Elman", "constraint": "Orthogonal"}])
def test_a_budget_beyond_memory_is_refused_soon(network, monkeypatch):
    builds, real = [], build._of_size
    monkeypatch.setattr(build, "_LARGE", 256)
    monkeypatch.setattr(build, "_of_size", lambda *args: builds.append(args[-1]) or real(*args))
    monkeypatch.setattr(memory, "machine_memory", lambda: 8 * 2**20)
    with pytest.raises(OptionError, match=r"`network.budget` needs a network that fits into memory. Got 1000000"):
        build_network(NetworkSettings(budget=10**6, **network), 2, 3)
    assert len(builds) < 300


def test_a_large_network_of_a_budget_is_that_of_the_numbers_themselves(monkeypatch):
    settings = NetworkSettings(cell="LSTM", constraint="Orthogonal", budget=400_000)
    size = build_network(settings, 2, 3).layer.hidden_size
    monkeypatch.setattr(build, "_LARGE", 129)
    assert build_network(settings, 2, 3).layer.hidden_size == size


def test_a_budget_below_one_is_refused():
    with pytest.raises(OptionError, match="Got 0"):
        closest_hidden_size(lstm, 0)


@pytest.mark.parametrize("network", [{"zoo": "goru"}, {"cell": "LSTM"}, {"cell": "Elman", "constraint": "Unitary"}])
def test_a_budget_sets_the_hidden_size_and_draws_no_random_number(network):
    torch.manual_seed(0)
    built = build_network(NetworkSettings(budget=2000, **network), 1, 10)
    assert abs(degrees_of_freedom(built) - 2000) < 700  # goru takes powers of 2 only
    torch.manual_seed(0)
    same = build_network(NetworkSettings(hidden_size=built.layer.hidden_size, **network), 1, 10)
    assert torch.equal(built.layer.weight_hh_l0, same.layer.weight_hh_l0)


def test_options_are_those_of_the_signature():
    assert option_names(mr.zoo.lem) == ["time_step"]
