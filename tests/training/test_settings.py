"""What settings can say, and the networks that are built from them."""

import pytest

pytest.importorskip("lightning")
import torch

import manifold_rnn as mr
from manifold_rnn.errors import ManifoldError, OptionError
from manifold_rnn.training import NetworkSettings, as_mapping, build_network, read_run
from manifold_rnn.training.catalogue import CELLS, CONSTRAINTS, TASKS, options_of
from manifold_rnn.training.inspection import worst_defect

INSIDE = {
    "fixed_base": {"manifold": "orthogonal", "negatives": 3},
    "phase_scaled": {"manifold": "unitary"},
    "block_triangular": {"top": "orthogonal", "bottom": "sticky_disc"},
}
NEEDED = {"characters": {"path": "text.txt", "validation_path": "v.txt", "test_path": "t.txt"}}


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
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_constraint_can_be_named(name, view, dtype):
    options = {"constraint": name, "constraint_options": INSIDE.get(name, {}), "view": view}
    network = outputs(NetworkSettings(cell="elman", hidden_size=8, nonlinearity="modrelu", **options), dtype=dtype)
    assert all(p.grad is not None for p in network.parameters())
    defect = worst_defect(network)
    assert defect is None or defect < 1e-4


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_can_be_named(name):
    diagonal = {"constraint": "diagonal_disc", "view": "trivialized"}
    outputs(NetworkSettings(cell=name, hidden_size=8, num_layers=2, **(diagonal if name == "lru" else {})))


@pytest.mark.parametrize("name", mr.zoo.available())
def test_every_network_of_the_zoo_can_be_named(name):
    network = outputs(NetworkSettings(zoo=name, hidden_size=8), dtype=torch.float64)
    torch.manual_seed(0)
    same = getattr(mr.zoo, name)(2, 8, 3, dtype=torch.float64)
    for (key, value), (_, wanted) in zip(network.state_dict().items(), same.state_dict().items(), strict=True):
        assert torch.equal(value, wanted), key


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_named_and_every_option_comes_back(name):
    mapping = {"task": {"name": name, **NEEDED.get(name, {})}, "network": {"zoo": "lem"}}
    settings = read_run(mapping)
    assert type(settings.task) is TASKS[name]
    written = as_mapping(settings)
    assert read_run(written) == settings and as_mapping(read_run(written)) == written


def test_a_field_that_a_task_needs_is_asked_for():
    with pytest.raises(OptionError, match=r"task.path is needed by Characters"):
        read_run({"task": {"name": "characters"}, "network": {"zoo": "lem"}})


def test_retraction_view_gates_and_base_reach_the_weights():
    options = {"constraint": "special_orthogonal", "retraction": "exp", "gates": ["g", "o"]}
    network = build_network(NetworkSettings(cell="lstm", hidden_size=4, view="trivialized", **options), 2, 3)
    blocks = network.layer.weight_hh_l0.detach().view(4, 4, 4)
    defects = mr.linalg.defect(blocks)
    assert defects[2:].max() < 1e-5 < 1e-2 < defects[:2].min()
    options = {"constraint": "orthogonal", "retraction": "polar", "rebase_every": 3}
    network = build_network(NetworkSettings(cell="elman", view="trivialized", **options), 2, 3)
    entry = network.layer.constraints["weight_hh_l0"]
    assert entry.rebase_every == 3 and entry.manifold.retraction.name == "polar"
    network = build_network(NetworkSettings(zoo="dtriv", rebase_every=0), 2, 3)
    assert network.layer.constraints["weight_hh_l0"].rebase_every is None


def test_blocks_inside_a_constraint_get_the_retraction():
    options = {"constraint": "block_triangular", "constraint_options": INSIDE["block_triangular"], "retraction": "exp"}
    network = build_network(NetworkSettings(cell="elman", hidden_size=6, **options), 2, 3)
    assert network.layer.constraints["weight_hh_l0"].members.top.manifold.retraction.name == "exp"


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_the_scan_is_the_one_asked_for(backend):
    for settings in (
        NetworkSettings(zoo="exprnn", hidden_size=4, backend=backend, recompute=True),
        NetworkSettings(cell="elman", hidden_size=4, backend=backend, recompute=True),
    ):
        layer = outputs(settings).layer
        assert layer.backend == backend and layer.recompute


