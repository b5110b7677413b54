"""Layers against torch's layers, and what a layer does around its cell: packing, complex levels, initial states."""

import copy
import itertools

import pytest
import torch
from support.cell_cases import parts
from support.seeds import seeded
from support.selection import spread
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from manifold_rnn.errors import OptionError, UnsupportedError
from manifold_rnn.manifolds import Orthogonal
from manifold_rnn.nn import GRU, LSTM, RNN, ModReLU, mod_relu

EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}
LENGTHS = [3, 7, 1, 7]
KINDS = ["padded", "single", "sorted", "unsorted", "length 1"]
FAMILIES = {"RNN": (nn.RNN, RNN), "LSTM": (nn.LSTM, LSTM), "GRU": (nn.GRU, GRU)}


def combinations(dropouts, **own):
    """Every combination of torch's options and those of one family, by a name."""
    values = {"num_layers": [1, 2], "bias": [True, False], "batch_first": [True, False], **own}
    values |= {"bidirectional": [True, False], "dropout": dropouts}
    options = (dict(zip(values, each, strict=True)) for each in itertools.product(*values.values()))
    return [each for each in options if each["num_layers"] > 1 or not each["dropout"]]


CASES = [("RNN", options) for options in combinations([0.0], nonlinearity=["tanh", "relu"])]
CASES += [(name, options) for name in ("LSTM", "GRU") for options in combinations([0.0, 0.5])]
IDS = ["-".join([name, *map(str, options.values())]) for name, options in CASES]


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request):
    return request.param


def pair(family=FAMILIES["RNN"], dtype=torch.float64, **options):
    theirs, ours = (kind(3, 5, dtype=dtype, **options) for kind in family)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(kind, layer, dtype=torch.float64):
    """Padded, single or packed input and the parts of an initial state, with gradients."""
    shape = (4, 7, 3) if layer.batch_first else (7, 4, 3)
    x = torch.randn((7, 3) if kind == "single" else shape, dtype=dtype, generator=seeded(1)).requires_grad_()
    levels = layer.num_layers * (2 if layer.bidirectional else 1)
    rows = (levels, 5) if kind == "single" else (levels, 4, 5)
    count = 2 if isinstance(layer, nn.LSTM | LSTM) else 1
    return x, [torch.randn(rows, dtype=dtype, generator=seeded(2 + i)).requires_grad_() for i in range(count)]


def run(kind, layer, x, start=()):
    """Outputs, padded, and the parts of the last state."""
    hx = {0: None, 1: start and start[0], 2: tuple(start)}[len(start)]
    if kind in ("padded", "single"):
        y, h_n = layer(x, hx)
    else:
        lengths = {"sorted": sorted(LENGTHS, reverse=True), "unsorted": LENGTHS, "length 1": [1] * 4}[kind]
        packed = pack_padded_sequence(x, lengths, batch_first=layer.batch_first, enforce_sorted=kind == "sorted")
        y, h_n = layer(packed, hx)
        assert isinstance(y, PackedSequence)
        y, _ = pad_packed_sequence(y, batch_first=layer.batch_first)
    return [y, *parts(h_n)]


@pytest.mark.parametrize(
    ("case", "kind", "start", "dtype"), spread(IDS, KINDS, ["given", "default"], EXACT, every=13), ids=str
)
def test_equals_torch_in_outputs_and_every_gradient(case, kind, start, dtype):
    name, options = CASES[IDS.index(case)]
    outcomes = []
    for layer in pair(FAMILIES[name], dtype, **options):
        x, states = inputs(kind, layer, dtype)
        states = states if start == "given" else []
        results = run(kind, layer.train(not options["dropout"]), x, states)
        sum(t.sin().mean() for t in results).backward()
        outcomes.append([*results, x.grad, *(s.grad for s in states), *(p.grad for p in layer.parameters())])
    for theirs, ours in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=EXACT[dtype], rtol=EXACT[dtype])


@pytest.mark.parametrize("kind", ["padded", "unsorted"])
def test_drops_what_torch_drops(family, kind):
    outcomes = []
    for layer in pair(family, num_layers=3, dropout=0.5, bidirectional=True):
        torch.manual_seed(0)
        outcomes.append(run(kind, layer, *inputs(kind, layer)))
    torch.testing.assert_close(*outcomes, atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", IDS[::3])
def test_equal_seeds_give_torchs_weights_and_they_go_back(case):
    name, options = CASES[IDS.index(case)]
    outcomes = []
    for kind in FAMILIES[name]:
        torch.manual_seed(0)
        outcomes.append(kind(3, 5, **options))
    theirs, ours = (layer.state_dict() for layer in outcomes)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    outcomes[1].reset_parameters()
    outcomes[0].load_state_dict(outcomes[1].state_dict())
    x = inputs("padded", outcomes[0], torch.float32)[0]
    torch.testing.assert_close(outcomes[1].eval()(x), outcomes[0].eval()(x), atol=1e-6, rtol=0)


def test_code_written_for_torchs_layer_runs(family):
    theirs, ours = pair(family, num_layers=2, bidirectional=True, batch_first=True)
    ours.flatten_parameters()
    names = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    for name in names + ["nonlinearity"] * isinstance(ours, RNN):
        assert getattr(ours, name) == getattr(theirs, name)
    assert [[w.shape for w in level] for level in ours.all_weights] == [
        [w.shape for w in level] for level in theirs.all_weights
    ]
    assert "num_layers=2" in repr(ours)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"batch_first": True, "num_layers": 2}], ids=str)
