"""Properties of nonlinearities, cells and scans, from zero and subnormal numbers to the largest finite ones."""

import math

import torch
from hypothesis import strategies as st
from support import naive
from support.activation_cases import FUNCTIONS
from support.cell_cases import CELLS, RECURRENCES, make, parts, shaken
from support.properties import SINGLE_OF, law
from support.scan_cases import EVERY, arguments, error, values, wide
from support.seeds import seeded
from support.tolerances import atol

from manifold_rnn.nn.scan import associative, fused
from manifold_rnn.nn.scan.elman.engine import plain_states

EXPONENTS = st.one_of(st.floats(-45, 38.4), st.sampled_from([-45.0, -38.0, -19.0, 0.0, 19.0, 38.4]))
LOW = [torch.float32, torch.complex64]


@st.composite
def numbers(draw):
    """Numbers of any sizes, two of them zero, whose squares may vanish or overflow."""
    dtype = draw(st.sampled_from(LOW))
    exponents = draw(st.lists(EXPONENTS, min_size=1, max_size=4))
    z = torch.randn(len(exponents) + 2, dtype=dtype, generator=seeded(draw(st.integers(0, 2**32 - 1))))
    unit = (z / z.abs().clamp(min=1e-6)).to(torch.complex128 if dtype.is_complex else torch.float64)
    return (unit * torch.tensor([*(10.0**e for e in exponents), 0.0, 0.0], dtype=torch.float64)).to(dtype)


@law(z=numbers(), name=st.sampled_from(sorted(FUNCTIONS)), turn=st.floats(0, 2 * math.pi))
def test_nonlinearities_and_their_gradients_are_those_of_double_precision(z, name, turn):
    f = FUNCTIONS[name]
    found = []
    for x in (z, naive.wide(z)):
        x = x.clone().requires_grad_()
        y = f(x)
        cotangent = torch.tensor(complex(math.cos(turn), math.sin(turn)), dtype=torch.complex64)
        loss = (y * cotangent.to(y.dtype)).real.sum() if y.is_complex() else y.sum()
        found.append((y.detach(), torch.autograd.grad(loss, x)[0]))
    (y, g), (expected, slope) = found
    torch.testing.assert_close(y.to(expected.dtype), expected, rtol=1e-5, atol=1e-42)
    at_kink = (
        (expected.abs() < 1e-6 * z.abs().max().clamp(max=1).double()).any() if name.startswith("mod_relu") else False
    )
    if not at_kink and name != "ideal":
        torch.testing.assert_close(g.to(slope.dtype), slope, rtol=1e-5, atol=1e-5)
    assert bool(g.isfinite().all())


@law(
    T=st.integers(1, 70),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128]),
    radius=st.sampled_from([0.0, 1e-30, 0.5, 1.0]),
    exponent=st.floats(-30, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_parallel_scan_is_the_loop_with_its_gradients(T, dtype, radius, exponent, seed):
    generator = seeded(seed)
    d, u, h0 = (torch.randn(s, dtype=dtype, generator=generator) for s in [(3,), (T, 2, 3), (2, 3)])
    d = radius * d / d.abs().clamp(min=1)
    scale = 10.0**exponent
    weight = torch.randn(T, 2, 3, dtype=dtype, generator=generator)

    def loop(d, u, h):
        states = []
        for u_t in u:
            h = d * h + u_t
            states.append(h)
        return torch.stack(states)

    found = []
    for run, cast in ((associative, dtype), (loop, SINGLE_OF[dtype])):
        inputs = [t.to(cast).requires_grad_() for t in (d, scale * u, scale * h0)]
        h = run(*inputs)
        found.append([h.detach(), *torch.autograd.grad((h * weight.to(cast)).real.sum(), inputs)])
    for ours, true in zip(*found, strict=True):
        bound = 30 * T * atol(dtype) * max(float(true.abs().max()), 1e-30)
        torch.testing.assert_close(naive.wide(ours), true, atol=bound, rtol=0)


@law(
    case=st.sampled_from(EVERY),
    sizes=st.tuples(st.sampled_from([1, 2, 5, 63, 65]), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3)),
    wanted=st.sampled_from(["every step", "last step", "last step, recomputed", "both"]),
    shift=st.sampled_from([0.0, -0.3, 0.3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_fused_scan_is_the_loop_with_every_gradient(case, sizes, wanted, shift, seed):
    activation, dtype = case
    generator = seeded(seed)
    tensors = arguments(activation, dtype, sizes, generator, shift)
    weight = torch.randn(sizes[0], *tensors["h0"].shape, dtype=dtype, generator=generator)
    results, true = (values(run, activation, tensors, weight, wanted) for run in (fused, plain_states))
    assert error(results, true) < 1e-11


@law(
    case=st.sampled_from(EVERY),
    exponents=st.tuples(st.floats(-45, 37), st.floats(-3, 0)),
    sparse=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_fused_scan_keeps_to_double_precision_at_inputs_of_any_size(case, exponents, sparse, seed):
    activation, dtype = case
    generator = seeded(seed)
    tensors = arguments(activation, dtype, (3, 2, 4, 4), generator)
    low = {name: t.detach().to(torch.complex64 if t.is_complex() else torch.float32) for name, t in tensors.items()}
    low["x"] = (tensors["x"].detach() * 10.0 ** exponents[0]).to(low["x"].dtype)
    low["V"] = torch.eye(4, dtype=low["V"].dtype)
    low["b"] = torch.zeros_like(low["b"])
    low["h0"] = torch.zeros_like(low["h0"])
    low["W"] = torch.zeros_like(low["W"]) if sparse else (low["W"] * 10.0 ** exponents[1])
    low = {name: t.requires_grad_() for name, t in low.items()}
    weight = torch.randn(3, 2, 4, dtype=dtype, generator=generator)
    true = values(plain_states, activation, wide(low), weight)
    assert all(bool(t.isfinite().all()) for t in true)
    if any(float(t.detach().abs().max()) > 1e30 for t in true):
        return  # sums beyond single precision
    results = values(fused, activation, low, weight)
    own = error(values(plain_states, activation, low, weight), true)
    assert error(results, true) <= max(1e-4, 10 * own)


ONE_OF_EACH = [cell for cell in CELLS if type(cell) in RECURRENCES]


@law(
    cell=st.sampled_from(ONE_OF_EACH),
    T=st.integers(1, 6),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
    exponent=st.sampled_from([-300.0, -160.0, -20.0, 0.0, 1.0, 2.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_layer_is_its_recurrence_at_inputs_of_any_size(cell, T, dtype, exponent, seed):
    layer = shaken(make(cell, dtype=dtype, seed=seed % 1000), seed)
    w = {name: p.detach() for name, p in layer.weights("_l0").items()}
    x = torch.randn(T, 3, dtype=dtype, generator=seeded(seed)) * 10.0**exponent
    y, h_n = layer(x)
    state = tuple(torch.zeros(h[0].shape, dtype=dtype) for h in parts(h_n))
    for x_t, y_t in zip(x, y, strict=True):
        state = RECURRENCES[type(cell)](cell, w, x_t, *state)
        torch.testing.assert_close(y_t.detach(), state[0], atol=1e-11, rtol=1e-9)
    y.abs().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)
