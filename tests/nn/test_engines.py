"""The fused and the native scan against the plain loop: outputs, every gradient, rounding, and what is not finite."""

import math

import pytest
import torch
from support.scan_cases import EVERY, arguments, call, edge_values, edges, error, real, require_native, values, wide
from support.selection import spread

from manifold_rnn.nn.scan import ElmanForm, fused, native
from manifold_rnn.nn.scan.elman.engine import plain_states

# The fused scan works on 64 steps at a time, at most. The native one has tiles of 12 rows and 32 columns at most,
# vectors of 2 to 16 entries, and sums the gradients of 256 rows at a time.
SIZES = [(1, 1, 1, 1), (5, 3, 4, 2), (65, 2, 3, 1), (130, 1, 1, 2), (7, 13, 33, 5), (9, 40, 70, 1), (3, 300, 17, 40)]
SIZES += [(150, 3, 24, 3)]
WANTED = ["every step", "last step", "last step, recomputed", "both"]


@pytest.fixture(params=[fused, native], ids=lambda run: run.__name__)
def scan(request):
    if request.param is native:
        require_native()
    return request.param


@pytest.mark.parametrize(("case", "sizes", "wanted"), spread(EVERY, SIZES, WANTED, every=5), ids=str)
def test_equals_the_loop_in_outputs_and_every_gradient(case, sizes, wanted, scan, generator):
    activation, dtype = case
    tensors = arguments(activation, dtype, sizes, generator)
    weight = torch.randn(sizes[0], *tensors["h0"].shape, dtype=dtype, generator=generator)
    results, true = (values(run, activation, tensors, weight, wanted) for run in (scan, plain_states))
    assert error(results, true) < 1e-12


@pytest.mark.parametrize("sizes", [(32, 13, 33, 5), (32, 20, 190, 1)], ids=str)
@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_single_precision(activation, dtype, sizes, scan, generator):
    tensors = wide(arguments(activation, dtype, sizes, generator))
    tensors["W"] = torch.linalg.qr(tensors["W"].detach())[0].requires_grad_()
    weight = torch.randn(sizes[0], *tensors["h0"].shape, dtype=dtype, generator=generator) / 32
    true = values(plain_states, activation, tensors, weight)
    single = {k: p.detach().to(torch.complex64 if p.is_complex() else torch.float32) for k, p in tensors.items()}
    single = {k: p.requires_grad_() for k, p in single.items()}
    results = values(scan, activation, single, weight)
    assert all(p.dtype == q.dtype for p, q in zip(results[2:], single.values(), strict=True))
    own = error(values(plain_states, activation, single, weight), true)
    assert error(results, true) < max(1e-5, 2 * own)  # a positive bias makes complex modReLU steep at the origin


