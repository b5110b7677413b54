"""Gates over the units of a layer: against a loop that scales states, with every constraint, and in closed form."""

import copy

import pytest
import torch
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import DtypeError, OptionError, ShapeError, UnsupportedError
from manifold_rnn.nn import GRU, LSTM, RNN, Layer, UnitGates, cells, gate, gate_units, l0_penalty, real_features
from manifold_rnn.nn.activations import mod_tanh

KINDS = {"RNN": RNN, "modReLU": lambda *a, **o: RNN(*a, nonlinearity="modrelu", **o), "LSTM": LSTM, "GRU": GRU}
M, N, T, B = 3, 5, 6, 4


def gated(kind, dtype=torch.float64, seed=0, inputs=True, **options):
    """A layer and a readout with gates that are closed, half open and open."""
    torch.manual_seed(seed)
    layer = KINDS[kind](M, N, dtype=dtype, **options)
    width = N * len(layer.directions) * (2 if dtype.is_complex else 1)
    readout = nn.Linear(width, 2, dtype=dtype.to_real())
    gate_units(layer, readout, inputs=inputs)
    with torch.no_grad():
        for gates in layer.unit_gates.values():
            gates.log_alpha.copy_(torch.randn(len(gates.log_alpha)) * 2 - 0.5)
    return layer, readout


def naive(layer, readout, x):
    """Outputs and the read out last level, with the states and inputs multiplied by gates in each step."""
    scale = {key: gates() for key, gates in layer.unit_gates.items()}
    below = scale.get("inputs", torch.ones(M, dtype=x.real.dtype))
    for level in range(layer.num_layers):
        outputs = []
        for direction in layer.directions:
            suffix = f"_l{level}{direction}"
            weights = {name: getattr(layer, name + suffix) for name in layer._weight_names}
            cell = layer.cell.bind(weights)
            state, own, ys = cell.initial_state(x.shape[1]), scale[suffix[1:]], [None] * len(x)
            for t in range(len(x)) if not direction else reversed(range(len(x))):
                u = cell.project(x[t] * below)
                if isinstance(layer.cell, cells.GRU):  # its own state passes by the matrix and is not scaled
                    ys[t], state = _gru_step(cell, u, state, own, weights["weight_hh"])
                else:
                    ys[t], state = cell.step(u, (state[0] * own, *state[1:]), weights["weight_hh"])
            outputs.append(torch.stack(ys))
        y = torch.cat(outputs, -1)
        x = real_features(y)
        below = torch.cat([scale[f"l{level}{direction}"] for direction in layer.directions])
        below = torch.cat([below, below]) if y.is_complex() else below
    return y, nn.functional.linear(x * below, readout.weight, readout.bias)


def _gru_step(cell, u, state, own, W):
    (h,) = state
    u_r, u_z, u_n = u.chunk(3, -1)
    v_r, v_z, v_n = nn.functional.linear(h * own, W, cell.weights["bias_hh"]).chunk(3, -1)
    n = mod_tanh(u_n + gate(u_r + v_r) * v_n)
    z = gate(u_z + v_z)
    h = (1 - z) * n + z * h
    return h, (h,)


def outcome(run, layer, readout, x):
    for module in (layer, readout):
        module.zero_grad()
    y, out = run(layer, readout, x)
    (real_features(y).sin().sum() + out.cos().sum()).backward()
    return [y, out, *(p.grad for p in [*layer.parameters(), *readout.parameters()])]


def fast(layer, readout, x):
    y, _ = layer(x)
    return y, readout(real_features(y))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "many"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["sampled", "evaluated"])
def test_scaled_columns_equal_scaled_states_in_outputs_and_every_gradient(kind, options, dtype, training):
    layer, readout = gated(kind, dtype, **options)
    layer.train(training)
    x = torch.randn(T, B, M, dtype=dtype)
    torch.manual_seed(1)
    ours = outcome(fast, layer, readout, x)
    theirs = outcome(naive, layer, readout, x)  # with the sample that the layer drew
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=10 * atol(dtype), rtol=10 * atol(dtype))


