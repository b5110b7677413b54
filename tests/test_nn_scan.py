"""The fused scan against the plain loop: outputs, every gradient, memory, and the choice between the two."""

import logging
import math

import pytest
import torch
from counting import AliveBytes
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call

import manifold_rnn as mr
from manifold_rnn.nn import cells
from manifold_rnn.nn.cells.accumulate import accumulate
from manifold_rnn.nn.scan import Form, fused
from manifold_rnn.nn.scan.engine import naive
from manifold_rnn.nn.scan.products import OneDnnProducts, Products, add_outer, products

REAL = [("linear", torch.float64), ("relu", torch.float64), ("tanh", torch.float64), ("modrelu", torch.float64)]
EVERY = [*REAL, ("linear", torch.complex128), ("modrelu", torch.complex128)]
SIZES = [(1, 1, 1, 1), (5, 3, 4, 2), (65, 2, 3, 1), (130, 1, 1, 2)]  # the ring of the backward pass has 64 steps
NAMES = ("x", "V", "b", "threshold", "W", "h0")


def arguments(activation, dtype, sizes, generator, shift=0.0):
    T, B, n, m = sizes

    def draw(*shape):
        return torch.randn(shape, dtype=dtype, generator=generator)

    given = {"x": draw(T, B, m), "V": draw(n, m), "b": 0.1 * draw(n), "W": draw(n, n) / n, "h0": draw(B, n)}
    if activation == "modrelu":  # of both signs, unless shifted
        given["threshold"] = 0.1 * torch.randn(n, dtype=given["x"].real.dtype, generator=generator) + shift
    return {name: given[name].requires_grad_() for name in NAMES if name in given}


def call(run, activation, given, **options):
    form = Form(activation, given["V"], given.get("b"), given.get("threshold"))
    return run(form, given["x"], given["h0"], given["W"], **options)


def real(z):
    return z.real + 2 * z.imag if z.is_complex() else z


