"""The fused scan against the plain loop: outputs, every gradient, memory."""

import contextlib
import math
import os

import pytest
import torch
from counting import AliveBytes
from scan_cases import EVERY, arguments, call, real
from torch import nn

import manifold_rnn as mr
from manifold_rnn.nn.cells.accumulate import accumulate
from manifold_rnn.nn.scan import Form, building, fused, native
from manifold_rnn.nn.scan.engine import naive
from manifold_rnn.nn.scan.products import OneDnnProducts, Products, add_outer, products

SIZES = [(1, 1, 1, 1), (5, 3, 4, 2), (65, 2, 3, 1), (130, 1, 1, 2)]  # the ring of the backward pass has 64 steps


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


EXTENSIONS = os.environ.get("TORCH_EXTENSIONS_DIR", "")


def loops_gradients(run, form, x, h0, W):
    """All gradients of the last state by a scan and by the loop."""
    given = [t for t in (x, form.weight_ih, form.threshold, W, h0) if t is not None]
    return [
        torch.autograd.grad(real(h).sum(), given)
        for h in (run(form, x, h0, W, every_step=False)[1], naive(form, x, h0, W)[-1])
    ]


@pytest.fixture(params=[fused, native], ids=lambda run: run.__name__)
def scan(request, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", EXTENSIONS)
    if request.param is native and (reason := building.cannot_load()):
        pytest.skip(reason)
    return request.param


@pytest.mark.parametrize("where", [0, 3, 69])
@pytest.mark.parametrize("bad", ["x", "W"])
def test_nan_reaches_the_gradients_that_it_reaches_in_the_loop(bad, where, scan, generator):
    given = arguments("modrelu", torch.float64, (70, 3, 10, 2), generator, shift=-0.5)
    with torch.no_grad():
        (given["x"][where, 1] if bad == "x" else given["W"][1, 1:2]).fill_(math.nan)
    form = Form("modrelu", given["V"], None, given["threshold"])
    torch.testing.assert_close(*loops_gradients(scan, form, given["x"], given["h0"], given["W"]), equal_nan=True)


@pytest.mark.parametrize("where", [0, 3, 69])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "modrelu"])
def test_a_gradient_that_is_no_number_spreads_as_in_the_loop(activation, bad, where, scan, generator):
    given = arguments(activation, torch.float64, (70, 3, 10, 2), generator, shift=-0.5)
    del given["b"]
    outside = torch.randn(70, 3, 10, dtype=torch.float64, generator=generator)
    outside[where, 1, ::3] = bad  # of which some come to states at zero
    found = [
        torch.autograd.grad(y, list(given.values()), outside)
        for y in (call(scan, activation, given)[0], call(naive, activation, given))
    ]
    torch.testing.assert_close(*found, equal_nan=True, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_where_no_number_may_be_read(activation, dtype, generator):
    given = arguments(activation, dtype, (70, 3, 4, 2), generator)
    found = []
    for run, guard in ((fused, mr.linalg.fixed_iterations()), (naive, contextlib.nullcontext())):
        with guard:
            out = call(run, activation, given)
            found.append(torch.autograd.grad(real(out[0] if run is fused else out).sin().sum(), list(given.values())))
    torch.testing.assert_close(*found, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_comes_out_may_be_used_by_autograd(recompute, generator):
    given = arguments("modrelu", torch.float64, (9, 3, 4, 2), generator)
    y, h = call(fused, "modrelu", given, every_step=not recompute, recompute=recompute)
    (y if y is not None else h).sum().backward()
    assert not any(t.is_inference() for t in (h, *(p.grad for p in given.values())))
    assert y is None or not y.is_inference()


def test_a_unit_that_is_switched_off_has_gradients_of_zero(scan, generator):
    given = arguments("modrelu", torch.complex128, (5, 3, 4, 2), generator)
    threshold = torch.tensor([-math.inf, -0.1, 0.1, 0.0], dtype=torch.float64, requires_grad=True)
    form = Form("modrelu", given["V"], None, threshold)
    found = loops_gradients(scan, form, given["x"], given["h0"], given["W"])
    assert all(g.isfinite().all() for g in found[0])
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)


def test_a_batch_of_nobody(scan, generator):
    given = arguments("tanh", torch.float64, (3, 0, 4, 2), generator)
    y, h = call(scan, "tanh", given)
    assert y.shape == (3, 0, 4) and h.shape == (0, 4)
    (y.sum() + h.sum()).backward()
    assert not given["W"].grad.any() and given["x"].grad.shape == (3, 0, 2)


def test_sums_with_a_factor_have_every_derivative(generator):
    a, start = (torch.randn(*shape, 2, 3, dtype=torch.float64, generator=generator) for shape in ((5,), ()))
    factors = torch.rand(5, 2, 1, dtype=torch.float64, generator=generator)
    for factor in (0.7, factors):
        given = [a.clone().requires_grad_(), start.clone().requires_grad_()]
        assert torch.autograd.gradcheck(lambda a, v, f=factor: accumulate(a, f, v), given)
        assert torch.autograd.gradgradcheck(lambda a, v, f=factor: accumulate(a, f, v).sin(), given)


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


@pytest.mark.parametrize("T", [8, 9, 17])
def test_a_large_batch_has_a_short_ring(T, generator):
    given = arguments("tanh", torch.float64, (T, 3000, 40, 1), generator)
    gradients = [
        torch.autograd.grad(y.sin().sum(), [given["W"], given["V"]])
        for y in (call(fused, "tanh", given)[0], call(naive, "tanh", given))
    ]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)


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


def test_autocast_around_the_backward_pass_changes_nothing(generator):
    given = arguments("tanh", torch.float32, (6, 2, 3, 2), generator)
    loss = call(fused, "tanh", given)[0].sin().sum()
    expected = torch.autograd.grad(loss, list(given.values()), retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(loss, list(given.values()))
    assert all(map(torch.equal, got, expected))