def test_an_empty_batch_works(family, options):
    theirs, ours = pair(family, **options)
    x = torch.zeros((0, 7, 3) if theirs.batch_first else (7, 0, 3), dtype=torch.float64)
    assert [t.shape for t in run("padded", ours, x)] == [t.shape for t in run("padded", theirs, x)]


def test_a_projection_is_refused_by_name():
    assert LSTM(3, 5, 1, True, False, 0.0, False, 0).proj_size == 0
    with pytest.raises(UnsupportedError, match="proj_size"):
        LSTM(3, 5, proj_size=2)


def test_trains_both_parts_of_the_first_state():
    lstm = LSTM(2, 3, train_initial_state=True)
    names = ["initial_state_l0", "initial_state2_l0"]
    assert list(lstm.state_dict())[-2:] == names
    lstm(torch.randn(4, 2, 2))[0].sum().backward()
    assert all(lstm.get_parameter(name).grad.abs().sum() > 0 for name in names)


@pytest.mark.parametrize(
    ("nonlinearity", "dtype"),
    [("modrelu", torch.float64), ("modrelu", torch.complex128), ("tanh", torch.float64), (torch.sin, torch.float64)],
)
def test_a_packed_batch_is_its_sequences_one_by_one(nonlinearity, dtype):
    layer = RNN(3, 5, 2, nonlinearity, bidirectional=True, dtype=dtype)
    sequences = [torch.randn(n, 3, dtype=torch.float64, generator=seeded(n)) for n in LENGTHS]
    packed, h_n = layer(nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False))
    padded, lengths = pad_packed_sequence(packed)
    assert lengths.tolist() == LENGTHS
    for i, x in enumerate(sequences):
        y, h = layer(x)
        torch.testing.assert_close(padded[: len(x), i], y, atol=1e-13, rtol=0)
        torch.testing.assert_close(h_n[:, i], h, atol=1e-13, rtol=0)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("nonlinearity", ["modrelu", torch.sgn])
@pytest.mark.parametrize("bias", [True, False])
def test_a_complex_layer_commutes_with_conjugation_up_to_the_next_level(options, nonlinearity, bias):
    layer = RNN(3, 5, nonlinearity=nonlinearity, bias=bias, dtype=torch.complex128, **options)
    mirror = copy.deepcopy(layer)
    with torch.no_grad():
        for name, p in mirror.named_parameters():
            p.copy_(p.conj())
            if "_ih_l1" in name and p.ndim == 2:  # takes [Re, Im]
                p[:, p.shape[1] // 2 :] *= -1
    x = torch.randn(7, 2, 3, dtype=torch.complex128, generator=seeded())
    (y, h), (z, k) = layer(x), mirror(x.conj())
    assert y.is_complex()
    torch.testing.assert_close((z, k), (y.conj().resolve_conj(), h.conj().resolve_conj()), atol=1e-13, rtol=0)


def test_a_real_input_of_a_complex_layer_is_a_complex_one_without_imaginary_part():
    layer = RNN(3, 5, dtype=torch.complex64)
    x = torch.randn(7, 2, 3)
    torch.testing.assert_close(layer(x), layer(x.to(torch.complex64)))


def test_modrelu_brings_its_own_bias_and_no_other():
    real, complex_ = (RNN(3, 5, nonlinearity="modrelu", dtype=dtype) for dtype in (torch.float32, torch.complex64))
    for layer in (real, complex_):
        assert list(layer.state_dict()) == ["weight_ih_l0", "weight_hh_l0", "bias_l0"]
        assert layer.bias_l0.dtype == torch.float32
        assert layer.bias_l0.abs().max() <= 0.01
        assert not layer(torch.zeros(3, 1, 3))[0].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_modrelu_layer_is_its_recurrence(dtype):
    layer = RNN(3, 5, nonlinearity="modrelu", dtype=dtype)
    nn.init.normal_(layer.bias_l0)
    x, h = torch.randn(7, 2, 3, dtype=dtype, generator=seeded()), torch.zeros(2, 5, dtype=dtype)
    y, _ = layer(x)
    for x_t, y_t in zip(x, y, strict=True):
        h = mod_relu(h @ layer.weight_hh_l0.mT + x_t @ layer.weight_ih_l0.mT, layer.bias_l0)
        torch.testing.assert_close(y_t, h, atol=1e-13, rtol=0)


def test_modrelu_without_bias_is_linear():
    layer = RNN(3, 5, nonlinearity="modrelu", bias=False, dtype=torch.float64)
    x = torch.randn(2, 7, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x[0] + x[1])[0], layer(x[0])[0] + layer(x[1])[0], atol=1e-13, rtol=0)


