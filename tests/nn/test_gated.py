"""LSTM and GRU against torch's; GORU and NRU against their recurrences; all of them real and complex."""

import copy
import itertools
import pickle

import pytest
import torch
from support.seeds import seeded
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import manifold_rnn as mr
from manifold_rnn.errors import OptionError, UnsupportedError
from manifold_rnn.nn import GRU, LSTM, Layer, cells, gate, mod_relu, mod_tanh, split_relu
from manifold_rnn.nn.cells import GORU, NRU
from manifold_rnn.nn.cells.nru import normalize_rows

EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}
WIDE = [torch.float64, torch.complex128]
LENGTHS = [3, 7, 1, 7]
KINDS = ["padded", "single", "sorted", "unsorted", "length 1"]
FAMILIES = [(nn.LSTM, LSTM), (nn.GRU, GRU)]
OPTIONS = [
    dict(zip(("num_layers", "bias", "batch_first", "bidirectional", "dropout"), values, strict=True))
    for values in itertools.product([1, 2], [True, False], [True, False], [True, False], [0.0, 0.5])
    if values[0] > 1 or not values[-1]
]
CELLS = [cells.LSTM(), cells.GRU(bias=False), GORU(), NRU(9, 4), NRU(8, 2, rectify=True)]


@pytest.fixture(params=FAMILIES, ids=["LSTM", "GRU"])
def family(request):
    return request.param


@pytest.fixture(params=CELLS, ids=repr)
def cell(request):
    return request.param


def pair(family, dtype=torch.float64, **options):
    theirs, ours = (kind(3, 5, dtype=dtype, **options) for kind in family)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(kind, layer, dtype):
    """Padded, single or packed input and starting states, with gradients."""
    shape = (4, 7, 3) if layer.batch_first else (7, 4, 3)
    x = torch.randn((7, 3) if kind == "single" else shape, dtype=dtype, generator=seeded(1)).requires_grad_()
    levels = layer.num_layers * (2 if layer.bidirectional else 1)
    rows = (levels, 5) if kind == "single" else (levels, 4, 5)
    parts = 2 if isinstance(layer, nn.LSTM | LSTM) else 1
    return x, [torch.randn(rows, dtype=dtype, generator=seeded(2 + i)).requires_grad_() for i in range(parts)]


def run(kind, layer, x, start=()):
    """Outputs, padded, and the parts of the last state."""
    hx = {0: None, 1: start and start[0], 2: tuple(start)}[len(start)]
    if kind in ("padded", "single"):
        y, h_n = layer(x, hx)
    else:
        lengths = {"sorted": sorted(LENGTHS, reverse=True), "unsorted": LENGTHS, "length 1": [1] * 4}[kind]
        packed = pack_padded_sequence(x, lengths, batch_first=layer.batch_first, enforce_sorted=kind == "sorted")
        y, h_n = layer(packed, hx)
        y, _ = pad_packed_sequence(y, batch_first=layer.batch_first)
    return [y, *(h_n if isinstance(h_n, tuple) else (h_n,))]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["given", "default"])
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_equals_torch_in_outputs_and_every_gradient(family, options, kind, start, dtype):
    found = []
    for layer in pair(family, dtype, **options):
        x, states = inputs(kind, layer, dtype)
        states = states if start == "given" else []
        results = run(kind, layer.train(not options["dropout"]), x, states)
        sum(t.sin().mean() for t in results).backward()
        found.append([*results, x.grad, *(s.grad for s in states), *(p.grad for p in layer.parameters())])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=EXACT[dtype], rtol=EXACT[dtype])


@pytest.mark.parametrize("kind", ["padded", "unsorted"])
def test_drops_what_torch_drops(family, kind):
    found = []
    for layer in pair(family, num_layers=3, dropout=0.5, bidirectional=True):
        torch.manual_seed(0)
        found.append(run(kind, layer, *inputs(kind, layer, torch.float64)))
    torch.testing.assert_close(*found, atol=1e-12, rtol=0)


@pytest.mark.parametrize("options", OPTIONS[::2], ids=lambda o: "-".join(map(str, o.values())))
def test_equal_seeds_give_torchs_weights_and_they_go_back(family, options):
    found = []
    for kind in family:
        torch.manual_seed(0)
        found.append(kind(3, 5, **options))
    theirs, ours = (layer.state_dict() for layer in found)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    found[1].reset_parameters()
    found[0].load_state_dict(found[1].state_dict())
    x = inputs("padded", found[0], torch.float32)[0]
    torch.testing.assert_close(found[1].eval()(x), found[0].eval()(x), atol=1e-6, rtol=0)


def test_code_written_for_torchs_layer_runs(family):
    theirs, ours = pair(family, num_layers=2, bidirectional=True, batch_first=True)
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert [[w.shape for w in level] for level in ours.all_weights] == [
        [w.shape for w in level] for level in theirs.all_weights
    ]
    empty = torch.zeros(0, 7, 3, dtype=torch.float64)
    assert [t.shape for t in run("padded", ours, empty)] == [t.shape for t in run("padded", theirs, empty)]


