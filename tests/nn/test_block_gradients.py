"""Backward passes of blocks of reflections against loops over the steps, at ordinary and extreme inputs."""

import pytest
import torch
from support.cell_cases import make, parts, shaken
from support.seeds import seeded
from support.tolerances import atol
from torch.nn.utils.rnn import pack_padded_sequence

from manifold_rnn.nn.cells import DeltaProduct, HouseholderProduct, delta_blocks, reflect_blocks
from manifold_rnn.nn.cells.delta_blocks import Rules, delta_in_blocks
from manifold_rnn.nn.cells.reflect_blocks import reflect_in_blocks

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
KINDS = ["ordinary", "beta is 0", "beta is 2", "equal vectors", "zero vectors", "tiny and huge vectors"]
DECAYS = ["no decay", "decay", "decay near 0", "slow decay"]
N, B, STEPS, HEADS, COUNT, D, E = 5, 2, 3, 2, 2, 3, 4  # blocks, sequences, steps, heads, reflections of a step, sizes


def drawn(kind, dtype, *shape, generator):
    """Vectors (..., size) and strengths (...)."""
    vectors = torch.randn(*shape, dtype=dtype, generator=generator)
    strengths = 2 * torch.rand(shape[:-1], dtype=vectors.real.dtype, generator=generator)
    if kind.startswith("beta"):
        strengths.fill_(float(kind[-1]))
    elif kind == "equal vectors":
        vectors = vectors[:1, :1, :1, :1].expand(shape).clone()
        strengths.fill_(2)
    elif kind == "zero vectors":
        vectors[:, :, ::2] = 0
    elif kind == "tiny and huge vectors":
        vectors[:, :, ::2] *= 1e-25
        vectors[:, :, 1::2] *= 1e25
    return vectors, strengths


def delta_arguments(kind, decay, dtype):
    generator = seeded()
    K, beta = drawn(kind, dtype, N, B, STEPS, COUNT, HEADS, D, generator=generator)
    q = torch.randn(N, B, STEPS, HEADS, D, dtype=dtype, generator=generator)
    V = torch.randn(N, B, STEPS, COUNT, HEADS, E, dtype=dtype, generator=generator)
    H = torch.randn(B, HEADS, D, E, dtype=dtype, generator=generator)
    log_decay = -torch.rand(N, B, STEPS, HEADS, dtype=beta.dtype, generator=generator)
    log_decay = log_decay * {"decay near 0": 60, "slow decay": 1e-3}.get(decay, 1)
    return [q, K, V, beta, *([] if decay == "no decay" else [log_decay]), H]


def delta(q, K, V, beta, *rest):
    *log_decay, H = rest
    return delta_in_blocks(Rules(q, K, V, beta, log_decay[0] if log_decay else None), H)


def unit(v):
    square = v.abs().square().sum(-1, keepdim=True)
    return v / torch.where(square > 0, square, 1).sqrt()


def in_time(z):
    return z.transpose(1, 2).flatten(0, 1)


def delta_loop(q, K, V, beta, *rest):
    *log_decay, H = rest
    q, K, V, beta = in_time(unit(q)), in_time(unit(K)), in_time(V), in_time(beta)
    readings = []
    for t in range(len(q)):
        if log_decay:
            H = in_time(log_decay[0])[t].exp()[..., None, None] * H
        for k, v, b in zip(K[t].unbind(1), V[t].unbind(1), beta[t].unbind(1), strict=True):
            held = torch.einsum("bhd,bhde->bhe", k.conj(), H)
            H = H + torch.einsum("bhd,bhe->bhde", b.unsqueeze(-1) * k, v - held)
        readings.append(torch.einsum("bhd,bhde->bhe", q[t].conj(), H))
    return torch.stack(readings), H


def reflect_arguments(kind, dtype):
    generator = seeded()
    K, beta = drawn(kind, dtype, N, B, STEPS, COUNT, D, generator=generator)
    u = torch.randn(N, B, STEPS, D, dtype=dtype, generator=generator)
    return [u, K, beta, torch.randn(B, D, dtype=dtype, generator=generator)]


def reflect(*arguments):
    return (reflect_in_blocks(*arguments),)


def reflect_loop(u, K, beta, h):
    u, K, beta, states = in_time(u), in_time(unit(K)), in_time(beta), []
    for t in range(len(u)):
        for k, b in zip(K[t].unbind(1), beta[t].unbind(1), strict=True):
            h = h - (b * (k.conj() * h).sum(-1)).unsqueeze(-1) * k
        h = h + u[t]
        states.append(h)
    return (torch.stack(states),)


def values(function, arguments, wanted=None):
    """The outputs, and the gradients of a weighted sum of those that are wanted; a loop runs in double precision."""
    if function in (delta_loop, reflect_loop):
        arguments = [z.to(torch.promote_types(z.dtype, torch.float64)) for z in arguments]
    leaves = [z.clone().requires_grad_() for z in arguments]
    outputs = function(*leaves)
    generator = seeded(1)
    weights = [torch.randn(z.shape, dtype=torch.float64, generator=generator) for z in outputs]
    pairs = list(zip(outputs, weights, strict=True))
    loss = sum((w.to(z.dtype) * z).real.sum() for z, w in (pairs if wanted is None else [pairs[wanted]]))
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [
        *(z.detach() for z in outputs),
        *(torch.zeros_like(z) if g is None else g for z, g in zip(leaves, gradients, strict=True)),
    ]


