"""The scan of steps written by hand against the plain loop: outputs, every gradient, and what is not finite."""

import dataclasses
import math

import pytest
import torch
from support.cell_cases import make, parts, shaken
from support.seeds import seeded
from support.tolerances import atol
from support.wrapped import Wrapped
from torch import nn

import manifold_rnn as mr
from manifold_rnn._kernels import pointwise
from manifold_rnn.nn.cells import GORU, GRU, LEM, LSTM, NRU, Elman, Momentum, gated_form
from manifold_rnn.nn.scan import gated, reference

REAL = [LSTM(), LSTM(bias=False), GRU(), GRU(bias=False), GORU(), LEM(), LEM(1.3, bias=False), NRU(16, 4), NRU(9, 1)]
CASES = [(cell, torch.float64) for cell in REAL] + [(cell, torch.complex128) for cell in (LSTM(), LSTM(bias=False))]
HOSTED = [(Momentum(host, kind), torch.float64) for host in REAL[:6] for kind in ("momentum", "adam", "restart")]


@pytest.fixture(params=["library", "torch"], autouse=True)
def kernels(request, monkeypatch):
    """Both ways of computing what is between two products."""
    if request.param == "torch":
        monkeypatch.setattr(gated_form, "functions", lambda dtype: None)
    elif pointwise.functions(torch.float64) is None:
        pytest.skip("the package was installed without its compiled library")
    return request.param


def twins(cell, dtype, n=5, **options):
    """Layers with the same weights, by hand and by the plain loop."""
    layers = [shaken(make(cell, n=n, dtype=dtype, backend=b, **options)) for b in ("gated", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    return layers


def values(layer, x, every_step=True, start=None):
    """Outputs and last states, and the gradients of a weighted sum of them, of inputs, start and parameters."""
    x = x.clone().requires_grad_()
    start = start and tuple(s.clone().requires_grad_() for s in start)
    y, h = layer(x, start if start is None or len(start) > 1 else start[0], every_step=every_step)
    outputs = [*([y] if every_step else []), *parts(h)]
    generator = seeded(1)
    weights = [torch.randn(z.shape, dtype=z.dtype, generator=generator) for z in outputs]
    loss = sum((w * z).real.sum() for w, z in zip(weights, outputs, strict=True))
    leaves = [x, *(start or ()), *layer.parameters()]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [
        *(z.detach() for z in outputs),
        *(z.new_zeros(z.shape) if g is None else g for z, g in zip(leaves, gradients, strict=True)),
    ]


def assert_near(ours, true, factor=1.0):
    for a, b in zip(ours, true, strict=True):
        size = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a, b.to(a.dtype), rtol=0, atol=10 * factor * atol(a.dtype) * size)


@pytest.mark.parametrize("every_step", [True, False], ids=["all", "last"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained start", "zeros"])
@pytest.mark.parametrize(("cell", "dtype"), [*CASES, *HOSTED], ids=str)
def test_equals_the_loop_in_outputs_and_every_gradient(cell, dtype, trained, every_step):
    layers = twins(cell, dtype, train_initial_state=trained)
    for layer in layers:  # a mean of squares, or a count, is not negative
        for name, p in layer.named_parameters():
            if trained and isinstance(cell, Momentum) and name[-4] not in "e2":
                p.data.abs_()
    x = torch.randn(9, 3, 3, dtype=torch.float64, generator=seeded())
    assert_near(*(values(layer, x, every_step) for layer in layers))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (70, 2, 17, 3), (3, 40, 36, 1)], ids=str)
@pytest.mark.parametrize(("cell", "dtype"), CASES, ids=str)
def test_every_size_and_a_given_start(cell, dtype, sizes, monkeypatch):
    T, B, n, m = sizes
    layers = [make(cell, m, n, dtype=dtype, backend=backend) for backend in ("gated", "reference")]
    x = torch.randn(T, B, m, dtype=dtype, generator=seeded())
    bound = layers[0].cell.bind(layers[0].weights("_l0"))
    zeros = bound.initial_state(B)
    start = tuple(torch.randn(1, *s.shape, dtype=s.dtype, generator=seeded(3)) for s in zeros)
    assert_near(*(values(layer, x, start=start) for layer in layers))


@pytest.mark.parametrize(("cell", "dtype"), CASES, ids=str)
def test_batch_first_levels_directions_and_dropout(cell, dtype):
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5}
    layers = twins(cell, dtype, **options)
    x = torch.randn(3, 6, 3, dtype=torch.float64, generator=seeded())
    results = []
    for layer in layers:
        torch.manual_seed(5)
        results.append(values(layer, x))
    assert_near(*results)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("cell", "dtype"), [*CASES, *HOSTED[:6]], ids=str)
