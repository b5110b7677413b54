"""Cells whose steps are reflections and rotations that the input chooses: closed forms, blocks of time, refusals."""

import importlib.util
import sys

import pytest
import torch
from support import ROOT
from support.cell_cases import CELLS, make, parts, shaken
from support.scan_cases import choice
from support.seeds import seeded
from torch import nn

import manifold_rnn as mr
from manifold_rnn.diagnostics import recurrent_matrix
from manifold_rnn.errors import OptionError, ShapeError, UnsupportedError
from manifold_rnn.nn import Layer
from manifold_rnn.nn.cells import DeltaProduct, HouseholderProduct, Momentum, Rotating
from manifold_rnn.nn.cells.input_dependent import InputDependent

INPUT_DEPENDENT = [cell for cell in CELLS if isinstance(cell, InputDependent)]
IN_BLOCKS = [cell for cell in INPUT_DEPENDENT if cell.all_steps() is not None]
BACKENDS = ["chunked", pytest.param("reference", marks=pytest.mark.slow)]  # the loop takes a minute
WIDE = [torch.float64, torch.complex128]


def transpositions(permutation):
    """Swaps of two places, the first one first, whose product is the permutation."""
    swaps, now = [], list(range(len(permutation)))
    for value in range(len(permutation)):
        i, j = now.index(value), permutation[value]
        if i != j:
            swaps.append((i, j))
            now[i], now[j] = now[j], now[i]
    return swaps


def tracker(task):
    """A layer with weights set by hand that follows the words of a group, and the states of all elements."""
    d = len(task.elements[0])
    layer = Layer(HouseholderProduct(d - 1, bias=False), task.input_size, d, batch_first=True)
    keys = torch.zeros(d - 1, d, task.input_size)
    points = torch.arange(1.0, d + 1)
    points = points - points.mean()
    states = torch.stack([torch.empty(d).index_copy_(0, torch.tensor(p), points) for p in task.elements])
    for label, p in enumerate(task.elements):
        for k, (i, j) in enumerate(transpositions(p)):
            keys[k, i, label], keys[k, j, label] = 1, -1
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_key_l0.copy_(keys.flatten(0, 1))
    return layer, states


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", ["S3", "S4", "A5", "S5"])
def test_weights_set_by_hand_follow_words_of_ten_thousand_elements(group, backend):
    task = mr.tasks.GroupWords(group, length=10_000)
    layer, states = tracker(task)
    layer.backend = backend
    x, target = task.sample(2, generator=seeded())
    with torch.no_grad():
        y, _ = layer(x, states[0].expand(1, 2, -1))
    assert task.metric(y @ states.T, target) == 1


def exact_parity(backend):
    cell = HouseholderProduct(1, "reflection", bias=False)
    layer = Layer(cell, 2, 1, batch_first=True, backend=backend)
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_key_l0.copy_(torch.tensor([[0.0, 3.0]]))
    return layer


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_is_exact_at_a_hundred_thousand_steps(backend):
    task = mr.tasks.GroupWords("parity", length=100_000)
    x, target = task.sample(1, generator=seeded())
    with torch.no_grad():
        y, _ = exact_parity(backend)(x, torch.ones(1, 1, 1))
    assert torch.equal(y[..., 0], 1 - 2 * target.float())


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_a_memory_follows_a_word_as_well(backend):
    task = mr.tasks.GroupWords("S4", length=2_000)
    vector, _ = tracker(task)
    layer = Layer(DeltaProduct(3, "reflection", bias=False), 24, 4, batch_first=True, backend=backend)
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_key_l0.copy_(vector.weight_key_l0)
        layer.weight_query_l0.copy_(torch.eye(4)[:, :1].expand(4, 24))
        x, target = task.sample(3, generator=seeded())
        y, _ = layer(x, (torch.zeros(1, 3, 4), torch.eye(4).expand(1, 3, 1, 4, 4)))
    where = torch.tensor([p.index(0) for p in task.elements])  # the query reads who has come to the first place
    assert torch.equal(y.argmax(-1), where[target])


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("beta", ["reflection", "up to 2", "up to 1"])
def test_the_eigenvalue_along_a_vector_is_one_minus_beta(beta, dtype):
    layer = shaken(make(HouseholderProduct(1, beta), dtype=dtype))
    cell = layer.cell.bind(layer.weights("_l0"))
    u = cell.project(torch.randn(1, 3, dtype=dtype, generator=seeded()))
    u[:, :4] = 0
    step = torch.func.vmap(lambda h: cell.step(u, (h.unsqueeze(0),), cell.weights["weight_hh"])[0][0])
    W = step(torch.eye(4, dtype=dtype)).mT.detach()
    strength = 2.0 if beta == "reflection" else u[0, -1].real.item()
    assert 0 < strength <= (1 if beta == "up to 1" else 2)
    found = torch.linalg.eigvals(W).real.sort().values
    torch.testing.assert_close(found, torch.tensor([1 - strength, 1, 1, 1], dtype=torch.float64).sort().values)