@pytest.mark.parametrize("view", ["update", "trivialized"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_constrained_matrix_keeps_its_constraint_and_learns_with_gates(kind, view):
    layer, readout = gated(kind, torch.float32, constraint=mr.Orthogonal(), view=view)
    optimizer = mr.optim.RiemannianAdam([*layer.parameters(), *readout.parameters()], lr=1e-2)
    x, losses = torch.randn(T, B, M), []
    before = layer.weight_hh_l0.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        loss = readout(layer(x)[0]).square().mean() + 1e-2 * l0_penalty(layer)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert mr.linalg.defect(layer.weight_hh_l0.view(-1, N, N)).max() < 1e-5
    assert not torch.equal(before, layer.weight_hh_l0)
    assert torch.linalg.matrix_norm(layer.eval().weights("_l0")["weight_hh"].view(-1, N, N), 2).max() <= 1 + 1e-5


@pytest.mark.parametrize(("kind", "blocks"), [("RNN", 1), ("LSTM", 4), ("GRU", 3)])
def test_the_penalty_is_the_expected_number_of_weights(kind, blocks):
    layer, _ = gated(kind, num_layers=2)
    pi = {key: gates.open_probability() for key, gates in layer.unit_gates.items()}
    z, s, t = pi["inputs"], pi["l0"], pi["l1"]

    def square(p):
        return sum(p[i] * (1 if i == j else p[j]) for i in range(N) for j in range(N))

    expected = blocks * (s.sum() * z.sum() + square(s) + t.sum() * s.sum() + square(t))
    torch.testing.assert_close(l0_penalty(layer), expected)
    formula = z.sum() * s.sum() * 4 + 4 * (s.sum() ** 2 - (s**2).sum() + s.sum())
    if kind == "LSTM":
        torch.testing.assert_close(expected - 4 * (t.sum() * s.sum() + square(t)), formula)


def test_the_penalty_counts_features_of_both_directions_and_parts():
    layer, _ = gated("LSTM", torch.complex128, num_layers=2, bidirectional=True, inputs=False)
    with torch.no_grad():
        for gates in layer.unit_gates.values():
            gates.log_alpha.fill_(4.6)
    whole = sum(layer.get_parameter(f"weight_{part}{s}").numel() for part in ("ih", "hh") for s in layer.suffixes)
    assert l0_penalty(layer).item() == pytest.approx(whole, rel=5e-3)
    assert l0_penalty(nn.ModuleList([layer, copy.deepcopy(layer)])).item() == pytest.approx(2 * whole, rel=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_gate_far_out_of_range_has_the_value_at_the_end_of_the_range_and_a_gradient(dtype):
    gates = UnitGates(5, dtype=dtype).eval()
    far = torch.tensor([1e9, 1e30, torch.inf, -1e9, -torch.inf], dtype=dtype)
    with torch.no_grad():
        gates.log_alpha.copy_(far)
    assert gates().tolist() == [1.0, 1.0, 1.0, 0.0, 0.0] and gates.open().tolist() == [0, 1, 2]
    gates.open_probability().sum().backward()
    assert (gates.log_alpha.grad.isfinite()).all() and (gates.log_alpha.grad[[0, 1, 3]] != 0).all()


def test_one_sample_serves_all_steps_and_sequences_and_each_forward_draws_another():
    layer, _ = gated("RNN")
    x = torch.randn(1, 1, M, dtype=torch.float64).expand(T, B, M)
    y, _ = layer(x)
    assert torch.equal(y[:, 0], y[:, 1])
    assert not torch.equal(layer(x)[0], y)
    assert torch.equal(layer.eval()(x)[0], layer(x)[0])


def test_only_a_recorded_forward_of_trained_gates_clamps_them():
    layer, x = gate_units(LSTM(M, N)), torch.randn(T, B, M)
    gates = layer.unit_gates["l0"]
    gates.log_alpha.data.fill_(-50.0)
    with torch.no_grad():
        layer(x)
    gates.log_alpha.requires_grad_(False)
    layer(x)
    assert (gates.log_alpha == -50).all()
    gates.log_alpha.requires_grad_(True)
    layer(x)
    assert gates.log_alpha.min() > -5


def test_the_penalty_of_half_precision_is_finite():
    penalty = l0_penalty(gate_units(LSTM(64, 128, dtype=torch.float16)))
    assert penalty.dtype is torch.float32 and 65504 < penalty < 4 * 128 * 192


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_a_conversion_to_complex_numbers_keeps_the_gates_real():
    layer = gate_units(RNN(M, N, dtype=torch.complex64)).to(torch.complex128)
    assert layer.unit_gates["l0"].log_alpha.dtype is layer.unit_gates["l0"].noise.dtype is torch.float64
    assert layer(torch.randn(T, B, M, dtype=torch.complex128))[0].dtype is torch.complex128


def test_copies_state_dicts_and_compilers_treat_gates_as_weights(tmp_path):
    layer, readout = gated("GRU", torch.float32)
    model = nn.ModuleDict({"layer": layer, "readout": readout})
    layer(torch.randn(T, B, M))
    twin = copy.deepcopy(model).eval()
    assert [k for k in model.state_dict() if "gates" in k] == [
        "layer.unit_gates.l0.log_alpha",
        "layer.unit_gates.inputs.log_alpha",
    ]
    x = torch.randn(T, B, M)
    with torch.no_grad():
        twin["layer"].unit_gates["l0"].log_alpha.fill_(-4.0)
    moved, kept = (m["readout"](m.eval()["layer"](x)[0]) for m in (twin, model))
    assert not torch.allclose(moved, kept)  # the copy's readout reads the copy's gates
    model.load_state_dict(twin.state_dict())
    torch.testing.assert_close(model["readout"](model["layer"](x)[0]), moved)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    torch.testing.assert_close(loaded["readout"](loaded["layer"](x)[0]), moved)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_network_with_gates_is_exported(kind):
    torch.manual_seed(0)
    network = mr.zoo.Network(KINDS[kind](M, N, batch_first=True), 2).eval()
    gate_units(network.layer, network.readout, inputs=True)
    x = torch.randn(B, T, M)
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x), network(x), atol=1e-6, rtol=0)


def test_gates_have_a_group_of_their_own_without_decay():
    network = mr.zoo.Network(LSTM(M, N, batch_first=True), 2, rates={})
    gate_units(network.layer, network.readout)
    gates, others = network.parameter_groups(1e-3)
    assert gates["lr"] == pytest.approx(1e-2) and gates["weight_decay"] == 0.0
    assert [id(p) for p in gates["params"]] == [id(network.layer.unit_gates["l0"].log_alpha)]
    assert len(others["params"]) == 6


def test_new_weights_are_drawn_without_the_gates():
    layer, _ = gated("LSTM")
    layer.reset_parameters()
    assert layer.weight_hh_l0.abs().max() <= N**-0.5 and layer.weight_hh_l0.abs().min() > 0


class Twisted(cells.LSTM):
    def step(self, u, state, W):
        return super().step(u.roll(1, -1), state, W)


BAD = {
    "torch's layer": (lambda: gate_units(nn.LSTM(2, 3)), UnsupportedError, "mr.nn.LSTM"),
    "no layer": (lambda: gate_units(nn.Linear(2, 3)), UnsupportedError, "Linear"),
    "a network": (lambda: gate_units(mr.zoo.scornn(1, 4, 2)), UnsupportedError, "Network"),
    "another cell": (lambda: gate_units(Layer(cells.CoRNN(), 2, 3)), UnsupportedError, "CoRNN"),
    "a callable": (lambda: gate_units(RNN(2, 3, nonlinearity=torch.tanh)), UnsupportedError, "named nonlinearity"),
    "other steps": (lambda: gate_units(Layer(Twisted(), 2, 3)), UnsupportedError, "Twisted"),
    "gates twice": (lambda: gate_units(gate_units(LSTM(2, 3))), OptionError, "already has gates"),
    "a readout without matrix": (lambda: gate_units(LSTM(2, 3), nn.Tanh()), OptionError, "Tanh"),
    "a readout of another size": (lambda: gate_units(LSTM(2, 3), nn.Linear(4, 2)), ShapeError, "3 columns, got 4"),
    "a text as start": (lambda: gate_units(LSTM(2, 3), start="1"), OptionError, "'1'"),
    "a start out of range": (lambda: gate_units(LSTM(2, 3), start=1e300), OptionError, "from -4.61 to 4.61"),
    "a text as inputs": (lambda: gate_units(LSTM(2, 3), inputs="no"), OptionError, "True or False, got 'no'"),
    "a text as readout": (lambda: gate_units(LSTM(2, 3), "no"), OptionError, "got 'no'"),
    "an embedding": (lambda: gate_units(LSTM(2, 3), nn.Embedding(4, 3)), OptionError, "Embedding"),
    "a lazy readout": (lambda: gate_units(LSTM(2, 3), nn.LazyLinear(2)), OptionError, "LazyLinear"),
    "another dtype": (
        lambda: gate_units(LSTM(2, 3), nn.Linear(3, 2).double()),
        DtypeError,
        "float32, got torch.float64",
    ),
    "no units": (lambda: UnitGates(0), OptionError, "at least 1, got 0"),
    "a text as size": (lambda: UnitGates("3"), OptionError, "got '3'"),
    "a fraction as size": (lambda: UnitGates(2.0), OptionError, "got 2.0"),
    "complex gates": (lambda: UnitGates(2, dtype=torch.complex64), DtypeError, "complex64"),
    "integer gates": (lambda: UnitGates(2, dtype=torch.int64), DtypeError, "int64"),
    "a layer as readout": (lambda: gate_units(LSTM(2, 3), LSTM(3, 2)), UnsupportedError, "num_layers=2"),
    "a parametrized readout": (
        lambda: gate_units(LSTM(2, 3), nn.utils.parametrizations.orthogonal(nn.Linear(3, 2))),
        UnsupportedError,
        "Remove the parametrization",
    ),
    "a readout with a norm": (
        lambda: gate_units(LSTM(2, 3), [nn.Linear(3, 2), nn.utils.spectral_norm(nn.Linear(3, 2))]),
        UnsupportedError,
        "spectral_norm",
    ),
    "no unit": (lambda: gate_units(LSTM(2, 3), minimum=0), OptionError, "from 1 to 3, got 0"),
    "too many units": (lambda: gate_units(LSTM(2, 3), minimum=4), OptionError, "from 1 to 3, got 4"),
    "no start": (lambda: gate_units(LSTM(2, 3), start=float("nan")), OptionError, "nan"),
    "no gates": (lambda: l0_penalty(nn.Sequential(LSTM(2, 3))), OptionError, "gate_units"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    act, error, text = BAD[name]
    with pytest.raises(error, match=text) as caught:
        act()
    assert len(str(caught.value)) <= 400


def test_nothing_has_changed_after_an_error():
    layer, readout = LSTM(2, 3), nn.Linear(3, 2)
    wrong, state = nn.Linear(5, 2), torch.get_rng_state()
    for options in ({"minimum": 9}, {"start": float("inf")}):
        with pytest.raises(OptionError):
            gate_units(layer, readout, **options)
    with pytest.raises(ShapeError):
        gate_units(layer, wrong)
    assert torch.equal(state, torch.get_rng_state())
    assert layer.unit_gates is None and not readout._forward_pre_hooks
    gate_units(layer, readout)
    other = LSTM(2, 3)
    with pytest.raises(OptionError, match="another layer"):
        gate_units(other, readout)
    assert other.unit_gates is None