def test_packed_sequences(cell, dtype, reverse):
    layers = twins(cell, dtype, bidirectional=reverse)
    x = torch.randn(7, 4, 3, dtype=torch.float64, generator=seeded())
    packed = nn.utils.rnn.pack_padded_sequence(x, [3, 7, 1, 7], enforce_sorted=False)
    results = []
    for layer in layers:
        y, h = layer(packed)
        loss = y.data.abs().square().sum() + sum(s.abs().sum() for s in parts(h))
        results.append([y.data.detach(), *torch.autograd.grad(loss, list(layer.parameters()))])
    assert_near(*results)


@pytest.mark.parametrize(("cell", "dtype"), CASES, ids=str)
def test_single_precision_is_as_accurate_as_the_loop(cell, dtype):
    single = torch.complex64 if dtype.is_complex else torch.float32
    wide, rounded = make(cell, 2, 32, dtype=dtype, backend="reference"), make(cell, 2, 32, dtype=single)
    wide.load_state_dict(rounded.state_dict())
    x = torch.randn(150, 4, 2, generator=seeded())
    true, errors = values(wide, x.double(), every_step=False), []
    for backend in ("gated", "reference"):
        rounded.backend = backend
        results = values(rounded, x, every_step=False)
        errors.append(
            max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(results, true, strict=True))
        )
    assert errors[0] < max(10 * atol(single), 3 * errors[1])


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e2, 1e4], ids=str)
@pytest.mark.parametrize(("cell", "dtype"), CASES, ids=str)
def test_inputs_and_weights_of_extreme_size(cell, dtype, size):
    layers = twins(cell, dtype)
    growing = isinstance(cell, (GORU, NRU))  # whose states are not bounded
    for layer in layers:
        with torch.no_grad():
            for name, p in layer.named_parameters():
                if not growing or "ih" in name or size < 1:
                    p.mul_(size)
    x = torch.randn(5, 3, 3, dtype=torch.float64, generator=seeded()) * size
    results, true = (values(layer, x) for layer in layers)
    for a, b in zip(results, true, strict=True):
        assert a.isfinite().all()
        scale = max(float(b.abs().max()), 0.0 if size < 1 else 1.0)  # of gates that are 1 but for rounding
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10 * scale)


@pytest.mark.parametrize("size", [1e6, 1e20, 3e38], ids=str)
@pytest.mark.parametrize("cell", [LSTM(), GRU(), GORU(), LEM(), LEM(1.3)], ids=str)
def test_a_saturated_gate_has_no_gradient_however_large_the_input(cell, size):
    layers = twins(cell, torch.float32)
    for layer in layers:
        with torch.no_grad():
            layer.weight_ih_l0.mul_(min(1.0, 1e30 / size))
    x = size / 3 * torch.randn(4, 2, 3, generator=seeded()).clamp(-1, 1)
    assert_near(*(values(layer, x) for layer in layers), factor=10)


@pytest.mark.parametrize("size", [1e6, 1e20], ids=str)  # of larger ones the loop itself loses digits
def test_a_complex_lstm_turns_a_huge_argument_as_the_loop_does(size):
    layers = twins(LSTM(), torch.complex64)
    x = size * torch.randn(4, 2, 3, dtype=torch.complex64, generator=seeded())
    assert_near(*(values(layer, x) for layer in layers), factor=10)


