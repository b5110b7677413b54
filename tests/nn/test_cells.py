"""What holds for every cell: its recurrence, its gradients, its states, and that it trains, copies and compiles."""

import copy
import math
import pickle
import re

import pytest
import torch
from support.cell_cases import CELLS, CONSTRAINED, RECURRENCES, exported_cells, make, parts, shaken
from support.seeds import seeded
from support.selection import spread
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.nn import Layer
from manifold_rnn.nn.cells import (
    LRU,
    LSTM,
    NRU,
    SBO,
    CoRNN,
    DeltaProduct,
    Elman,
    Euler,
    LeakyElman,
    Lipschitz,
    Momentum,
)

WIDE = [torch.float64, torch.complex128]
SINGLE = [torch.float32, torch.complex64]
ONE_OF_EACH = list({type(cell): cell for cell in CELLS}.values())
HAVE_GATES = [cell for cell in ONE_OF_EACH if cell.gates]


@pytest.fixture(params=CELLS, ids=repr)
def cell(request):
    return request.param


def test_every_exported_cell_is_tested():
    assert {type(cell) for cell in CELLS} == set(exported_cells().values())
    assert {type(cell) for cell in CELLS} == {*RECURRENCES, Momentum}


@pytest.mark.parametrize("cell", [c for c in CELLS if type(c) in RECURRENCES], ids=repr)
def test_a_layer_is_its_recurrence(cell, wide):
    layer = shaken(make(cell, dtype=wide))
    w = {name: p.detach() for name, p in layer.weights("_l0").items()}
    x = torch.randn(6, 3, dtype=wide, generator=seeded(1))
    y, h_n = layer(x)
    state = tuple(torch.zeros(h[0].shape, dtype=wide) for h in parts(h_n))
    for x_t, y_t in zip(x, y, strict=True):
        state = RECURRENCES[type(cell)](cell, w, x_t, *state)
        torch.testing.assert_close(y_t.detach(), state[0], atol=1e-13, rtol=1e-12)
    torch.testing.assert_close([h[0].detach() for h in parts(h_n)], list(state), atol=1e-13, rtol=1e-12)


def test_the_output_is_the_first_part_of_the_state(cell, wide):
    layer = make(cell, dtype=wide)
    y, h_n = layer(torch.randn(5, 2, 3, dtype=torch.float64))
    assert torch.equal(y[-1], parts(h_n)[0][0]) and y.shape == (5, 2, 4) and y.dtype == wide