def test_a_projection_is_refused_by_name():
    assert LSTM(3, 5, 1, True, False, 0.0, False, 0).proj_size == 0
    with pytest.raises(UnsupportedError, match="proj_size"):
        LSTM(3, 5, proj_size=2)


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_constrains_every_gate_or_those_that_are_named(family, view):
    names = family[1](3, 5).cell.gates
    every = family[1](3, 5, num_layers=2, constraint=mr.Orthogonal(), view=view)
    one = family[1](3, 5, constraint={names[2]: mr.Orthogonal()}, view=view)
    for layer, expected in ((every, set(names)), (one, {names[2]})):
        defects = mr.linalg.defect(layer.weight_hh_l0.unflatten(0, (-1, 5)))
        assert {name for name, d in zip(names, defects, strict=True) if d < 1e-5} == expected
    assert mr.linalg.defect(every.weight_hh_l1.unflatten(0, (-1, 5))).max() < 1e-5


def test_trains_both_parts_of_the_first_state():
    lstm = LSTM(2, 3, train_initial_state=True)
    names = ["initial_state_l0", "initial_state2_l0"]
    assert list(lstm.state_dict())[-2:] == names
    lstm(torch.randn(4, 2, 2))[0].sum().backward()
    assert all(lstm.get_parameter(name).grad.abs().sum() > 0 for name in names)


# what follows holds for each of the four cells


def layer_of(cell, dtype=torch.float64, **options):
    """A layer with weights large enough for every term to matter."""
    layer = Layer(cell, 3, 5, dtype=dtype, **options)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.4)
    return layer


