"""The fused scan where it goes ways of its own: parts of the time, memory, products, precision."""

import contextlib
import math

import pytest
import torch
from support.counting import AliveBytes
from support.scan_cases import EVERY, arguments, call, real
from support.selection import sample
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import manifold_rnn as mr
from manifold_rnn.nn.cells.accumulate import accumulate
from manifold_rnn.nn.products import OneDnnProducts, Products, add_outer, products_with
from manifold_rnn.nn.scan import ElmanForm, fused
from manifold_rnn.nn.scan.elman.engine import plain_states


@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_where_no_number_may_be_read(activation, dtype, generator):
    tensors = arguments(activation, dtype, (70, 3, 4, 2), generator)
    results = []
    for run, guard in ((fused, mr.linalg.fixed_iterations()), (plain_states, contextlib.nullcontext())):
        with guard:
            out = call(run, activation, tensors)
            results.append(
                torch.autograd.grad(real(out[0] if run is fused else out).sin().sum(), list(tensors.values()))
            )
    torch.testing.assert_close(*results, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_comes_out_may_be_used_by_autograd(recompute, generator):
    tensors = arguments("modrelu", torch.float64, (9, 3, 4, 2), generator)
    y, h = call(fused, "modrelu", tensors, every_step=not recompute, recompute=recompute)
    (y if y is not None else h).sum().backward()
    assert not any(t.is_inference() for t in (h, *(p.grad for p in tensors.values())))
    assert y is None or not y.is_inference()


def test_sums_with_a_factor_have_every_derivative(generator):
    a, start = (torch.randn(*shape, 2, 3, dtype=torch.float64, generator=generator) for shape in ((5,), ()))
    factors = torch.rand(5, 2, 1, dtype=torch.float64, generator=generator)
    for factor in (0.7, factors):
        tensors = [a.clone().requires_grad_(), start.clone().requires_grad_()]
        assert torch.autograd.gradcheck(lambda a, v, f=factor: accumulate(a, f, v), tensors)
        assert torch.autograd.gradgradcheck(lambda a, v, f=factor: accumulate(a, f, v).sin(), tensors)


def peak_bytes(T, recompute):
    """Bytes alive at one time in a training step with a loss on the last output."""
    layer = mr.nn.RNN(1, 16, nonlinearity="modrelu", recompute=recompute)
    x = torch.randn(T, 8, 1)
    with AliveBytes() as counter:
        layer(x, every_step=False)[1].sum().backward()
    return counter.peak


@pytest.mark.parametrize(("T", "share"), sample([(700, 0.3), (2000, 0.2), (10_000, 0.1)], every=3))
def test_memory_is_that_of_the_states_or_of_few_of_them(T, share):
    buffer = T * 8 * 16 * 4
    assert buffer < peak_bytes(T, recompute=False) < 1.5 * buffer
    assert peak_bytes(T, recompute=True) < share * buffer


@pytest.mark.parametrize("recompute", [False, True])
def test_ten_thousand_steps_neither_overflow_nor_lose_the_gradient(recompute):
    layer = mr.nn.RNN(1, 8, nonlinearity="modrelu", constraint=mr.Orthogonal(), recompute=recompute)
    nn.init.zeros_(layer.bias_l0)
    _, h = layer(torch.randn(10_000, 2, 1) / 100, every_step=False)
    h.square().sum().backward()
    for p in layer.parameters():
        assert p.grad.isfinite().all() and p.grad.any()


@pytest.mark.parametrize("with_gradient", [False, True])
def test_products_by_onednn_are_those_of_the_blas(with_gradient, generator):
    n, B = 200, 128
    W, h, z, g = (torch.randn(s, n, generator=generator) for s in (n, B, B, B))
    by = products_with(W, B)
    if not isinstance(by, OneDnnProducts):
        pytest.skip("this build of torch has no such call")
    assert type(products_with(W, 2)) is Products and type(products_with(W.double(), B)) is Products
    g = g if with_gradient else None
    plain, scale = Products(W), math.sqrt(n)
    torch.testing.assert_close(by.forward(z.clone(), h) / scale, plain.forward(z.clone(), h) / scale, atol=1e-5, rtol=0)
    out = [p.backward(g, h, torch.empty_like(h)) / scale for p in (by, plain)]
    torch.testing.assert_close(*out, atol=1e-5, rtol=0)
    rows = torch.randn(1000, n, generator=generator)
    total = torch.zeros(n, n)
    add_outer(total, rows, rows)
    torch.testing.assert_close(total / 1000, rows.mT @ rows / 1000, atol=1e-5, rtol=0)


@pytest.mark.parametrize("T", [8, 9, 17])
def test_a_large_batch_has_a_short_ring(T, generator):
    tensors = arguments("tanh", torch.float64, (T, 3000, 40, 1), generator)
    gradients = [
        torch.autograd.grad(y.sin().sum(), [tensors["W"], tensors["V"]])
        for y in (call(fused, "tanh", tensors)[0], call(plain_states, "tanh", tensors))
    ]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_thresholds_of_both_signs_near_zero_and_in_half_precision(dtype):
    b, h0, W = (
        torch.tensor([0.25, -0.25, 0.5], dtype=dtype),
        torch.zeros(1, 3, dtype=dtype),
        torch.zeros(3, 3, dtype=dtype),
    )
    form = ElmanForm("modrelu", torch.eye(3, dtype=dtype), None, b)
    for row in ([0.0, 0.1, 1.0], [1e-7, -1e-7, 2.0], [-0.0, -1.0, 6e-8], [math.nan, math.inf, -math.inf]):
        z = torch.tensor([[row]], dtype=dtype)
        torch.testing.assert_close(fused(form, z, h0, W)[0], plain_states(form, z, h0, W), equal_nan=True)


def test_autocast_around_the_backward_pass_changes_nothing(generator):
    tensors = arguments("tanh", torch.float32, (6, 2, 3, 2), generator)
    loss = call(fused, "tanh", tensors)[0].sin().sum()
    expected = torch.autograd.grad(loss, list(tensors.values()), retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(loss, list(tensors.values()))
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize(
    ("dtype", "sizes", "sign"), [(torch.float16, (128, 32, 1), -1), (torch.bfloat16, (9000, 1, 1), 1)]
)
def test_sums_in_half_precision_neither_overflow_nor_stall(dtype, sizes, sign):
    V, b = torch.ones(1, 1, dtype=dtype, requires_grad=True), torch.zeros(1, dtype=dtype, requires_grad=True)
    x, h0, W = torch.ones(sizes, dtype=dtype), torch.zeros(sizes[1:], dtype=dtype), torch.zeros(1, 1, dtype=dtype)
    g = torch.full(sizes, 100.0, dtype=dtype)
    g[sizes[0] // 2 :] *= sign
    for results in torch.autograd.grad(fused(ElmanForm("linear", V, b), x, h0, W)[0], [V, b], g):
        torch.testing.assert_close(results.flatten(), g.double().sum((0, 1)).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_small_slopes_of_saturated_units(dtype, generator):
    tensors = {k: p.detach().to(dtype) for k, p in arguments("tanh", torch.float64, (70, 2, 5, 5), generator).items()}
    tensors["V"] = torch.diag(torch.tensor([1.0, 2.0, 4.0, 6.0, 8.0], dtype=dtype))
    tensors["x"] = tensors["x"].sign().add(tensors["x"] / 10).requires_grad_()
    tensors["W"].zero_()
    tensors["b"].zero_()
    results = [
        torch.autograd.grad(y.sum(), tensors["x"])
        for y in (call(fused, "tanh", tensors)[0], call(plain_states, "tanh", tensors))
    ]
    torch.testing.assert_close(*results, atol=0, rtol=4 * torch.finfo(dtype).eps)


def test_inputs_of_size_zero_leave_the_recurrence():
    form = ElmanForm("tanh", torch.zeros(3, 0))
    tensors = torch.zeros(4, 2, 0), torch.ones(2, 3), torch.eye(3)
    torch.testing.assert_close(fused(form, *tensors)[0], plain_states(form, *tensors))


def test_its_operations_are_counted():
    counts = []
    for backend in ("fused", "reference"):
        layer = mr.nn.RNN(3, 4, backend=backend)
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(70, 2, 3))[0].sum().backward()
        counts.append(counter.get_total_flops())
    assert 0.95 < counts[0] / counts[1] < 1.05