def test_two_reflections_rotate_by_twice_the_angle_between_their_vectors():
    a, b = 0.3, 1.1
    keys = torch.tensor([torch.tensor(a).cos(), torch.tensor(a).sin(), torch.tensor(b).cos(), torch.tensor(b).sin()])
    cell = HouseholderProduct(2, bias=False).bind({"weight_ih": torch.zeros(2, 1), "weight_key": keys[:, None]})
    h, _ = cell.step(cell.project(torch.ones(1, 1)), (torch.tensor([[1.0, 0.0]]),), torch.empty(0, 2))
    torch.testing.assert_close(torch.atan2(h[0, 1], h[0, 0]), torch.tensor(2 * (b - a)))


@pytest.mark.parametrize("cell", [HouseholderProduct(3), DeltaProduct(2, "reflection"), Rotating()], ids=repr)
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_without_an_input_the_norm_of_the_state_is_kept(cell, dtype):
    layer = make(cell, dtype=dtype)
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        x = torch.randn(500, 2, 3, dtype=torch.float64, generator=seeded())
        start = tuple(torch.randn_like(h) for h in parts(layer(x)[1]))
        last = parts(layer(x, start if len(start) > 1 else start[0])[1])[-1]
    torch.testing.assert_close(last.flatten(2).norm(dim=-1), start[-1].flatten(2).norm(dim=-1), rtol=1e-12, atol=0)


def compare(layer, x, state=None, **options):
    """Outputs, last states and gradients in blocks and by the loop, and the loop's."""
    results = []
    for layer.backend in ("chunked", "reference"):
        leaf = x.clone().requires_grad_()
        y, h = layer(leaf, state, **options)
        weight = torch.linspace(-1, 1, parts(h)[-1].numel()).reshape(parts(h)[-1].shape).to(parts(h)[-1].dtype)
        loss = (parts(h)[-1] * weight).abs().square().sum() + parts(h)[0].abs().square().sum()
        if y is not None:
            loss = loss + y.abs().square().mean()
        found = torch.autograd.grad(loss, [leaf, *layer.parameters()], allow_unused=True)
        results.append([*(() if y is None else (y.detach(),)), *(s.detach() for s in parts(h)), *found])
    return results