def expected(cell, layer, x):
    """The documented recurrence, written down once more."""
    w = {name.removesuffix("_l0"): p for name, p in layer.named_parameters()}
    V, W = w["weight_ih"], w["weight_hh"]
    x = x.to(V.dtype)
    h, ys = V.new_zeros(x.shape[1], 5), []
    c = V.new_zeros(x.shape[1], getattr(cell, "memory_size", 5))
    v, b = (list(t.split(5)) for t in (V, w["bias_ih"] if "bias_ih" in w else V.new_zeros(len(V))))
    R = W.split(5)
    for x_t in x:
        if isinstance(cell, NRU):
            h = split_relu(x_t @ V.mT + h @ W.mT + c @ w["weight_mh"].mT + w["bias_ih"])
            a, act = torch.cat([h, c], -1) @ w["weight_hm"].mT + w["bias_hm"], split_relu if cell.rectify else list
            k, M = cell.heads, cell.memory_size
            s = round((k * M) ** 0.5)
            alpha, beta, p, q, r, t = a.split([k, k, s, s, s, s], -1)
            for sign, strength, left, right in ((1, alpha, p, q), (-1, beta, r, t)):
                outer = torch.einsum("bi,bj->bij", left, right).reshape(-1, k, M)
                if cell.rectify:
                    strength, outer = act(strength), act(outer)
                rows = outer / outer.abs().pow(5).sum(-1, keepdim=True).pow(0.2).clamp(min=1e-12)
                c = c + sign * torch.einsum("bk,bkm->bm", strength, rows.to(V.dtype)) / k
        elif isinstance(cell, cells.LSTM):
            i, f, g, o = (x_t @ v[j].mT + h @ R[j].mT + b[j] + w["bias_hh"].split(5)[j] for j in range(4))
            c = gate(f) * c + gate(i) * mod_tanh(g)
            h = gate(o) * mod_tanh(c)
        else:
            first = gate(x_t @ v[0].mT + h @ R[0].mT + b[0])
            keep = gate(x_t @ v[1].mT + h @ R[1].mT + b[1])
            candidate = x_t @ v[2].mT + first * (h @ R[2].mT)
            new = mod_relu(candidate, w["bias"]) if isinstance(cell, GORU) else mod_tanh(candidate)
            h = keep * h + (1 - keep) * new
        ys.append(h)
    return torch.stack(ys)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_is_its_recurrence(cell, dtype):
    layer = layer_of(cell, dtype)
    x = torch.randn(7, 2, 3, dtype=torch.float64, generator=seeded())
    torch.testing.assert_close(layer(x)[0], expected(cell, layer, x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_gradients_of_every_weight_equal_finite_differences(cell, dtype):
    torch.manual_seed(1)
    layer = layer_of(cell, dtype)
    x = torch.randn(3, 1, 3, dtype=dtype, generator=seeded(), requires_grad=True)
    names, weights = zip(*layer.named_parameters(), strict=True)

    def outputs(x, *weights):
        y, state = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))
        return y, state[-1] if isinstance(state, tuple) else state

    assert torch.autograd.gradcheck(outputs, (x, *weights), atol=1e-6)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_a_packed_batch_is_its_sequences_one_by_one(cell, dtype):
    layer = layer_of(cell, dtype, num_layers=2, bidirectional=True)
    sequences = [torch.randn(n, 3, dtype=dtype, generator=seeded(n)) for n in LENGTHS]
    packed, state = layer(pack_sequence(sequences, enforce_sorted=False))
    padded, _ = pad_packed_sequence(packed)
    for i, x in enumerate(sequences):
        y, own = layer(x)
        torch.testing.assert_close(padded[: len(x), i], y, atol=1e-12, rtol=1e-12)
        for both, part in zip(*((s if isinstance(s, tuple) else (s,)) for s in (state, own)), strict=True):
            torch.testing.assert_close(both[:, i], part, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_ten_steps_at_the_documented_rate_reduce_a_small_loss(cell, dtype):
    for seed in range(3):
        torch.manual_seed(seed)
        layer = Layer(cell, 3, 8, dtype=dtype)
        x, target = torch.randn(6, 4, 3), torch.randn(4, 8)
        optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
        losses = []
        for _ in range(11):
            optimizer.zero_grad()
            loss = (layer(x)[0][-1] - target).abs().square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_keeps_a_unitary_block_while_it_trains(cell, dtype, view):
    group = mr.Unitary() if dtype.is_complex else mr.Orthogonal()
    layer = Layer(cell, 3, 6, dtype=dtype, constraint={cell.gates[-1]: group}, view=view)
    optimizer = (mr.optim.RiemannianAdam if view == "update" else torch.optim.Adam)(layer.parameters(), 1e-2)
    before = layer.weight_hh_l0[-6:].detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(5, 2, 3))[0].abs().square().mean().backward()
        optimizer.step()
    after = layer.weight_hh_l0[-6:].detach()
    assert mr.linalg.defect(after) < 1e-5 and (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_compute_the_same_after_a_forward(cell, clone):
    layer, x = Layer(cell, 3, 5, 2), torch.randn(7, 2, 3)
    layer(x)[0].sum().backward()
    torch.testing.assert_close(clone(layer)(x), layer(x), atol=0, rtol=0)


def test_compiles_into_one_graph_and_exports(cell):
    layer, x = Layer(cell, 3, 5), torch.randn(4, 2, 3)
    torch._dynamo.reset()  # or the compilations of other tests count
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_runs_under_autocast(cell):
    layer, x = Layer(cell, 3, 5, 2), torch.randn(7, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x)
    torch.testing.assert_close(y.float(), layer(x)[0], atol=0.1, rtol=0)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_every_output_of_lstm_and_gru_is_inside_the_unit_ball_whatever_the_input(family, dtype):
    layer = family[1](3, 5, dtype=dtype)
    y, _ = layer(1e6 * torch.randn(9, 2, 3, dtype=dtype, generator=seeded()))
    assert y.isfinite().all() and y.abs().max() < 1 + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, *WIDE], ids=str)
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e12])
def test_directions_have_norm_one_at_any_size_and_rows_of_zeros_stay(dtype, size):
    rows = size * torch.randn(3, 4, 16, dtype=dtype, generator=seeded())
    rows[0, 1] = 0
    rows.requires_grad_()
    unit = normalize_rows(rows)
    norms = torch.linalg.vector_norm(unit, 5, -1)
    assert norms[0, 1] == 0 and (norms[norms > 0] - 1).abs().max() < 10 * torch.finfo(dtype).eps
    (unit.abs() * torch.arange(16)).sum().backward()
    assert rows.grad.isfinite().all() and rows.grad[0, 1].abs().max() == 0
    radial = (rows.grad.conj() * rows.detach()).real.sum(-1)  # the length of a row changes nothing
    assert radial.abs().max() < 1e4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("rectify", [False, True])
def test_a_memory_without_strengths_stays_as_it_is(rectify):
    layer = layer_of(NRU(9, 4, rectify=rectify))
    with torch.no_grad():
        layer.weight_hm_l0[:8] = 0
        layer.bias_hm_l0[:8] = 0
    start = torch.zeros(1, 2, 5, dtype=torch.float64), torch.randn(1, 2, 9, dtype=torch.float64)
    _, (_, c) = layer(torch.randn(6, 2, 3, dtype=torch.float64), start)
    assert torch.equal(c, start[1])


@pytest.mark.parametrize(("memory_size", "heads"), [(8, 4), (0, 4), (9, 0), (-4, -9), (2, 1)])
def test_heads_that_fill_no_square_are_refused(memory_size, heads):
    with pytest.raises(OptionError, match=r"heads \* memory_size") as caught:
        NRU(memory_size, heads)
    assert len(str(caught.value)) <= 400


def test_goru_starts_as_published_with_an_orthogonal_candidate():
    for dtype in WIDE:
        layer = Layer(GORU(), 3, 64, dtype=dtype)
        W, b = layer.weight_hh_l0.detach(), layer.bias_ih_l0.detach()
        assert mr.linalg.defect(W[128:]) < 1e-12 and 0.009 < W[:128].real.abs().max() <= 0.01
        assert (b[:64] == 2).all() and 0.1 < b[64:].abs().max() <= (3 / 64) ** 0.5 and (layer.bias_l0 == 0.01).all()
        assert b.dtype == layer.bias_l0.dtype == torch.float64