@pytest.mark.parametrize("activation", ["tanh", "modrelu"])
def test_a_long_run_is_as_accurate_as_the_loop(activation, scan, generator):
    tensors = arguments(activation, torch.float32, (1000, 8, 48, 1), generator, shift=-0.01)
    tensors["W"] = torch.linalg.qr(tensors["W"].detach())[0].contiguous().requires_grad_()
    weight = torch.randn(1000, 8, 48, generator=generator)
    true = values(plain_states, activation, wide(tensors), weight)
    errors = [error(values(run, activation, tensors, weight), true) for run in (scan, plain_states)]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_what_is_not_finite_goes_where_it_goes_in_the_loop(activation, dtype, bad, scan, generator):
    for name in ("x", "V", "threshold", "W", "h0"):
        tensors = arguments(activation, dtype, (4, 14, 35, 2), generator)
        if name not in tensors:
            continue
        with torch.no_grad():
            tensors[name].view(-1)[tensors[name].numel() // 2] = bad
        weight = torch.randn(4, *tensors["h0"].shape, dtype=dtype, generator=generator)
        results, true = (values(run, activation, tensors, weight) for run in (scan, plain_states))
        known = 2 if name == "threshold" else None  # a unit whose threshold is none has no gradient worth a name
        for a, b in zip(results[:known], true[:known], strict=True):
            assert torch.equal(a.isfinite(), b.isfinite()), name
            fine = a.isfinite() if dtype.is_complex else ~a.isnan()  # products of complex infinities are not defined
            torch.testing.assert_close(a.where(fine, 0), b.where(fine, 0), atol=1e-11, rtol=1e-11)


def loops_gradients(run, form, x, h0, W):
    """All gradients of the last state by a scan and by the loop."""
    tensors = [t for t in (x, form.weight_ih, form.threshold, W, h0) if t is not None]
    return [
        torch.autograd.grad(real(h).sum(), tensors)
        for h in (run(form, x, h0, W, every_step=False)[1], plain_states(form, x, h0, W)[-1])
    ]


@pytest.mark.parametrize("where", [0, 3, 69])
@pytest.mark.parametrize("bad", ["x", "W"])
def test_nan_reaches_the_gradients_that_it_reaches_in_the_loop(bad, where, scan, generator):
    tensors = arguments("modrelu", torch.float64, (70, 3, 10, 2), generator, shift=-0.5)
    with torch.no_grad():
        (tensors["x"][where, 1] if bad == "x" else tensors["W"][1, 1:2]).fill_(math.nan)
    form = ElmanForm("modrelu", tensors["V"], None, tensors["threshold"])
    torch.testing.assert_close(*loops_gradients(scan, form, tensors["x"], tensors["h0"], tensors["W"]), equal_nan=True)


@pytest.mark.parametrize("where", [0, 3, 69])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "modrelu"])
def test_a_gradient_that_is_no_number_spreads_as_in_the_loop(activation, bad, where, scan, generator):
    tensors = arguments(activation, torch.float64, (70, 3, 10, 2), generator, shift=-0.5)
    del tensors["b"]
    outside = torch.randn(70, 3, 10, dtype=torch.float64, generator=generator)
    outside[where, 1, ::3] = bad  # of which some come to states at zero
    with torch.no_grad():
        tensors["h0"][:, 0] = tensors["V"][0] = tensors["W"][0] = 0  # one unit is there all the time
    results = [
        torch.autograd.grad(y, list(tensors.values()), outside)
        for y in (call(scan, activation, tensors)[0], call(plain_states, activation, tensors))
    ]
    torch.testing.assert_close(*results, equal_nan=True, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_thresholds_of_one_sign_and_states_of_zeros(shift, dtype, scan, generator):
    tensors = arguments("modrelu", dtype, (9, 2, 4, 2), generator, shift)
    weight = torch.randn(9, 2, 4, dtype=dtype, generator=generator)
    with torch.no_grad():
        tensors["h0"].zero_()
        tensors["x"][:3] = tensors["V"][1] = tensors["W"][1] = 0
    results, true = (values(run, "modrelu", tensors, weight) for run in (scan, plain_states))
    assert error(results, true) < 1e-12


def test_a_unit_that_is_switched_off_has_gradients_of_zero(scan, generator):
    tensors = arguments("modrelu", torch.complex128, (5, 3, 4, 2), generator)
    threshold = torch.tensor([-math.inf, -0.1, 0.1, 0.0], dtype=torch.float64, requires_grad=True)
    form = ElmanForm("modrelu", tensors["V"], None, threshold)
    results = loops_gradients(scan, form, tensors["x"], tensors["h0"], tensors["W"])
    assert all(g.isfinite().all() for g in results[0])
    torch.testing.assert_close(*results, atol=1e-12, rtol=1e-12)


def test_a_batch_of_nobody(scan, generator):
    tensors = arguments("tanh", torch.float64, (3, 0, 4, 2), generator)
    y, h = call(scan, "tanh", tensors)
    assert y.shape == (3, 0, 4) and h.shape == (0, 4)
    (y.sum() + h.sum()).backward()
    assert not tensors["W"].grad.any() and tensors["x"].grad.shape == (3, 0, 2)


@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_second_derivatives(activation, dtype, scan, generator):
    tensors = arguments(activation, dtype, (4, 2, 3, 2), generator)

    def outputs(*inputs):
        return call(scan, activation, dict(zip(tensors, inputs, strict=True)))

    assert torch.autograd.gradcheck(outputs, list(tensors.values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, list(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_gradients_of_chosen_inputs_and_twice(dtype, scan, generator):
    tensors = arguments("modrelu", dtype, (6, 2, 3, 2), generator)
    weight = torch.randn(6, 2, 3, dtype=dtype, generator=generator)
    true = values(plain_states, "modrelu", tensors, weight)[2:]
    for name, expected in zip(tensors, true, strict=True):
        alone = {other: t.detach().requires_grad_(other == name) for other, t in tensors.items()}
        y, h = call(scan, "modrelu", alone)
        loss = real(weight * y).sum() + real(weight[0] * h).sum()
        for _ in range(2):
            (got,) = torch.autograd.grad(loss, alone[name], retain_graph=True)
            assert error([got], [expected]) < 1e-12


def test_tensors_laid_out_otherwise(scan, generator):
    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    W, V, b, h0 = draw(7, 7).mT / 7, draw(3, 7).mT, draw(14)[::2], draw(1, 7).expand(4, 7)
    inputs = [draw(4, 5, 3).transpose(0, 1), draw(3, 5, 4).permute(1, 2, 0), draw(5, 1, 3).expand(5, 4, 3)]
    for x in (*inputs, draw(5, 4, 3).to(torch.complex128).conj().imag):
        results = []
        for run in (scan, plain_states):
            tensors = [p.clone(memory_format=torch.preserve_format).requires_grad_() for p in (W, V, b)]
            start, entered = h0.detach().requires_grad_(), x.detach().requires_grad_()
            y = run(ElmanForm("tanh", tensors[1], tensors[2]), entered, start, tensors[0])
            y = y if run is plain_states else y[0]
            loss = y.transpose(0, 1).sum() + y[..., 2].square().sum()  # gradients that are expanded, and in part zero
            results.append([y, *torch.autograd.grad(y.sum(), start, retain_graph=True)])
            results[-1] += torch.autograd.grad(loss, [*tensors, start, entered])
        assert error(*results) < 1e-12


def test_inputs_that_are_not_mapped(scan, generator):
    u, h0 = (torch.randn(*s, 2, 19, dtype=torch.float64, generator=generator).requires_grad_() for s in ((6,), ()))
    W = (torch.randn(19, 19, dtype=torch.float64, generator=generator) / 9).requires_grad_()
    results = []
    for run in (scan, plain_states):
        y = run(ElmanForm("relu"), u, h0, W)
        results.append([*torch.autograd.grad((y if run is plain_states else y[0]).sin().sum(), [u, h0, W])])
    assert error(*results) < 1e-12


def test_an_output_changed_in_place_is_noticed(scan, generator):
    y, h = call(scan, "tanh", arguments("tanh", torch.float64, (6, 2, 3, 2), generator))
    with torch.no_grad():
        y[2] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@pytest.mark.parametrize(("activation", "double"), EVERY, ids=str)
def test_arguments_from_subnormal_to_the_largest_numbers(activation, double, scan, generator):
    dtype = torch.complex64 if double.is_complex else torch.float32
    tensors, weight = edges(activation, dtype, generator)
    true = edge_values(plain_states, activation, wide(tensors), weight)
    for run in (scan, plain_states):  # the loop is compared as well
        for a, b in zip(edge_values(run, activation, tensors, weight), true, strict=True):
            torch.testing.assert_close(a.to(b.dtype), b, rtol=1e-4, atol=1e-5)
