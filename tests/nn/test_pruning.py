"""The smaller layer: its class, its weights, and outputs equal to those with gates."""

import itertools

import pytest
import torch
from support.selection import spread
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune
from torch.nn.utils.rnn import pack_padded_sequence

import manifold_rnn as mr
from manifold_rnn.errors import NonFiniteError, OptionError, UnsupportedError
from manifold_rnn.nn import GRU, LSTM, RNN, gate_units, open_units, prune, real_features
from manifold_rnn.nn.pruning import folded

KINDS = {"RNN": RNN, "modReLU": lambda *a, **o: RNN(*a, nonlinearity="modrelu", **o), "LSTM": LSTM, "GRU": GRU}
BOUND = {torch.float32: 1e-6, torch.float64: 1e-13, torch.complex64: 1e-6, torch.complex128: 1e-13}
M, N = 3, 7
SHAPES = {"one": {}, "two levels": {"num_layers": 2}, "both directions": {"num_layers": 2, "bidirectional": True}}


def gated(kind="LSTM", dtype=torch.float32, constraint=None, view="update", **options):
    torch.manual_seed(0)
    if constraint:
        options |= {"constraint": mr.Unitary() if dtype.is_complex else mr.Orthogonal(), "view": view}
    layer = KINDS[kind](M, N, dtype=dtype, train_initial_state=True, **options)
    readout = nn.Linear(N * len(layer.directions) * (2 if dtype.is_complex else 1), 2, dtype=dtype.to_real())
    gate_units(layer, readout, inputs=True)
    with torch.no_grad():
        for gates in layer.unit_gates.values():
            gates.log_alpha.copy_(2 * torch.randn(len(gates.log_alpha)) - 1.5)
        for name, p in layer.named_parameters():
            if name.startswith("initial_state"):
                p.normal_()
    return nn.ModuleDict({"layer": layer, "readout": readout}).eval()


@pytest.mark.parametrize(
    ("kind", "dtype", "shape", "constrained", "view"),
    spread(KINDS, BOUND, SHAPES, [True, False], ["update", "trivialized"], every=2),
    ids=str,
)
def test_outputs_and_states_equal_those_with_gates(kind, dtype, shape, constrained, view):
    model = gated(kind, dtype, constrained, view, **SHAPES[shape])
    layer, x = model["layer"], torch.randn(6, 4, M, dtype=dtype)
    smaller = prune(model)
    kept = open_units(layer)
    last = [kept[suffix] + N * i for i, suffix in enumerate(layer.suffixes[-len(layer.directions) :])]
    y, h = layer(x)
    small_y, small_h = smaller["layer"](x)
    bound = {"atol": BOUND[dtype], "rtol": BOUND[dtype]}
    torch.testing.assert_close(small_y, y[..., torch.cat(last)], **bound)
    for part, small in zip(
        h if isinstance(h, tuple) else (h,), small_h if isinstance(h, tuple) else (small_h,), strict=True
    ):
        for i, suffix in enumerate(layer.suffixes):
            torch.testing.assert_close(small[i], part[i][:, kept[suffix]], **bound)
    outputs = (m["readout"](real_features(outputs)) for m, outputs in ((model, y), (smaller, small_y)))
    torch.testing.assert_close(*outputs, **bound)


@pytest.mark.parametrize("kind", KINDS)
def test_the_smaller_layer_is_a_plain_one_of_the_same_class(kind):
    model = gated(kind, constraint=True, view="trivialized")
    smaller = prune(model)["layer"]
    size = len(open_units(model["layer"])["_l0"])
    like = KINDS[kind](M, size, train_initial_state=True)
    assert type(smaller) is type(like) and smaller.hidden_size == size < N and smaller.unit_gates is None
    assert {k: v.shape for k, v in smaller.state_dict().items()} == {k: v.shape for k, v in like.state_dict().items()}
    like.load_state_dict(smaller.state_dict())
    x = torch.randn(5, 2, M)
    torch.testing.assert_close(like(x)[0], smaller(x)[0])
    assert not smaller._forward_pre_hooks and not mr.diagnostics.constrained_parameters(smaller)
    assert all(p.requires_grad and p.is_leaf for p in smaller.parameters())