@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 70])
@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("cell", IN_BLOCKS, ids=repr)
def test_blocks_of_time_equal_the_loop_in_outputs_and_every_gradient(cell, dtype, T):
    layer = shaken(make(cell, dtype=dtype))
    x = torch.randn(T, 2, 3, dtype=torch.float64, generator=seeded(T))
    for ours, true in zip(*compare(layer, x), strict=True):
        if true is not None:
            torch.testing.assert_close(ours, true, rtol=0, atol=1e-11 * max(1, float(true.abs().max())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("cell", IN_BLOCKS, ids=repr)
def test_in_single_precision_they_are_as_near_to_the_truth_as_the_loop(cell, dtype):
    layer = make(cell, m=4, n=16, dtype=dtype)
    x, outputs = torch.randn(200, 4, 4, generator=seeded()), []
    with torch.no_grad():
        for layer.backend in ("chunked", "reference"):
            outputs.append(layer(x)[0])
        wide = make(cell, m=4, n=16, dtype=torch.complex128 if dtype.is_complex else torch.float64)
        wide.load_state_dict(layer.state_dict())
        true = wide(x.double())[0]
    ours, loops = ((y - true).abs().max() / true.abs().max() for y in outputs)
    assert ours <= max(1e-6, 4 * loops)


@pytest.mark.parametrize("kind", ["x is zero", "x is tiny", "x is huge", "equal vectors", "beta is 0", "beta is 2"])
@pytest.mark.parametrize("cell", [HouseholderProduct(2, "up to 2", bias=False), DeltaProduct(bias=False)], ids=repr)
def test_extreme_inputs_and_weights_agree_and_are_finite(cell, kind):
    layer = make(cell, dtype=torch.float32, n=4)
    x = torch.randn(40, 2, 3, generator=seeded())
    x = x * {"x is zero": 0.0, "x is tiny": 1e-30, "x is huge": 1e15}.get(kind, 1.0)
    with torch.no_grad():
        if kind == "equal vectors":
            layer.weight_key_l0.zero_()[:, 0] = 1.0
        if kind.startswith("beta"):
            layer.bias_beta_l0.fill_(-1e4 if kind == "beta is 0" else 1e4)
    ours, true = compare(layer, x)
    for a, b in zip(ours, true, strict=True):
        if b is not None:
            assert a.isfinite().all() and b.isfinite().all()
            torch.testing.assert_close(a, b, rtol=0, atol=2e-4 * max(float(b.abs().max()), 1e-30))


def test_a_vector_of_zero_is_the_identity():
    layer = make(HouseholderProduct(2, bias=False), dtype=torch.float64)
    start = torch.randn(1, 1, 4, dtype=torch.float64)
    y, _ = layer(torch.zeros(9, 1, 3, dtype=torch.float64), start)
    assert torch.equal(y, start.expand(9, 1, 4))


@pytest.mark.parametrize("cell", IN_BLOCKS, ids=repr)
def test_recomputing_changes_nothing_but_the_memory(cell):
    layer = shaken(make(cell))
    x = torch.randn(50, 2, 3, dtype=torch.float64, generator=seeded())
    kept, again = [], []
    for found, layer.recompute in ((kept, False), (again, True)):
        saved = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.numel()) or t, lambda t: t)
        with hooks:
            y, _ = layer(x)
        found += [sum(saved), y.detach(), *torch.autograd.grad(y.square().sum(), list(layer.parameters()))]
    torch.testing.assert_close(again[1:], kept[1:], atol=1e-10, rtol=1e-10)
    assert again[0] < kept[0] / 2


@pytest.mark.parametrize("cell", IN_BLOCKS, ids=repr)
def test_second_derivatives_of_the_blocks(cell):
    layer = shaken(make(cell, m=1, n=2, backend="chunked"))
    x = torch.randn(3, 1, 1, dtype=torch.float64, generator=seeded()).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,), atol=1e-5)


def test_the_log_names_the_scan_and_a_nonlinear_cell_runs_the_loop(caplog):
    x = torch.randn(9, 2, 3)
    assert choice(Layer(DeltaProduct(), 3, 4), x, caplog).startswith("chunked scan for DeltaProduct")
    assert choice(Layer(HouseholderProduct(nonlinearity="tanh"), 3, 4), x, caplog).startswith("reference")


def test_a_subclass_with_other_steps_runs_the_loop(caplog):
    class Halved(HouseholderProduct):
        def step(self, u, state, W):
            y, _ = super().step(u, state, W)
            return y / 2, (y / 2,)

    assert choice(Layer(Halved(), 3, 4), torch.randn(9, 2, 3), caplog).startswith("reference scan")


def test_large_phases_turn_by_what_remains_of_them():
    x = torch.full((30, 1, 1), 1e12, dtype=torch.float64)
    layer = make(Rotating(time_step=False), m=1, dtype=torch.complex128)
    ours, true = compare(layer, x)
    torch.testing.assert_close(ours[0], true[0], rtol=0, atol=1e-12 * float(true[0].abs().max()))