def assert_near(ours, true):
    for a, b in zip(ours, true, strict=True):
        assert a.isfinite().all()
        size = max(1, float(b.abs().max()))
        torch.testing.assert_close(a, b, rtol=0, atol=atol(a.dtype) * size, check_dtype=False)


@pytest.fixture(params=[1, 2, 100], ids="{} blocks together".format)
def together(request, monkeypatch):
    """Blocks in a group: each alone, two at a time, or all."""

    def choose(K):
        for module in (delta_blocks, reflect_blocks):
            monkeypatch.setattr(module, "GROUP_BYTES", request.param * K[0].numel() * K.element_size())

    return choose


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_delta_rules_equal_the_loop_in_outputs_and_every_gradient(kind, decay, dtype, together):
    arguments = delta_arguments(kind, decay, dtype)
    together(arguments[1])
    assert_near(*(values(f, arguments) for f in (delta, delta_loop)))


@pytest.mark.parametrize("wanted", [0, 1], ids=["readings alone", "last state alone"])
def test_gradients_of_one_output(wanted, together):
    arguments = delta_arguments("ordinary", "decay", torch.float64)
    together(arguments[1])
    assert_near(*(values(f, arguments, wanted) for f in (delta, delta_loop)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_reflections_equal_the_loop_in_outputs_and_every_gradient(kind, dtype, together):
    arguments = reflect_arguments(kind, dtype)
    together(arguments[1])
    assert_near(*(values(f, arguments) for f in (reflect, reflect_loop)))


def small(arguments, blocks=2):
    """The first blocks of one sequence, for checks by differences."""
    *blocked, state = arguments
    return [z[:blocks, :1].clone().requires_grad_() for z in blocked] + [state[:1].clone().requires_grad_()]


CASES = {
    "delta rules": (delta, delta_loop, delta_arguments("ordinary", "no decay", torch.float64)),
    "complex delta rules": (delta, delta_loop, delta_arguments("ordinary", "no decay", torch.complex128)),
    "delta rules with decay": (delta, delta_loop, delta_arguments("ordinary", "decay", torch.float64)),
    "reflections": (reflect, reflect_loop, reflect_arguments("ordinary", torch.float64)),
    "complex reflections": (reflect, reflect_loop, reflect_arguments("ordinary", torch.complex128)),
}


@pytest.mark.parametrize("case", CASES)
def test_derivatives_in_forward_mode_and_of_many_gradients_at_once(case):
    function, _, arguments = CASES[case]
    options = {"check_forward_ad": True, "check_batched_grad": True, "fast_mode": True}
    assert torch.autograd.gradcheck(function, small(arguments), **options)


@pytest.mark.parametrize("case", CASES)
def test_second_derivatives_also_in_forward_mode(case):
    function, _, arguments = CASES[case]
    assert torch.autograd.gradgradcheck(function, small(arguments), check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_transforms_of_torch_func(case):
    results = []
    for function in CASES[case][:2]:

        def loss(*z, function=function):
            return sum(out.abs().square().sum() for out in function(*z))

        arguments = tuple(z.detach() for z in small(CASES[case][2]))
        stacked = tuple(torch.stack([z, 0.5 * z]) for z in arguments)
        every = tuple(range(len(arguments)))
        gradient = torch.func.grad(loss, argnums=every)
        results.append(
            [
                *gradient(*arguments),
                *torch.func.vmap(gradient)(*stacked),
                *torch.func.vmap(function)(*stacked),
                *torch.func.jvp(function, arguments, arguments)[1],
                *torch.func.jvp(gradient, arguments, arguments)[1],
            ]
        )
    assert_near(*results)


@pytest.mark.parametrize("every_step", [True, False], ids=["every step", "last step"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(
    "cell", [DeltaProduct(2, heads=2, decay=True), DeltaProduct(3), HouseholderProduct(2, "up to 2")], ids=repr
)
def test_lengths_and_both_directions_equal_the_loop(cell, dtype, every_step):
    layer = shaken(make(cell, dtype=dtype, bidirectional=True))
    x = torch.randn(37, 3, 3, dtype=torch.float64, generator=seeded())
    results = []
    for layer.backend in ("chunked", "reference"):
        leaf = x.clone().requires_grad_()
        y, h = layer(pack_padded_sequence(leaf, [37, 20, 1]), every_step=every_step)
        loss = sum(part.abs().square().sum() for part in (*parts(h), *([y.data] if every_step else [])))
        gradients = torch.autograd.grad(loss, [leaf, *layer.parameters()], allow_unused=True)
        results.append([*(z.detach() for z in parts(h)), *(g for g in gradients if g is not None)])
    assert_near(*results)


@pytest.mark.parametrize("function", [delta, reflect])
def test_autocast_of_the_backward_pass_changes_nothing(function):
    is_delta = function is delta
    arguments = (
        delta_arguments("ordinary", "decay", torch.float32)
        if is_delta
        else reflect_arguments("ordinary", torch.float32)
    )
    leaves, results = [z.requires_grad_() for z in arguments], []
    for enabled in (False, True):
        loss = sum(z.square().sum() for z in function(*leaves))
        with torch.autocast("cpu", enabled=enabled):
            results.append(torch.autograd.grad(loss, leaves))
    torch.testing.assert_close(*results, rtol=0, atol=0)