def test_torch_runs_the_smaller_layer():
    smaller = prune(gated("LSTM"))["layer"]
    theirs = nn.LSTM(M, smaller.hidden_size)
    theirs.load_state_dict({k: v for k, v in smaller.state_dict().items() if not k.startswith("initial")})
    x, hx = torch.randn(5, 2, M), tuple(torch.randn(1, 2, smaller.hidden_size) for _ in range(2))
    torch.testing.assert_close(smaller(x, hx)[0], theirs(x, hx)[0], atol=1e-6, rtol=0)


def test_the_pruned_module_is_left_as_it_is_and_modes_stay():
    model = gated("GRU").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    smaller = prune(model)
    assert model.training and smaller.training and model["layer"].unit_gates is not None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval(), smaller.eval()
    x = torch.randn(5, 2, M)
    outputs = (m["readout"](m["layer"](x)[0]) for m in (model, smaller))
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=0)


def test_a_frozen_weight_stays_frozen():
    model = gated("LSTM")
    model["layer"].weight_ih_l0.requires_grad_(False)
    smaller = prune(model)["layer"]
    assert not smaller.weight_ih_l0.requires_grad and smaller.weight_hh_l0.requires_grad


def test_packed_sequences_and_a_network():
    network = mr.zoo.Network(GRU(M, N, 2, batch_first=True), 2).eval()
    gate_units(network.layer, network.readout)
    with torch.no_grad():
        for gates, closed in zip(network.layer.unit_gates.values(), (2, 4), strict=True):
            gates.log_alpha[:closed] = -5.0
    smaller = prune(network)
    assert type(smaller) is mr.zoo.Network and smaller.readout.in_features == N - 2 == smaller.layer.hidden_size
    packed = pack_padded_sequence(torch.randn(3, 5, M), [5, 2, 4], batch_first=True, enforce_sorted=False)
    torch.testing.assert_close(smaller(packed), network(packed), atol=1e-6, rtol=0)
    kept = open_units(network.layer)
    assert kept["_l0"].tolist() == [2, 3, 4, 5, 6] and set(kept["_l1"].tolist()) > {4, 5, 6}


def test_the_floor_survives_when_all_gates_close():
    model = gated("RNN")
    with torch.no_grad():
        model["layer"].unit_gates["l0"].log_alpha.sub_(50.0)
    smaller = prune(model)
    assert smaller["layer"].hidden_size == 1
    x = torch.randn(5, 2, M)
    outputs = (m["readout"](m["layer"](x)[0]) for m in (model, smaller))
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=0)


def test_equal_gates_are_kept_in_one_order_which_the_floor_shares():
    layer = gate_units(LSTM(M, 40, 2), minimum=2).eval()
    with torch.no_grad():
        layer.unit_gates["l0"].log_alpha[:30].fill_(-4.0)
        layer.unit_gates["l1"].log_alpha.fill_(-4.0)
    kept = open_units(layer)
    assert kept["_l0"].tolist() == list(range(30, 40)) and kept["_l1"].tolist() == list(range(10))
    assert set(layer.unit_gates["l1"].open().tolist()) == {0, 1} <= set(kept["_l1"].tolist())
    x = torch.randn(5, 2, M)
    torch.testing.assert_close(prune(layer)(x)[0], layer(x)[0][..., kept["_l1"]], atol=1e-6, rtol=0)


def test_a_module_without_a_reader_of_the_gates_is_refused():
    layer = gate_units(LSTM(M, N, batch_first=True))
    network = mr.zoo.Network(layer, 2)
    for module in (network, nn.ModuleList([layer, nn.Linear(N, 2)]), nn.ModuleList([layer, gate_units(GRU(N, 2))])):
        with pytest.raises(OptionError, match="readout=") as caught:
            prune(module)
        assert len(str(caught.value)) <= 400
    assert prune(nn.ModuleList([layer]))[0].unit_gates is None


@pytest.mark.parametrize("view", [None, "update", "trivialized"])
def test_several_readouts_with_any_weight_shrink_together(view):
    torch.manual_seed(0)
    layer, heads = LSTM(M, N), nn.ModuleList([nn.Linear(N, N), nn.Linear(N, 3)])
    if view:
        mr.constrain(heads[0], "weight", mr.Orthogonal(), view=view)
    gate_units(layer, list(heads))
    with torch.no_grad():
        layer.unit_gates["l0"].log_alpha[:4].fill_(-4.0)
    model = nn.ModuleDict({"layer": layer, "heads": heads}).eval()
    smaller, x = prune(model), torch.randn(5, 2, M)
    for i in range(2):
        before, after = (m["heads"][i](m["layer"](x)[0]) for m in (model, smaller))
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
        assert smaller["heads"][i].weight.shape[1] == smaller["heads"][i].in_features == 3
        assert type(smaller["heads"][i].weight) is nn.Parameter and smaller["heads"][i].weight.requires_grad
    assert not mr.diagnostics.constrained_parameters(smaller)
    assert bool(mr.diagnostics.constrained_parameters(model)) is bool(view)