def test_an_nru_whose_directions_are_zero_or_tiny():
    for size in (0.0, 1e-200, 1e-13, 1e-6):
        layers = twins(NRU(16, 4), torch.float64)
        for layer in layers:
            with torch.no_grad():
                layer.weight_hm_l0[8:] *= size
                layer.bias_hm_l0[8:] *= size
                layer.weight_hm_l0[8:12] = layer.bias_hm_l0[8:12] = 0  # the first part of p
        results, true = (
            values(layer, torch.randn(4, 2, 3, dtype=torch.float64, generator=seeded())) for layer in layers
        )
        for a, b in zip(results, true, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize(("cell", "dtype"), CASES, ids=str)
def test_inputs_that_are_not_finite_reach_what_they_reach_in_the_loop(cell, dtype, bad):
    layers = twins(cell, dtype)
    x = torch.randn(5, 3, 3, dtype=torch.float64, generator=seeded())
    x[2, 1, 0] = bad
    results, true = ([z.detach() for z in (layer(x)[0], *parts(layer(x)[1]))] for layer in layers)
    for a, b in zip(results, true, strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())
        torch.testing.assert_close(a.where(a.isfinite(), 0), b.where(b.isfinite(), 0), rtol=0, atol=1e-11)


@pytest.mark.parametrize("value", [2e38, math.inf, math.nan], ids=str)
def test_a_momentum_that_overflows_before_the_projection_runs_as_in_the_loop(value):
    layers = twins(Momentum(LSTM(), momentum=0.9, scale=1.0), torch.float32)
    for layer in layers:
        with torch.no_grad():
            layer.weight_ih_l0.mul_(1e-4)
    x = torch.ones(20, 2, 3)
    x[:, 0] = value
    results, true = ([y.detach(), *(s.detach() for s in h)] for y, h in (layer(x) for layer in layers))
    torch.testing.assert_close(results[:3], true[:3], equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False], ids=["trained start", "zeros"])
@pytest.mark.parametrize("cell", [GORU(), NRU(16, 4)], ids=str)
def test_an_infinite_gradient_of_a_unit_that_is_off_is_zero_as_in_the_loop(cell, trained):
    layers = twins(cell, torch.float64, train_initial_state=trained)
    results = []
    for layer in layers:
        with torch.no_grad():
            layer.weight_ih_l0[0] = layer.weight_hh_l0[0] = layer.bias_ih_l0[0] = 0
        x = torch.randn(4, 2, 3, dtype=torch.float64, generator=seeded())
        y, _ = layer(x)
        weight = torch.ones_like(y)
        weight[2, 1, 0] = math.inf
        results.append(torch.autograd.grad(y, list(layer.parameters()), weight))
    torch.testing.assert_close(*results, equal_nan=True, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("cell", "dtype"),
    [
        (LSTM(), torch.float64),
        (GRU(), torch.float64),
        (GORU(), torch.float64),
        (LEM(), torch.float64),
        (NRU(4, 1), torch.float64),
        (LSTM(), torch.complex128),
    ],
    ids=str,
)
def test_second_derivatives(cell, dtype):
    layer = shaken(make(cell, 2, 3, dtype=dtype, backend="gated", train_initial_state=True))
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(3, 2, 2, dtype=dtype, generator=seeded(), requires_grad=True)

    def run(x, *weights):
        y, h = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))
        return y, *parts(h)

    inputs = (x, *(p.detach().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True, atol=1e-4)


def test_what_sees_every_step_runs_the_loop():
    layer, x = make(LEM()), torch.randn(4, 2, 3, dtype=torch.float64, generator=seeded())

    def loss(x):
        return layer(x)[0].square().sum()

    expected = torch.autograd.grad(loss(x.requires_grad_()), x)[0]
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), expected)
    tangent = torch.func.jvp(loss, (x.detach(),), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, expected.sum())
    torch.testing.assert_close(torch.func.vmap(lambda z: layer(z)[0])(x.detach().unsqueeze(0))[0], layer(x)[0])