@pytest.mark.parametrize("fast_mode", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["fast", "exact"])
def test_gradients_of_every_weight_equal_finite_differences(cell, wide, fast_mode):
    layer = shaken(make(cell, m=2, n=2, dtype=wide))
    x = torch.randn(3, 1, 2, dtype=torch.float64, generator=seeded(1))
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *weights):
        y, h_n = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))
        return y, *(h for h in parts(h_n) if h.requires_grad)

    inputs = [x.requires_grad_(), *(p.detach().clone().requires_grad_() for p in layer.parameters())]
    assert torch.autograd.gradcheck(run, inputs, check_undefined_grad=False, fast_mode=fast_mode, atol=1e-6)


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
        torch.testing.assert_close(padded[: len(x), i], y, atol=1e-12, rtol=0)
        torch.testing.assert_close([s[:, i] for s in parts(h_n)], list(parts(h)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", exported_cells())
def test_every_cell_makes_a_layer_of_levels_and_directions(name):
    layer = Layer(exported_cells()[name](), 3, 5, 2, bidirectional=True)
    x = torch.randn(7, 2, 3)
    y, h_n = layer(x)
    z, k_n = layer(x[:4])
    assert y.shape == (7, 2, 10)
    assert z.shape == (4, 2, 10)
    reached, h = layer(x[4:], k_n)  # only the first level's forward direction sees nothing of the future
    assert reached.shape == (3, 2, 10)
    torch.testing.assert_close(parts(h)[0][0], parts(h_n)[0][0])


@pytest.mark.parametrize("cell", CONSTRAINED, ids=repr)
@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_constrains_every_gate_or_those_that_are_named(cell, view):
    group = mr.Orthogonal()
    every, last = (make(cell, constraint=c, view=view) for c in (group, {cell.gates[-1]: group}))
    defects = [mr.linalg.defect(layer.weight_hh_l0.detach().unflatten(0, (-1, 4))) for layer in (every, last)]
    assert defects[0].max() < 1e-12 and defects[1][-1] < 1e-12
    by_itself = defects[1][:-1] if cell.gates[:-1] else torch.ones(1)
    assert (by_itself > 0.1).all()


@pytest.mark.parametrize(("cell", "dtype", "view"), spread(HAVE_GATES, SINGLE, ["update", "trivialized"], every=3))
def test_keeps_a_unitary_block_while_it_trains(cell, dtype, view):
    group = mr.Unitary() if dtype.is_complex else mr.Orthogonal()
    layer = make(cell, n=6, dtype=dtype, constraint={cell.gates[-1]: group}, view=view)
    optimizer = (mr.optim.RiemannianAdam if view == "update" else torch.optim.Adam)(layer.parameters(), 1e-2)
    before = layer.weight_hh_l0[-6:].detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(5, 2, 3))[0].abs().square().mean().backward()
        optimizer.step()
    after = layer.weight_hh_l0[-6:].detach()
    assert mr.linalg.defect(after) < 1e-5 and (after - before).abs().max() > 1e-3


@pytest.mark.parametrize(("seed", "cell", "dtype"), spread(range(3), CELLS, SINGLE, every=3))
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
    unread = isinstance(cell, DeltaProduct)  # its last output, which does not act on the next step
    assert list(trained.values()).count(False) == (counted or unread)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_compute_the_same_after_a_forward(cell, clone):
    layer, x = make(cell, num_layers=2), torch.randn(7, 2, 3, dtype=torch.float64)
    layer(x)[0].sum().backward()
    torch.testing.assert_close(clone(layer)(x), layer(x), atol=0, rtol=0)


def test_runs_under_autocast(cell):
    layer, x = make(cell, dtype=torch.float32, num_layers=2), torch.randn(7, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x)
    torch.testing.assert_close(y.float(), layer(x)[0], atol=0.1, rtol=0)


@pytest.mark.parametrize(
    "cell", [c if c in ONE_OF_EACH else pytest.param(c, marks=pytest.mark.slow) for c in CELLS], ids=repr
)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while tracing
def test_compiles_into_one_graph_and_exports(cell):
    layer, x = make(cell), torch.randn(2, 2, 3, dtype=torch.float64)
    y = layer(x)[0]
    torch._dynamo.reset()  # each cell is a recompilation of the same forward
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], y, atol=1e-14, rtol=0)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x)[0], y, atol=1e-14, rtol=0)


BAD = {
    "nonlinearity": lambda: Elman("sigmoid"),
    "Euler": lambda: Euler(0.0),
    "Lipschitz": lambda: Lipschitz(-1.0),
    "leak of LeakyElman.*got 0.0": lambda: LeakyElman(leak=0.0),
    r"leak of LeakyElman.*got 1\.5": lambda: LeakyElman(leak=(0.1, 1.5)),
    r"leak of LeakyElman.*got \(\)": lambda: LeakyElman(leak=()),
    "leak of LeakyElman.*got True": lambda: LeakyElman(leak=True),
    "damping of CoRNN": lambda: CoRNN(damping=-1.0),
    "time_step of LEM": lambda: mr.nn.cells.LEM(math.nan),
    "'shb'": lambda: SBO("shb"),
    "target": lambda: SBO(target=0.0),
    "r_min": lambda: LRU(0.9, 0.5),
    "max_phase": lambda: LRU(max_phase=math.inf),
    "'nag'": lambda: Momentum(kind="nag"),
    "decay": lambda: Momentum(decay=1.0),
    "period": lambda: Momentum(period=0),
    "eps": lambda: Momentum(eps=0.0),
    **{rf"heads \* memory_size.*got {k} \* {M}": lambda k=k, M=M: NRU(M, k) for M, k in
       [(8, 4), (0, 4), (9, 0), (-4, -9), (2, 1)]},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_option_is_named(name):
    with pytest.raises(OptionError, match=f"(?s){name}") as caught:
        BAD[name]()
    assert len(str(caught.value)) <= 400


def test_options_are_what_the_constructor_takes():
    assert LSTM.options() == ("bias",) and NRU.options() == ("memory_size", "heads", "rectify")
    assert "offset" not in Momentum.options() and "weights" not in Momentum.options()
    for kind in exported_cells().values():
        assert kind(**{name: getattr(kind(), name) for name in kind.options()}).weights == {}
