"""The cells of differential equations, of momentum, of an energy, and linear ones: what holds for each of them."""

import copy
import math
import re

import pytest
import torch
from support.cell_cases import energy_slope, make, parts
from support.seeds import seeded
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.nn import cells, gate, mod_tanh
from manifold_rnn.nn.cells import GRU, LEM, LRU, LSTM, SBO, CoRNN, Elman, Euler, Lipschitz, Momentum

CELLS = [
    Euler(),
    Euler(0.5, gated=True, bias=False),
    Lipschitz(),
    Lipschitz(0.5, gated=True),
    CoRNN(),
    CoRNN(0.1, 0.2, 6.4, bias=False),
    LEM(),
    LEM(bias=False),
    SBO("sgd", 0.3),
    SBO("heavy_ball", 0.3, 0.7),
    SBO("nesterov", 0.3, bias=False),
    LRU(),
    Momentum(LSTM(), "momentum"),
    Momentum(Elman("modrelu"), "adam"),
    Momentum(GRU(), "rmsprop"),
    Momentum(LEM(), "restart", period=3),
]


@pytest.fixture(params=CELLS, ids=repr)
def cell(request):
    return request.param


# each recurrence, written out for one sequence


def euler(cell, w, x, h):
    V, b = w["weight_ih"], w.get("bias", torch.zeros(()))
    z = V @ x + b
    W = w["weight_hh"] @ h
    slope = mod_tanh(W + z[:4])
    if cell.gated:
        slope = slope * gate(W + z[4:])
    return (h + cell.step_size * slope,)


def lipschitz(cell, w, x, h):
    z = w["weight_ih"] @ x + w["bias"]
    A, W = w["weight_hh"][:4] @ h, w["weight_hh"][4:] @ h
    slope = A + mod_tanh(W + z[:4])
    if cell.gated:
        slope = slope * gate(W + z[4:])
    return (h + cell.step_size * slope,)


def cornn(cell, w, x, y, z):
    Wy, Wz = w["weight_hh"][:4], w["weight_hh"][4:]
    drive = mod_tanh(Wy @ y + Wz @ z + w["weight_ih"] @ x + w.get("bias", 0))
    z = z + cell.time_step * (drive - cell.stiffness * y - cell.damping * z)
    return y + cell.time_step * z, z


def lem(cell, w, x, y, z):
    Wa, Wc, Wz, Wy = w["weight_hh"].split(4)
    u = w["weight_ih"] @ x
    u = u + w["bias_ih"] + w["bias_hh"] if cell.bias else u
    ua, uc, uz, uy = u.split(4)
    a, c = cell.time_step * gate(Wa @ y + ua), cell.time_step * gate(Wc @ y + uc)
    z = (1 - c) * z + c * mod_tanh(Wz @ y + uz)
    return (1 - a) * y + a * mod_tanh(Wy @ z + uy), z


def sbo(cell, w, x, h, z=None):
    slope = energy_slope(cell, w["weight_hh"], w["weight_ih"] @ x + w.get("bias", 0), h)
    if cell.method == "sgd":
        return (h - cell.step_size * slope,)
    if cell.method == "heavy_ball":
        z = w["momentum"] * z - cell.step_size * slope
        return h + z, z
    new = h - cell.step_size * slope
    return new + w["momentum"] * (new - z), new


def lru(cell, w, x, h):
    return (w["weight_hh"] @ h + w["log_gamma"].exp() * (w["weight_ih"] @ x),)


NAIVE = {Euler: euler, Lipschitz: lipschitz, CoRNN: cornn, LEM: lem, SBO: sbo, LRU: lru}


@pytest.mark.parametrize("cell", [c for c in CELLS if type(c) in NAIVE], ids=repr)
def test_a_layer_is_its_recurrence(cell, wide):
    layer = make(cell, dtype=wide)
    w = {name.removesuffix("_l0"): p.detach() for name, p in layer.named_parameters()}
    x = torch.randn(6, 3, dtype=wide, generator=seeded(1))
    y, h_n = layer(x)
    state = tuple(torch.zeros(4, dtype=wide) for _ in parts(h_n))
    for x_t, y_t in zip(x, y, strict=True):
        state = NAIVE[type(cell)](cell, w, x_t, *state)
        torch.testing.assert_close(y_t.detach(), state[0], atol=1e-14, rtol=1e-12)
    torch.testing.assert_close([h[0].detach() for h in parts(h_n)], list(state), atol=1e-14, rtol=1e-12)


def test_the_output_is_the_first_part_of_the_state(cell, wide):
    layer = make(cell, dtype=wide)
    y, h_n = layer(torch.randn(5, 2, 3, dtype=torch.float64))
    assert torch.equal(y[-1], parts(h_n)[0][0]) and y.shape == (5, 2, 4) and y.dtype == wide