@pytest.mark.parametrize(("cell", "dtype"), CASES, ids=str)
def test_the_graph_keeps_no_more_memory_than_that_of_the_loop(cell, dtype):
    kept = []
    for layer in twins(cell, dtype, n=36):
        storages = {}

        def pack(z, storages=storages):
            storages[z.untyped_storage().data_ptr()] = z.untyped_storage().nbytes(), z
            return z

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda z: z):
            y = layer(torch.randn(40, 8, 3, dtype=torch.float64, generator=seeded()))[0]
        kept.append(sum(size for size, _ in storages.values()) + y.untyped_storage().nbytes())
    assert kept[0] <= kept[1]


def test_cells_without_steps_by_hand_are_refused_with_a_reason():
    for cell in (Elman(), NRU(9, 1, rectify=True), NRU(9, 4), Momentum(Elman())):
        with pytest.raises(mr.errors.UnsupportedError, match="hand-written"):
            make(cell, backend="gated")(torch.zeros(3, 2, 3, dtype=torch.float64))
    with pytest.raises(mr.errors.UnsupportedError, match="single or double"):
        make(LEM(), dtype=torch.bfloat16, backend="gated")(torch.zeros(3, 2, 3, dtype=torch.bfloat16))


def test_a_cell_with_other_steps_runs_by_the_loop():
    class Doubled(LSTM):
        def step(self, u, state, W):
            y, state = super().step(u, state, W)
            return 2 * y, state

    class Halved(NRU):
        def heads_of(self, a):
            strengths, directions = super().heads_of(a)
            return strengths / 2, directions

    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=seeded())
    for cell in (Doubled(), Halved(16, 4), Momentum(Doubled()), Momentum(Halved(16, 4))):
        with pytest.raises(mr.errors.UnsupportedError, match="hand-written"):
            make(cell, backend="gated")(x)
        layers = [make(cell, backend=backend) for backend in ("auto", "reference")]
        torch.testing.assert_close(layers[0](x)[0], layers[1](x)[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("cell", "dtype"), CASES[:7], ids=str)
def test_a_subclass_without_memory_sees_every_operation(cell, dtype):
    layer = make(cell)
    bound, W = layer.cell.bind(layer.weights("_l0")), layer.weight_hh_l0
    x, state = torch.randn(4, 2, 3, dtype=torch.float64, generator=seeded()), bound.initial_state(2)
    with pytest.raises(mr.errors.UnsupportedError, match="subclass"):
        mr.nn.scan.run(bound, Wrapped(x), state, W, backend="gated")
    with torch.no_grad():  # even then the library, which would read addresses, is not called
        y, _ = gated(bound.gated_form(W), Wrapped(x), state)
        torch.testing.assert_close(y, layer(x)[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("cell", "dtype"), CASES, ids=str)
def test_shapes_that_do_not_match_are_refused(cell, dtype):
    layer = make(cell, 3, 4, dtype=dtype)
    bound, W = layer.cell.bind(layer.weights("_l0")), layer.weight_hh_l0
    form, x, state = bound.gated_form(W), torch.zeros(5, 2, 3, dtype=dtype), bound.initial_state(2)
    narrow = (*state[:-1], state[-1][:, :-1])
    rows = dataclasses.replace(form, weight_ih=form.weight_ih[1:])
    for arguments in (
        (form, x[:, :1], state),
        (form, x, bound.initial_state(1)),
        (form, x, narrow),
        (form, x[0], state),
        (form, x[:0], state),
        (rows, x, state),
        (dataclasses.replace(form, weights=(form.weights[0][1:], *form.weights[1:])), x, state),
    ):
        with pytest.raises(mr.errors.ShapeError, match="do not match"):
            gated(*arguments)


def test_the_function_itself_equals_the_reference():
    layer = make(GORU())
    cell, W = layer.cell.bind(layer.weights("_l0")), layer.weight_hh_l0
    x, state = torch.randn(6, 2, 3, dtype=torch.float64, generator=seeded()), cell.initial_state(2)
    y, last = gated(cell.gated_form(W), x, state)
    expected, expected_last = reference(cell, cell.project(x), state, W)
    torch.testing.assert_close((y, *last), (expected, *expected_last), rtol=0, atol=1e-13)