def test_an_odd_last_unit_is_not_rotated():
    layer = make(Rotating(), n=5)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    drive = x @ layer.weight_ih_l0.T + layer.bias_ih_l0
    torch.testing.assert_close(layer(x)[0][..., -1], drive[..., -1].cumsum(0))


GROUP = mr.Orthogonal()
REFUSED = {
    "reflections": (OptionError, "number of reflections.*got 0", lambda: HouseholderProduct(0)),
    "a number that is none": (OptionError, "got True", lambda: HouseholderProduct(True)),
    "beta": (OptionError, "beta of DeltaProduct.*got 2", lambda: DeltaProduct(2, 2.0)),
    "nonlinearity": (OptionError, "'relu'", lambda: HouseholderProduct(nonlinearity="relu")),
    "heads": (OptionError, "number of heads", lambda: DeltaProduct(heads=0)),
    "key_size": (OptionError, "key_size.*got 0", lambda: DeltaProduct(key_size=0)),
    "max_phase": (OptionError, "max_phase", lambda: Rotating(max_phase=-1.0)),
    "heads that do not fit": (ShapeError, "multiple of 3, got 4", lambda: Layer(DeltaProduct(heads=3), 2, 4)),
    "a constraint": (OptionError, "Householder", lambda: Layer(HouseholderProduct(), 2, 4, constraint=GROUP)),
    "a constraint by gate": (
        OptionError,
        "Rotating",
        lambda: Layer(Rotating(), 2, 4, constraint={"h": GROUP}),
    ),
    "momentum": (OptionError, "host with a recurrent matrix", lambda: Momentum(DeltaProduct())),
    "a constraint of a run": (
        OptionError,
        "DeltaProduct",
        lambda: mr.training.build_network(
            mr.training.NetworkSettings(cell="DeltaProduct", constraint="Orthogonal", hidden_size=4), 2, 3
        ),
    ),
    "gates of a run": (
        OptionError,
        "no constraint for Rotating",
        lambda: mr.training.build_network(
            mr.training.NetworkSettings(cell="Rotating", constraint="Orthogonal", gates=["h"], hidden_size=4), 2, 3
        ),
    ),
    "gates of a run without a constraint": (
        OptionError,
        "`network.gates` needs a `network.constraint`",
        lambda: mr.training.NetworkSettings(cell="Rotating", gates=["h"]),
    ),
    "its matrix": (
        OptionError,
        "no recurrent matrix",
        lambda: recurrent_matrix(Layer(Rotating(), 2, 4)),
    ),
    "blocks of another cell": (
        UnsupportedError,
        "one step at a time",
        lambda: Layer(mr.nn.cells.Elman(), 2, 4, backend="chunked")(torch.zeros(3, 1, 2)),
    ),
    "blocks of a nonlinear cell": (
        UnsupportedError,
        "all_steps",
        lambda: mr.nn.scan.chunked(HouseholderProduct(nonlinearity="tanh"), torch.zeros(3, 1, 2), (torch.zeros(1, 2),)),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_by_name(case):
    kind, match, call = REFUSED[case]
    with pytest.raises(kind, match=f"(?s){match}") as caught:
        call()
    assert len(str(caught.value)) <= 400


def test_an_input_that_is_nan_gives_nan_and_changes_no_weight():
    layer = make(HouseholderProduct())
    before = {name: p.clone() for name, p in layer.state_dict().items()}
    y, _ = layer(torch.full((3, 1, 3), torch.nan, dtype=torch.float64))
    assert y.isnan().all() and all(torch.equal(p, before[name]) for name, p in layer.state_dict().items())


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("group_words", ROOT / "benchmarks" / "group_words.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["group_words"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "benchmarks"))
    del sys.modules["group_words"]


@pytest.mark.slow
def test_two_reflections_learn_the_words_of_s3_and_one_does_not(benchmark):
    assert benchmark.train("two reflections", "S3") == (1.0, 1.0)
    assert max(benchmark.train("one reflection", "S3")) < 0.6


def test_every_network_of_the_benchmark_runs(benchmark):
    for start in benchmark.NETWORKS.values():
        network = benchmark.Tracker(start, 6)
        assert network(nn.functional.one_hot(torch.zeros(2, 4).long(), 6).float()).shape == (2, 4, 6)