def test_gradients_of_every_weight_equal_finite_differences(cell, wide):
    layer = make(cell, m=2, n=2, dtype=wide)
    x = torch.randn(3, 1, 2, dtype=torch.float64, generator=seeded(1))
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *weights):
        y, h_n = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))
        return y, *(h for h in parts(h_n) if h.requires_grad)

    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=seeded(2)))
    inputs = [x.requires_grad_(), *(p.detach().clone().requires_grad_() for p in layer.parameters())]
    assert torch.autograd.gradcheck(run, inputs, check_undefined_grad=False)


def test_a_sequence_in_two_halves_is_the_whole(cell, wide):
    layer, x = make(cell, dtype=wide), torch.randn(8, 2, 3, dtype=torch.float64)
    y, h_n = layer(x)
    first, state = layer(x[:3])
    second, last = layer(x[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), y, atol=1e-14, rtol=0)
    torch.testing.assert_close(parts(last), parts(h_n), atol=1e-14, rtol=0)


def test_a_packed_batch_is_its_sequences_one_by_one(cell, wide):
    layer = make(cell, dtype=wide, num_layers=2, bidirectional=True)
    sequences = [torch.randn(n, 3, dtype=torch.float64, generator=seeded(n)) for n in (3, 7, 1)]
    packed, h_n = layer(nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False))
    padded, _ = nn.utils.rnn.pad_packed_sequence(packed)
    for i, x in enumerate(sequences):
        y, h = layer(x)
        torch.testing.assert_close(padded[: len(x), i], y, atol=1e-13, rtol=0)
        torch.testing.assert_close([s[:, i] for s in parts(h_n)], list(parts(h)), atol=1e-13, rtol=0)


def test_constrains_every_gate_or_one(cell):
    gates, group = cell.gates, mr.Orthogonal()
    every, last = make(cell, constraint=group), make(cell, constraint={gates[-1]: group})
    defects = [mr.linalg.defect(layer.weight_hh_l0.unflatten(0, (-1, 4))) for layer in (every, last)]
    assert defects[0].max() < 1e-12 and defects[1][-1] < 1e-12
    assert (defects[1][:-1] > 0.1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_ten_steps_of_adam_at_the_documented_rate_reduce_the_loss(cell, dtype, seed):
    rate = float(re.search(r"Learning rate:\s+(\S+)\.\s", type(cell).__doc__)[1])
    layer = make(cell, m=2, n=6, dtype=dtype, seed=seed)
    readout = nn.Linear(12 if dtype.is_complex else 6, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *readout.parameters()], lr=rate)
    x = torch.randn(8, 5, 2, generator=seeded(seed))
    losses = []
    for _ in range(11):
        optimizer.zero_grad()
        out = readout(mr.nn.real_features(layer(x)[0][-1]))
        loss = (out.squeeze(-1) - x.sum((0, 2))).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_trains_every_part_of_the_first_state_but_a_count(cell):
    layer = make(cell, train_initial_state=True)
    layer(torch.randn(3, 2, 3, dtype=torch.float64))[0].square().sum().backward()
    trained = {name: p.grad is not None for name, p in layer.named_parameters() if name.startswith("initial_state")}
    counted = isinstance(cell, Momentum) and cell.kind == "restart"
    assert list(trained.values()).count(False) == counted


def test_copies_compiles_and_exports(cell):
    layer, x = make(cell), torch.randn(3, 2, 3, dtype=torch.float64)
    y = layer(x)[0]
    torch.testing.assert_close(copy.deepcopy(layer)(x)[0], y, atol=0, rtol=0)
    torch._dynamo.reset()  # each cell is a recompilation of the same forward
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], y, atol=1e-14, rtol=0)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x)[0], y, atol=1e-14, rtol=0)


BAD = {
    "Euler": lambda: Euler(0.0),
    "Lipschitz": lambda: Lipschitz(-1.0),
    "damping of CoRNN": lambda: CoRNN(damping=-1.0),
    "time_step of LEM": lambda: LEM(math.nan),
    "'shb'": lambda: SBO("shb"),
    "target": lambda: SBO(target=0.0),
    "r_min": lambda: LRU(0.9, 0.5),
    "max_phase": lambda: LRU(max_phase=math.inf),
    "'nag'": lambda: Momentum(kind="nag"),
    "decay": lambda: Momentum(decay=1.0),
    "period": lambda: Momentum(period=0),
    "eps": lambda: Momentum(eps=0.0),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_option_is_named(name):
    with pytest.raises(OptionError, match=name) as caught:
        BAD[name]()
    assert len(str(caught.value)) <= 400


def test_every_cell_of_this_file_is_exported():
    assert {type(cell).__name__ for cell in CELLS} <= set(cells.__all__)