def test_starts_have_names():
    torch.manual_seed(0)
    network = build_network(NetworkSettings(zoo="exprnn", hidden_size=6, options={"angles": "henaff"}), 2, 3)
    torch.manual_seed(0)
    same = mr.zoo.exprnn(2, 6, 3, angles=mr.nn.init.henaff_)
    assert torch.equal(network.layer.weight_hh_l0, same.layer.weight_hh_l0)


REFUSED = {
    "an option of the zoo of another kind": (
        {"zoo": "scornn", "options": {"negatives": "many"}},
        "scornn cannot be made with negatives='many'",
    ),
    "an unknown start": ({"zoo": "exprnn", "options": {"angles": "hennaf"}}, "Did you mean 'henaff'"),
    "a constraint that needs another": ({"cell": "elman", "constraint": "fixed_base"}, "manifold"),
    "an unknown constraint inside another": (
        {"cell": "elman", "constraint": "fixed_base", "constraint_options": {"manifold": "ortogonal"}},
        "Did you mean 'orthogonal'",
    ),
    "real numbers for a complex constraint": (
        {"cell": "elman", "constraint": "unitary", "numbers": "real"},
        "complex64 or complex128",
    ),
    "an option of a constraint that it does not have": (
        {"cell": "elman", "constraint": "unit_disc", "constraint_options": {"radios": 1}},
        "takes radius. Got 'radios'",
    ),
    "a constraint for a network of the zoo": ({"zoo": "lem", "constraint": "orthogonal"}, "is for a cell"),
    "levels for a network of the zoo": ({"zoo": "lem", "num_layers": 2}, "is for a cell"),
    "a base that does not move": (
        {"cell": "elman", "constraint": "orthogonal", "view": "update", "rebase_every": 3},
        "rebase_every",
    ),
    "a retraction of nothing": (
        {"cell": "lstm", "retraction": "cayley"},
        "network.retraction needs a network.constraint",
    ),
    "a view of nothing": ({"cell": "lstm", "view": "trivialized"}, "network.view needs a network.constraint"),
    "a base of nothing": (
        {"cell": "lstm", "rebase_every": 1},
        "network.rebase_every needs a network.constraint. Got 1.",
    ),
    "gates for nothing": ({"cell": "lstm", "gates": ["f"]}, "network.gates needs a network.constraint. Got ['f']."),
    "options of no constraint": (
        {"cell": "lstm", "constraint_options": {"foo": 1}},
        "network.constraint_options needs a",
    ),
    "options of no constraint of the zoo": ({"zoo": "lem", "constraint_options": {"foo": 1}}, "is for a cell"),
    "a list of cells": ({"cell": ["lstm"]}, "network.cell needs one of"),
    "more units than memory": ({"cell": "lstm", "hidden_size": 10**8}, "that fits into memory. Got 100000000."),
    "more units than numbers": ({"zoo": "lem", "hidden_size": 10**20}, "an integer below 2^31. Got 1000000"),
    "an odd size": ({"cell": "elman", "constraint": "unitary_real_form", "hidden_size": 7}, "even"),
}


@pytest.mark.parametrize(("network", "answer"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_few_words(network, answer):
    with pytest.raises(ManifoldError) as caught:
        build_network(NetworkSettings(**network), 2, 3)
    assert answer in " ".join(str(caught.value).split())
    assert len(str(caught.value)) <= 400


def test_every_list_of_names_fits_into_a_message():
    for key, network in {
        "network.zoo": {"zoo": "?"},
        "network.cell": {"cell": "?"},
        "network.constraint": {"cell": "elman", "constraint": "?"},
    }.items():
        with pytest.raises(OptionError, match=key) as caught:
            read_run({"task": {"name": "digits"}, "network": network})
        assert len(str(caught.value)) <= 400
    assert options_of(mr.zoo.lem) == ["time_step"]