def test_folded_gates_leave_a_plain_module_of_the_same_size():
    model, x = gated("LSTM", constraint=True, num_layers=2), torch.randn(5, 2, M)
    plain = folded(model)
    assert plain["layer"].hidden_size == N and plain["layer"].unit_gates is None
    assert not mr.diagnostics.constrained_parameters(plain)
    outputs = (m["readout"](m["layer"](x)[0]) for m in (model, plain))
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=0)


def test_what_cannot_be_pruned_is_named():
    for module in (LSTM(2, 3), nn.Linear(2, 3)):
        for function in (prune, open_units):
            with pytest.raises(OptionError, match="gate_units"):
                function(module)
    model = gated("LSTM")
    with torch.no_grad():
        model["layer"].unit_gates["l0"].log_alpha[2] = torch.nan
    with pytest.raises(NonFiniteError, match="1 of 7 in l0"):
        prune(model)
    for function in (lambda: open_units(model["layer"]), model["layer"].unit_gates["l0"].open):
        with pytest.raises(NonFiniteError, match="1 of 7"):
            function()
    assert model["layer"].hidden_size == N


def test_512_units_with_64_open_become_a_layer_of_64():
    layer = gate_units(LSTM(64, 512)).eval()
    with torch.no_grad():
        layer.unit_gates["l0"].log_alpha[64:] = -5.0
    smaller = prune(layer)
    count = [
        sum(p.numel() for name, p in each.named_parameters() if "log_alpha" not in name) for each in (layer, smaller)
    ]
    assert smaller.hidden_size == 64 and count[0] > 30 * count[1]


TOOLS = {  # how to apply a tool to a weight, and how to remove it
    "weight_norm": (parametrizations.weight_norm, parametrize.remove_parametrizations),
    "older weight_norm": (nn.utils.weight_norm, nn.utils.remove_weight_norm),
    "spectral_norm": (nn.utils.spectral_norm, nn.utils.remove_spectral_norm),
    "prune": (lambda m, name: torch_prune.l1_unstructured(m, name, 0.5), torch_prune.remove),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("path", "tool"),
    [
        *itertools.product(["layer.weight_ih_l0", "layer.weight_hh_l0", "readout.weight"], TOOLS),
        ("readout.bias", "prune"),
    ],
)
def test_weights_that_another_tool_computes_are_refused_by_name_until_it_is_removed(path, tool):
    part, name = path.split(".")
    model, x = gated(), torch.randn(6, 4, M)
    apply, remove = TOOLS[tool]
    apply(model[part], name)
    model["readout"](model["layer"](x)[0]).sum().backward()
    with pytest.raises(UnsupportedError, match=path) as caught:
        prune(model)
    assert len(str(caught.value)) <= 400
    remove(model[part], name)
    with torch.no_grad():
        y = model["readout"](model["layer"](x)[0])
        smaller = prune(model)
        torch.testing.assert_close(smaller["readout"](smaller["layer"](x)[0]), y, atol=1e-6, rtol=1e-6)


def test_so_is_an_adapter_around_a_readout():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(gated(), peft.LoraConfig(r=2, target_modules=["readout"], init_lora_weights=False))
    with pytest.raises(UnsupportedError, match=r"readout\.weight.*LoRA"):
        prune(model)
    merged, x = model.merge_and_unload(), torch.randn(6, 4, M)
    y, smaller = merged["readout"](merged["layer"](x)[0]), prune(merged)
    torch.testing.assert_close(smaller["readout"](smaller["layer"](x)[0]), y, atol=1e-6, rtol=1e-6)


def test_gates_are_not_added_to_a_readout_inside_an_adapter():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    readouts = nn.Sequential(nn.Linear(N, 2))
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["0"]), readouts)
    with pytest.raises(UnsupportedError, match="LoRA"):
        gate_units(GRU(M, N), readouts[0])