@pytest.mark.parametrize("wanted", ["every step", "last step", "last step, recomputed", "both"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_equals_the_loop_in_outputs_and_every_gradient(activation, dtype, sizes, wanted, generator):
    given = arguments(activation, dtype, sizes, generator)
    options = {"every_step": wanted in ("every step", "both"), "recompute": "recomputed" in wanted}
    y, h = call(fused, activation, given, **options)
    expected = call(naive, activation, given)
    assert (y is None) == (not options["every_step"])
    torch.testing.assert_close(h, expected[-1], atol=1e-13, rtol=1e-13)
    weight = torch.randn(expected.shape, dtype=dtype, generator=generator)
    losses = [0.0, 0.0]
    if y is not None:
        torch.testing.assert_close(y, expected, atol=1e-13, rtol=1e-13)
        losses = [real(weight * out).sum() for out in (y, expected)]
    if wanted != "every step":
        losses = [loss + real(out * weight[0]).sum() for loss, out in zip(losses, (h, expected[-1]), strict=True)]
    got, true = (torch.autograd.grad(loss, list(given.values())) for loss in losses)
    for name, a, b in zip(given, got, true, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_thresholds_of_one_sign(shift, generator):
    given = arguments("modrelu", torch.float64, (9, 2, 4, 2), generator, shift)
    got, true = call(fused, "modrelu", given)[0], call(naive, "modrelu", given)
    torch.testing.assert_close(got, true, atol=1e-13, rtol=1e-13)
    gradients = [torch.autograd.grad(y.sin().sum(), list(given.values())) for y in (got, true)]
    torch.testing.assert_close(*gradients, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.1])
def test_a_state_of_zeros_stays_there_with_gradient_zero(threshold):
    b = torch.full((3,), threshold, requires_grad=True)
    W = torch.eye(3).requires_grad_()
    y, _ = fused(Form("modrelu", torch.zeros(3, 1), None, b), torch.ones(4, 2, 1), torch.zeros(2, 3), W)
    y.sum().backward()
    assert not y.any() and not b.grad.any() and not W.grad.any()


@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_second_derivatives(activation, dtype, generator):
    given = arguments(activation, dtype, (4, 2, 3, 2), generator)

    def outputs(*inputs):
        y, h = call(fused, activation, dict(zip(given, inputs, strict=True)))
        return y, h

    assert torch.autograd.gradcheck(outputs, list(given.values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, list(given.values()), fast_mode=True)


def test_gradients_of_chosen_inputs_and_twice(generator):
    given = arguments("modrelu", torch.float64, (6, 2, 3, 2), generator)
    all_of_them = torch.autograd.grad(call(fused, "modrelu", given)[0].sin().sum(), list(given.values()))
    for k, name in enumerate(given):
        alone = {other: t.detach().requires_grad_(other == name) for other, t in given.items()}
        loss = call(fused, "modrelu", alone)[0].sin().sum()
        for _ in range(2):
            (got,) = torch.autograd.grad(loss, alone[name], retain_graph=True)
            torch.testing.assert_close(got, all_of_them[k], atol=1e-13, rtol=1e-13)


def test_an_output_changed_in_place_is_noticed(generator):
    given = arguments("tanh", torch.float64, (6, 2, 3, 2), generator)
    y, h = call(fused, "tanh", given)
    with torch.no_grad():
        y[2] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


LAYERS = [
    {"nonlinearity": "modrelu"},
    {"nonlinearity": "tanh", "num_layers": 2, "bidirectional": True, "batch_first": True},
    {"nonlinearity": "relu", "bias": False, "bidirectional": True},
    {"nonlinearity": "modrelu", "dtype": torch.complex128, "num_layers": 2, "train_initial_state": True},
]


def pair(**options):
    torch.manual_seed(0)
    options = {"dtype": torch.float64, **options}
    reference = mr.nn.RNN(3, 4, backend="reference", **options)
    other = mr.nn.RNN(3, 4, backend="fused", **options)
    other.load_state_dict(reference.state_dict())
    return other, reference


@pytest.mark.parametrize("lengths", [None, [7, 7, 4, 2, 1]], ids=["padded", "packed"])
@pytest.mark.parametrize("constraint", [None, "update", "trivialized"])
@pytest.mark.parametrize("options", LAYERS, ids=lambda o: "-".join(map(str, o.values())))
def test_layers_give_the_same_with_either_backend(options, constraint, lengths, generator):
    if constraint is not None:
        group = mr.Unitary if "dtype" in options else mr.Orthogonal
        options = {**options, "constraint": group(), "view": constraint}
    layers = pair(**options)
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    x = nn.utils.rnn.pack_padded_sequence(x, lengths) if lengths and not options.get("batch_first") else x
    found = []
    for layer in layers:
        y, h = layer(x)
        y = y.data if lengths and not options.get("batch_first") else y
        real(y.sin() + y.mean() * h.sum()).sum().backward()
        found.append([y, h, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*found, atol=1e-11, rtol=1e-11)


MOVED = [
    {"kind": "momentum"},
    {"kind": "momentum", "host": cells.Elman("modrelu")},
    {"kind": "adam", "momentum": 0.3},
    {"kind": "rmsprop"},
    {"kind": "restart", "period": 3},
]


@pytest.mark.parametrize("lengths", [None, [7, 7, 4, 2, 1]], ids=["padded", "packed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("options", MOVED, ids=str)
def test_momentum_is_run_ahead_of_its_host(options, dtype, lengths, generator):
    options = {"host": cells.Elman("tanh" if dtype == torch.float64 else "modrelu"), **options}
    layers = [
        mr.nn.Layer(cells.Momentum(**options), 3, 4, dtype=dtype, bidirectional=True, backend=backend)
        for backend in ("fused", "reference")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(7, 5, 3, dtype=torch.float64 if lengths else dtype, generator=generator)  # torch packs no complex
    start = tuple(torch.rand(2, 5, part.shape[-1], generator=generator).to(part.dtype) for part in layers[0](x)[1])
    found = []
    for layer in layers:
        inputs, state = x.clone().requires_grad_(), tuple(part.clone().requires_grad_() for part in start)
        given = nn.utils.rnn.pack_padded_sequence(inputs, lengths) if lengths else inputs
        y, last = layer(given, state)
        loss = sum(real(out.sin()).sum() for out in (y.data if lengths else y, *last))
        loss.backward()
        gradients = [p.grad for p in (*layer.parameters(), inputs, *state)]
        found.append([y.data if lengths else y, *last, *gradients])
    torch.testing.assert_close(*found, atol=1e-11, rtol=1e-11)


def test_sums_with_a_factor_have_every_derivative(generator):
    a, start = (torch.randn(*shape, 2, 3, dtype=torch.float64, generator=generator) for shape in ((5,), ()))
    factors = torch.rand(5, 2, 1, dtype=torch.float64, generator=generator)
    for factor in (0.7, factors):
        given = [a.clone().requires_grad_(), start.clone().requires_grad_()]
        assert torch.autograd.gradcheck(lambda a, v, f=factor: accumulate(a, f, v), given)
        assert torch.autograd.gradgradcheck(lambda a, v, f=factor: accumulate(a, f, v).sin(), given)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_layer_may_keep_its_last_outputs_alone(backend, generator):
    options = {"dtype": torch.float64, "bidirectional": True, "num_layers": 2}
    layers = [mr.nn.RNN(3, 4, backend=backend, recompute=recompute, **options) for recompute in (False, True)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    h = layers[0](x)[1]
    for layer in layers:
        y, last = layer(x, every_step=False)
        assert y is None
        torch.testing.assert_close(last, h, atol=1e-14, rtol=0)
        last.sin().sum().backward()
    gradients = [[p.grad for p in layer.parameters()] for layer in layers]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)
    packed = nn.utils.rnn.pack_padded_sequence(x, [7, 7, 3, 2, 1])
    assert mr.nn.RNN(3, 4, dtype=torch.float64)(packed, every_step=False)[0] is None


GATED = [(mr.nn.LSTM, {}), (mr.nn.GRU, {"bias": False}), (mr.nn.LSTM, {"bidirectional": True, "num_layers": 2})]


@pytest.mark.parametrize("lengths", [None, [7, 2, 4, 4, 1]])
@pytest.mark.parametrize(("kind", "options"), GATED, ids=str)
def test_torchs_kernels_are_the_loop(kind, options, lengths, generator):
    layers = [kind(3, 4, dtype=torch.float64, backend=backend, **options) for backend in ("auto", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    x = x if lengths is None else nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    found = []
    for layer in layers:
        y, h = layer(x)
        y, h = y if lengths is None else y.data, h[1] if isinstance(h, tuple) else h
        (y.sin().sum() + h.cos().sum()).backward()
        found.append([y, h, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_diagonal_linear_layer_is_scanned_in_parallel(bidirectional, caplog, generator):
    disc = {"constraint": mr.UnitDisc(chart="diagonal"), "view": "trivialized", "bidirectional": bidirectional}
    x = torch.randn(9, 3, 2, dtype=torch.float64, generator=generator)
    layer = mr.nn.Layer(mr.nn.cells.LRU(), 2, 5, dtype=torch.complex128, **disc)
    found = []
    for backend in ("auto", "reference", "fused"):
        layer.backend = backend
        assert {"auto": "associative"}.get(backend, backend) in choice(layer, x, caplog)
        y, h = layer(x)
        found.append([y, h, *torch.autograd.grad(real(y.sin()).sum() + real(h).sum(), list(layer.parameters()))])
    torch.testing.assert_close(found[0], found[1], atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(found[2], found[1], atol=1e-11, rtol=1e-11)
    mr.release(layer, "weight_hh_l0")
    layer.backend = "auto"
    assert "not diagonal" in choice(mr.nn.Layer(mr.nn.cells.LRU(), 2, 5), x.float(), caplog)


def peak_bytes(T, recompute):
    """Bytes alive at one time in a training step with a loss on the last output."""
    layer = mr.nn.RNN(1, 16, nonlinearity="modrelu", recompute=recompute)
    x = torch.randn(T, 8, 1)
    with AliveBytes() as counter:
        layer(x, every_step=False)[1].sum().backward()
    return counter.peak


def test_memory_is_that_of_the_states_or_of_few_of_them():
    T = 2000
    buffer = T * 8 * 16 * 4
    assert buffer < peak_bytes(T, recompute=False) < 1.5 * buffer
    assert peak_bytes(T, recompute=True) < 0.2 * buffer
    assert peak_bytes(5 * T, recompute=True) < 0.1 * 5 * buffer


@pytest.mark.parametrize("recompute", [False, True])
def test_ten_thousand_steps_neither_overflow_nor_lose_the_gradient(recompute):
    layer = mr.nn.RNN(1, 8, nonlinearity="modrelu", constraint=mr.Orthogonal(), recompute=recompute)
    nn.init.zeros_(layer.bias_l0)
    _, h = layer(torch.randn(10_000, 2, 1) / 100, every_step=False)
    h.square().sum().backward()
    for p in layer.parameters():
        assert p.grad.isfinite().all() and p.grad.any()


def choice(layer, x, caplog, **options):
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="manifold_rnn.nn.scan"):
        layer(x, **options)
    return caplog.records[-1].getMessage()


def test_the_choice_and_its_reason_are_logged(caplog):
    x = torch.zeros(4, 2, 3)
    assert "fused" in choice(mr.nn.RNN(3, 4), x, caplog)
    assert "form" in choice(mr.nn.RNN(3, 4, nonlinearity=torch.sin), x, caplog)
    assert "fused" in choice(mr.nn.RNN(3, 4), nn.utils.rnn.pack_padded_sequence(x, [4, 2]), caplog)
    reverse = mr.nn.LSTM(3, 4, bidirectional=True)
    assert "packed" in choice(reverse, nn.utils.rnn.pack_padded_sequence(x, [4, 2]), caplog)
    assert "asked for" in choice(mr.nn.RNN(3, 4, backend="reference"), x, caplog)
    assert "library" in choice(mr.nn.LSTM(3, 4), x, caplog)
    assert "complex" in choice(mr.nn.LSTM(3, 4, dtype=torch.complex64), x, caplog)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in choice(mr.nn.RNN(3, 4), x, caplog)
    assert "no entries" in choice(mr.nn.RNN(3, 4), torch.zeros(4, 0, 3), caplog)


def test_functional_transforms_take_the_loop():
    layer = mr.nn.RNN(3, 4)
    x = torch.randn(5, 2, 3)
    parameters = dict(layer.named_parameters())
    gradients = torch.func.grad(lambda p: functional_call(layer, p, x)[0].sum())(parameters)
    layer(x)[0].sum().backward()
    torch.testing.assert_close(gradients, {k: p.grad for k, p in layer.named_parameters()})


def test_a_backend_that_cannot_or_is_none():
    with pytest.raises(mr.errors.OptionError, match=r"'auto', 'reference', .*'fused'"):
        mr.nn.RNN(3, 4, backend="fast")
    with pytest.raises(mr.errors.UnsupportedError, match="no form"):
        mr.nn.RNN(3, 4, nonlinearity=torch.sin, backend="fused")(torch.zeros(4, 2, 3))


@pytest.mark.parametrize("given", [False, True])
def test_products_by_onednn_are_those_of_the_blas(given, generator):
    n, B = 200, 128
    W, h, z, g = (torch.randn(s, n, generator=generator) for s in (n, B, B, B))
    by = products(W, B)
    if not isinstance(by, OneDnnProducts):
        pytest.skip("this build of torch has no such call")
    assert type(products(W, 2)) is Products and type(products(W.double(), B)) is Products
    g = g if given else None
    plain, scale = Products(W), math.sqrt(n)
    torch.testing.assert_close(by.onward(z.clone(), h) / scale, plain.onward(z.clone(), h) / scale, atol=1e-5, rtol=0)
    out = [p.back(g, h, torch.empty_like(h)) / scale for p in (by, plain)]
    torch.testing.assert_close(*out, atol=1e-5, rtol=0)
    rows = torch.randn(1000, n, generator=generator)
    total = torch.zeros(n, n)
    add_outer(total, rows, rows)
    torch.testing.assert_close(total / 1000, rows.mT @ rows / 1000, atol=1e-5, rtol=0)


def test_a_large_layer_in_single_precision_is_the_loop(generator):
    layers = [
        mr.nn.RNN(2, 200, nonlinearity="modrelu", backend=b, constraint=mr.Orthogonal()) for b in ("auto", "reference")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(20, 128, 2, generator=generator)
    found = []
    for layer in layers:
        y, _ = layer(x)
        y.square().mean().backward()
        found.append([y, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*found, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("T", [8, 9, 17])
def test_a_large_batch_has_a_short_ring(T, generator):
    given = arguments("tanh", torch.float64, (T, 3000, 40, 1), generator)
    gradients = [
        torch.autograd.grad(y.sin().sum(), [given["W"], given["V"]])
        for y in (call(fused, "tanh", given)[0], call(naive, "tanh", given))
    ]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("create_graph", [False, True])
def test_one_run_may_start_where_another_ended(create_graph, generator):
    found = []
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    for layer in pair(nonlinearity="tanh"):
        _, h = layer(x)
        y, _ = layer(x, h)
        found.append(torch.autograd.grad(y.square().sum(), list(layer.parameters()), create_graph=create_graph))
    torch.testing.assert_close(*found, atol=1e-11, rtol=1e-11)


def test_mapped_gradients_and_derivatives_forward(generator):
    layers, found = pair(nonlinearity="modrelu"), []
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator)
    layers[0].backend = "auto"
    for layer in layers:
        jacobian = torch.autograd.functional.jacobian(lambda x, f=layer: f(x)[1], x, vectorize=True)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            slope = torch.autograd.forward_ad.unpack_dual(layer(dual)[1]).tangent
        found.append([jacobian, slope])
    torch.testing.assert_close(*found, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_thresholds_of_both_signs_near_zero_and_in_half_precision(dtype):
    b, h0, W = (
        torch.tensor([0.25, -0.25, 0.5], dtype=dtype),
        torch.zeros(1, 3, dtype=dtype),
        torch.zeros(3, 3, dtype=dtype),
    )
    form = Form("modrelu", torch.eye(3, dtype=dtype), None, b)
    for row in ([0.0, 0.1, 1.0], [1e-7, -1e-7, 2.0], [-0.0, -1.0, 6e-8], [math.nan, math.inf, -math.inf]):
        z = torch.tensor([[row]], dtype=dtype)
        torch.testing.assert_close(fused(form, z, h0, W)[0], naive(form, z, h0, W), equal_nan=True)


def test_tensors_without_numbers():
    layer = mr.nn.RNN(3, 4, nonlinearity="modrelu", device="meta")
    assert layer(torch.empty(5, 2, 3, device="meta"))[0].shape == (5, 2, 4)
    with FakeTensorMode():
        layer = mr.nn.RNN(3, 4, nonlinearity="modrelu")
        assert layer(torch.empty(5, 2, 3))[0].shape == (5, 2, 4)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_is_of_the_loop():
    layer, x = mr.nn.RNN(3, 4), torch.randn(5, 2, 3)
    traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x), layer(x))


def test_autocast_around_the_backward_pass_changes_nothing(generator):
    given = arguments("tanh", torch.float32, (6, 2, 3, 2), generator)
    loss = call(fused, "tanh", given)[0].sin().sum()
    expected = torch.autograd.grad(loss, list(given.values()), retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(loss, list(given.values()))
    assert all(map(torch.equal, got, expected))


SLOWLY = [pytest.param(cell, marks=pytest.mark.slow) for cell in (cells.LSTM(), cells.LEM(), cells.NRU())]


@pytest.mark.parametrize("cell", [cells.Elman("relu"), *SLOWLY], ids=lambda cell: type(cell).__name__)
def test_compiled_steps_are_the_loop(cell, generator):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    layers = [mr.nn.Layer(cell, 3, 4, dtype=torch.float64, backend=backend) for backend in ("compile", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(35, 2, 3, dtype=torch.float64, generator=generator)  # two chunks and three steps
    found = []
    for layer in layers:
        y, h = layer(x)
        y.sin().sum().backward()
        found.append([y, *(h if isinstance(h, tuple) else (h,)), *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)
    layers[0](x)[0].sum().backward()
    assert counters["unique_graphs"] == before + 2  # the first state has no gradient


def test_what_the_compiler_cannot(monkeypatch):
    x = torch.zeros(20, 2, 3)
    with pytest.raises(mr.errors.UnsupportedError, match="complex"):
        mr.nn.RNN(3, 4, dtype=torch.complex64, nonlinearity="modrelu", backend="compile")(x)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(mr.errors.UnsupportedError, match=r"no C\+\+ compiler"):
        mr.nn.RNN(3, 4, backend="compile")(x)