def test_leading_zeros_leave_a_real_modrelu_state_and_its_gradient_at_zero():
    layer = RNN(1, 5, nonlinearity="modrelu")
    y, h_n = layer(torch.zeros(20, 1, 1))
    h_n.sum().backward()
    assert not y.any()
    assert all(not p.grad.any() for p in layer.parameters())


def test_a_module_as_nonlinearity_is_trained_and_saved():
    layer = RNN(3, 5, nonlinearity=ModReLU(5), bias=False)
    y, _ = layer(torch.randn(7, 2, 3))
    y.sum().backward()
    assert layer.nonlinearity.bias.grad.any()
    assert "nonlinearity.bias" in layer.state_dict()
    assert copy.deepcopy(layer).cell.nonlinearity is not layer.nonlinearity


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while tracing
def test_compiles_into_one_graph():
    layer, x = RNN(3, 5, 2, "modrelu", bidirectional=True), torch.randn(4, 2, 3)
    torch._dynamo.reset()  # or the compilations of other tests count
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_an_ensemble_runs_as_one():
    models, x = [RNN(3, 5, nonlinearity="modrelu") for _ in range(3)], torch.randn(7, 2, 3)
    params, _ = torch.func.stack_module_state(models)
    y = torch.func.vmap(lambda p: torch.func.functional_call(models[0], p, (x,))[0])(params)
    torch.testing.assert_close(y, torch.stack([m(x)[0] for m in models]))


def test_checkpointing_changes_no_gradient():
    layer, x = RNN(3, 5, 2), torch.randn(7, 2, 3)
    layer(x)[0].square().sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    checkpoint(layer, x, use_reentrant=False)[0].square().sum().backward()
    torch.testing.assert_close([p.grad for p in layer.parameters()], expected)


def test_moves_to_another_dtype():
    layer = RNN(3, 5, 2, "modrelu").double()
    assert layer(torch.zeros(7, 2, 3, dtype=torch.float64))[0].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_trained_initial_states(dtype, bidirectional):
    torch.manual_seed(0)
    options = {"num_layers": 2, "nonlinearity": "modrelu", "bidirectional": bidirectional, "dtype": dtype}
    layer = RNN(2, 3, train_initial_state=True, **options)
    names = [name for name in layer.state_dict() if name.startswith("initial_state")]
    assert names == [f"initial_state{suffix}" for suffix in layer.suffixes]
    plain = RNN(2, 3, **options)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k not in names})
    x = torch.randn(5, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x), atol=0, rtol=0)
    with torch.no_grad():
        for name in names:
            layer.get_parameter(name).copy_(torch.randn(3, dtype=dtype))
    start = torch.stack([layer.get_parameter(name) for name in names])
    hx = start.unsqueeze(1).expand(-1, 4, -1)
    torch.testing.assert_close(layer(x), plain(x, hx), atol=1e-14, rtol=0)
    torch.testing.assert_close(layer(x, hx.conj().contiguous()), plain(x, hx.conj().contiguous()), atol=0, rtol=0)
    torch.testing.assert_close(layer(x[:, 0]), plain(x[:, 0], start), atol=1e-14, rtol=0)
    packed = nn.utils.rnn.pack_padded_sequence(x, [3, 5, 1, 2], enforce_sorted=False)
    for ours, theirs in zip(layer(packed)[0][:1], plain(packed, hx)[0][:1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-14, rtol=0)
    layer(x)[1].abs().sum().backward()
    assert all(layer.get_parameter(name).grad.abs().sum() > 0 for name in names)
    layer.reset_parameters()
    assert not any(layer.get_parameter(name).any() for name in names)


@pytest.mark.parametrize("build", [RNN, LSTM, GRU], ids=lambda build: build.__name__)
def test_a_layer_moves_the_base_of_its_weights(build):
    layer = build(2, 4, num_layers=2, constraint=Orthogonal(), view="trivialized", rebase_every=2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    bases = []
    for _ in range(2):
        bases.append(layer.constraints["weight_hh_l1"].base.clone())
        optimizer.zero_grad()
        layer(torch.ones(3, 1, 2))[0].square().sum().backward()
        optimizer.step()
    base = layer.constraints["weight_hh_l1"].base
    assert torch.equal(*bases) and not torch.equal(base, bases[0])
    torch.testing.assert_close(base.flatten(), layer.weight_hh_l1.detach().flatten())
    with pytest.raises(OptionError, match="rebase_every"):
        build(2, 4, rebase_every=2)
