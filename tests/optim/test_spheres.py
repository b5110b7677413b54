"""Adam on spheres against its definition, in place and stacked; AdamH's step; every other optimizer."""

import copy
import math

import pytest
import torch
from support.compiled_cases import WAYS, take
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors, optim
from manifold_rnn.optim import spheres

SPHERES = [
    mr.Oblique(),
    mr.Oblique(-2, 2.0, "cayley"),
    mr.Oblique(-1, 0.5, "polar"),
    mr.Sphere((-2, -1), 3.0),
    mr.Sphere((-2, -1), radius="init"),
]
DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
SHAPE = (80, 60)  # large enough for steps in place


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """The three ways of a step: compiled, if this installation has it and the precision is single, else as the next."""
    take(request.param, monkeypatch)
    return request.param


def reals(z):
    return torch.view_as_real(z) if z.is_complex() else z


def complexes(z, like):
    return torch.view_as_complex(z.contiguous()) if like.is_complex() else z


def parameter(m, dtype, generator, shape=SHAPE):
    p = nn.Parameter(m.random(shape, dtype=dtype, generator=generator))
    p.manifold = m
    return p


def naive_adam(m, x, gradients, lr, betas, eps):
    """Adam with one second moment a vector, in double precision: exponential or retraction, and parallel transport."""
    (b1, b2), mean, square = betas, torch.zeros_like(x), 0.0
    for t, g in enumerate(gradients, 1):
        u = m.proju(x, g)
        size = torch.linalg.vector_norm(reals(u), dim=tuple(k - x.is_complex() for k in m.axes), keepdim=True)
        if x.is_complex():
            size = torch.linalg.vector_norm(u, dim=m.axes, keepdim=True)
        mean, square = b1 * mean + (1 - b1) * u, b2 * square + (1 - b2) * size.square()
        d = -lr * mean / (1 - b1**t) / ((square / (1 - b2**t)).sqrt() + eps)
        y = m.retr(x, d)
        x, mean = y, m.transp(x, y, mean)
    return x, mean, square


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lr", [1e-3, 0.7])
@pytest.mark.parametrize("m", SPHERES, ids=str)
def test_adam_is_its_definition_with_one_second_moment_a_vector(m, lr, dtype, way, generator):
    params = [parameter(m, dtype, generator) for _ in range(2)]
    wide = torch.complex128 if dtype.is_complex else torch.float64
    starts = [p.detach().to(wide, copy=True) for p in params]
    gradients = [[torch.randn(SHAPE, dtype=dtype, generator=generator) for _ in range(4)] for _ in params]
    optimizer = optim.RiemannianAdam(params, lr=lr * (0.5 if m.radius == 0.5 else 1.0), betas=(0.8, 0.95))
    for k in range(4):
        for p, own in zip(params, gradients, strict=True):
            p.grad = own[k].clone()
        optimizer.step()
    for p, x, own in zip(params, starts, gradients, strict=True):
        lr_used = optimizer.param_groups[0]["lr"]
        x, mean, square = naive_adam(m, x, [g.to(wide) for g in own], lr_used, (0.8, 0.95), 1e-8)
        state = optimizer.state[p]
        close = {"atol": 10 * atol(dtype), "rtol": 10 * atol(dtype)}
        torch.testing.assert_close(p.detach().to(wide), x, **close)
        torch.testing.assert_close(complexes(state["exp_avg"].double(), p), mean, **close)
        assert state["exp_avg_sq"].numel() == square.numel() and state["step"] == 4
        torch.testing.assert_close(state["exp_avg_sq"].double().reshape(square.shape), square, **close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("m", SPHERES, ids=str)
def test_the_step_by_an_angle_is_that_of_adamh_after_projection(m, dtype, way, generator):
    p, lr, (b1, b2), eps = parameter(m, dtype, generator), 0.018, (0.9, 0.95), 1e-8
    x = p.detach().to(torch.complex128 if dtype.is_complex else torch.float64, copy=True)
    radius = m.radii(x)
    optimizer = optim.RiemannianAdam([p], lr=lr, betas=(b1, b2), eps=eps, scale="angle")
    mean = square = 0.0
    for t in range(1, 6):
        p.grad = torch.randn(SHAPE, dtype=dtype, generator=generator)
        g = reals(p.grad.to(x.dtype))
        optimizer.step()
        # AdamH as published: U by plain Adam, then W <- r unit(W - lr r unit(U))
        mean, square = b1 * mean + (1 - b1) * g, b2 * square + (1 - b2) * g.square()
        U = complexes(mean / (1 - b1**t) / ((square / (1 - b2**t)).sqrt() + eps), x)
        published = m._lengths(x)
        published = x - lr * radius * U / m._lengths(U)
        published = radius * published / m._lengths(published)
        # ours: project first, and rotate by the whole angle
        V = m.proju(x, U)
        y = x * math.cos(lr) - radius * math.sin(lr) * V / m._lengths(V)
        inside = m._dots(x, U) / radius / m._lengths(U)  # the cosine between W and U, which the published step wastes
        angle = torch.atan2(lr * (1 - inside.square()).sqrt(), 1 - lr * inside)
        expected = x * angle.cos() - radius * angle.sin() * V / m._lengths(V)
        torch.testing.assert_close(published, expected, atol=10 * atol(dtype), rtol=0)
        torch.testing.assert_close(p.detach().to(x.dtype), y, atol=10 * atol(dtype), rtol=0)
        x = p.detach().to(x.dtype, copy=True)


SHAPES = [
    ((3, 1700), -1),
    ((1700, 3), -2),
    ((40, 700), -2),
    ((7, 33, 30), -2),
    ((5, 20, 60), (-2, -1)),
    ((4096, 1), -1),
]


@pytest.mark.parametrize("scale", [None, "angle"])
@pytest.mark.parametrize(("shape", "axes"), SHAPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_compiled_step_is_that_of_torch(shape, axes, scale, threads, generator, monkeypatch):
    if spheres.library() is None:
        pytest.skip("this installation has no compiled library")
    m = mr.Oblique(axes) if isinstance(axes, int) else mr.Sphere(axes, radius="init" if scale else 2.0)
    params = [parameter(m, torch.float32, generator, shape) for _ in range(3)]
    copies = copy.deepcopy(params)
    for p in copies:
        p.manifold = m
    runs = [optim.RiemannianAdam(each, lr=0.05, scale=scale) for each in (params, copies)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for k in range(4):
            for p, q in zip(params, copies, strict=True):
                p.grad = torch.randn(shape, generator=generator) * 10.0 ** (-k) + 3 * p.detach()
                q.grad = p.grad.clone()
            runs[0].step()
            with monkeypatch.context() as patch:
                patch.setattr(spheres, "library", lambda: None)
                runs[1].step()
    finally:
        torch.set_num_threads(before)
    for p, q in zip(params, copies, strict=True):
        close = {"atol": 10 * atol(p.dtype), "rtol": 10 * atol(p.dtype)}
        torch.testing.assert_close(p.detach(), q.detach(), **close)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(runs[0].state[p][name], runs[1].state[q][name], **close)


def test_a_compiled_step_is_seen_by_autograd(generator):
    p = parameter(mr.Oblique(), torch.float32, generator)
    loss = p.square().sum()
    p.grad = torch.randn(SHAPE, generator=generator)
    optim.RiemannianAdam([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_published_step_along_the_tangent_space_has_the_same_great_circle_and_nearly_the_same_angle(generator):
    m = mr.Sphere((-2, -1))
    x = m.random(6, 5, dtype=torch.float64, generator=generator)
    U = m.proju(x, torch.randn(6, 5, dtype=torch.float64, generator=generator))
    published = m.projx(x - 0.018 * U / torch.linalg.vector_norm(U))
    ours = m.spectral_step(x, U, math.atan(0.018))
    torch.testing.assert_close(published, ours, atol=1e-15, rtol=0)


OPTIONS = {
    "RiemannianSGD": {"lr": 0.02, "momentum": 0.9},
    "RiemannianAdam": {"lr": 0.1},
    "RiemannianRMSprop": {"lr": 0.05, "centered": True, "momentum": 0.5},
    "RiemannianAdagrad": {"lr": 1.0},
}


@pytest.mark.parametrize("m", SPHERES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_optimizer_finds_the_nearest_point(name, m, generator):
    p = parameter(m, torch.float64, generator, (6, 5))
    target = m.random(6, 5, dtype=torch.float64, generator=generator)
    optimizer = getattr(optim, name)([p], **OPTIONS[name])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
    before = float((p.detach() - target).norm())
    for _ in range(200):
        optimizer.zero_grad()
        (p - target).square().sum().backward()
        optimizer.step()
        schedule.step()
    assert float((p.detach() - target).norm()) < 0.2 * before and float(m.defect(p.detach()).max()) < 1e-12


def test_a_step_of_muon_rotates_each_vector_by_its_rate(generator):
    m = mr.Oblique(radius=2.0)
    p = parameter(m, torch.float64, generator, (6, 5))
    x = p.detach().clone()
    p.grad = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    optim.RiemannianMuon([p], lr=0.3).step()
    cosines = (p.detach() * x).sum(-1) / 4
    torch.testing.assert_close(cosines, torch.full((6,), math.cos(0.3), dtype=torch.float64), atol=1e-14, rtol=0)
    assert bool(((p.detach() - x) * p.grad).sum(-1).le(0).all())


@pytest.mark.parametrize("scale", [None, "angle"])
def test_a_gradient_along_the_weight_moves_nothing(scale, way, generator):
    m = mr.Oblique()
    for shape in ((6, 5), SHAPE):
        p = parameter(m, torch.float32, generator, shape)
        x = p.detach().clone()
        p.grad = 3 * x
        optim.RiemannianAdam([p], lr=0.1, scale=scale, eps=1e6).step()  # so that the direction is that of the gradient
        torch.testing.assert_close(p.detach(), x, atol=1e-5, rtol=0)


def test_a_gradient_along_every_block_moves_nothing(generator):
    layer = mr.constrain(nn.Linear(8, 12, bias=False), "weight", mr.Oblique(), blocks=2)
    x = layer.weight.detach().clone()
    layer.weight.grad = 3 * x
    optim.RiemannianAdam(layer.parameters(), lr=0.1, scale="angle", eps=1e6).step()
    torch.testing.assert_close(layer.weight.detach(), x, atol=1e-5, rtol=0)


def test_rounding_of_the_cosine_does_not_add_up_over_steps(way, generator):
    m = mr.Sphere((-2, -1), radius="init")
    p = parameter(m, torch.float32, generator)
    before = float(p.detach().double().norm())
    optimizer = optim.RiemannianAdam([p], lr=0.02, scale="angle")
    for _ in range(300):
        p.grad = torch.randn(SHAPE, generator=generator)
        optimizer.step()
    assert abs(float(p.detach().double().norm()) / before - 1) < 1e-6


@pytest.mark.parametrize("scale", [None, "angle"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_gradient_changes_nothing(value, scale, way, generator):
    p = parameter(mr.Oblique(), torch.float32, generator)
    optimizer = optim.RiemannianAdam([p], lr=0.1, scale=scale)
    p.grad = torch.randn(SHAPE, generator=generator)
    optimizer.step()
    x, state = p.detach().clone(), {k: torch.as_tensor(v).clone() for k, v in optimizer.state[p].items()}
    p.grad[3, 4] = value
    with pytest.raises(errors.NonFiniteError, match="1 of 4800"):
        optimizer.step()
    assert torch.equal(p, x) and all(torch.equal(torch.as_tensor(v), state[k]) for k, v in optimizer.state[p].items())


@pytest.mark.parametrize("scale", [None, "angle"])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e14, 1e17])
def test_gradients_of_any_size_lead_to_points(size, scale, way, generator):
    p = parameter(mr.Oblique(), torch.float32, generator)
    optimizer = optim.RiemannianAdam([p], lr=0.1, scale=scale)
    for _ in range(3):
        p.grad = size * torch.randn(SHAPE, generator=generator)
        optimizer.step()
        assert float(mr.Oblique().defect(p.detach()).max()) < 1e-5
    assert all(bool(torch.as_tensor(s).isfinite().all()) for s in optimizer.state[p].values())


@pytest.mark.parametrize("size", [1e-42, 1e-35, 1e-30, 1e-20, 1.0])
def test_a_step_by_an_angle_has_this_angle_for_a_gradient_of_any_size(size, way, generator):
    p = parameter(mr.Oblique(), torch.float32, generator)
    x, p.grad = p.detach().clone(), size * torch.randn(SHAPE, generator=generator)
    optim.RiemannianAdam([p], lr=0.1, scale="angle").step()
    chord = torch.linalg.vector_norm(p.detach() - x, dim=-1)
    torch.testing.assert_close(chord, torch.full_like(chord, 2 * math.sin(0.05)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [None, "angle"])
def test_a_loaded_optimizer_goes_on_as_the_saved_one(scale, generator):
    gradients = [torch.randn(SHAPE, generator=generator) for _ in range(4)]
    first = parameter(mr.Oblique(), torch.float32, generator)
    optimizer = optim.RiemannianAdam([first], lr=0.1, scale=scale)
    for k, g in enumerate(gradients):
        if k == 2:
            second = nn.Parameter(first.detach().clone())
            second.manifold = mr.Oblique()
            other = optim.RiemannianAdam([second], lr=0.1, scale=scale)
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        first.grad = g
        optimizer.step()
    for g in gradients[2:]:
        second.grad = g
        other.step()
    assert torch.equal(first, second)


@pytest.mark.parametrize("scale", [None, "angle"])
@pytest.mark.parametrize("shape", [(6, 5), SHAPE])
def test_a_scale_that_changes_after_a_step_is_refused(scale, shape, generator):
    p = parameter(mr.Oblique(), torch.float32, generator, shape)
    optimizer = optim.RiemannianAdam([p], lr=0.1, scale=scale)
    p.grad = torch.randn(shape, generator=generator)
    optimizer.step()
    x = p.detach().clone()
    optimizer.param_groups[0]["scale"] = None if scale else "angle"
    with pytest.raises(errors.OptimizerError, match="another scale") as info:
        optimizer.step()
    assert len(str(info.value)) <= 400 and torch.equal(p, x) and optimizer.state[p]["step"] == 1
    optimizer.state.clear()
    optimizer.step()


def test_what_is_refused_is_named(generator):
    with pytest.raises(errors.OptionError, match="'angle'"):
        optim.RiemannianAdam([parameter(mr.Oblique(), torch.float32, generator)], scale="radians")
    layer = mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal())
    with pytest.raises(errors.UnsupportedError, match="Sphere or Oblique"):
        optim.RiemannianAdam(layer.parameters(), scale="angle")
    part = mr.constrain(nn.Linear(4, 8), "weight", mr.Oblique(), blocks=2, which=(0,))
    with pytest.raises(errors.UnsupportedError, match="Sphere or Oblique"):
        optim.RiemannianAdam(part.parameters(), scale="angle")
    p = parameter(mr.Oblique(), torch.float32, generator)
    with torch.no_grad():
        p.mul_(2)
    p.grad = torch.ones(SHAPE)
    with pytest.raises(errors.OffManifoldError, match="overwritten"):
        optim.RiemannianAdam([p]).step()
