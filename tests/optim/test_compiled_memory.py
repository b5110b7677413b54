"""What compiled steps may read and write: memory of the kind they were made for, and nothing that is not sound."""

import math

import pytest
import torch
from support.compiled_cases import WAYS, Watch, assert_near, pair, set_gradients, take
from support.optimizer_cases import frozen, point, same
from support.tolerances import atol
from support.wrapped import Wrapped

import manifold_rnn as mr
from manifold_rnn import errors, optim, retractions
from manifold_rnn._kernels.loading import library
from manifold_rnn._kernels.small import SmallSteps

SHAPE = (80, 60)  # large enough for steps in place
compiled = pytest.mark.skipif(library() is None, reason="this installation has no compiled library")


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    take(request.param, monkeypatch)
    return request.param


@pytest.mark.parametrize("rate", [1e39, 1e300])
def test_a_rate_beyond_the_precision_is_refused(rate, generator):
    p = point(mr.Orthogonal(), (4, 4), torch.float32, generator)
    optimizer = optim.RiemannianSGD([p], lr=rate)
    p.grad = torch.zeros(4, 4)
    before = frozen([p], optimizer)
    with pytest.raises(errors.NonFiniteError):
        optimizer.step()
    assert same(before, frozen([p], optimizer))


@compiled
@pytest.mark.parametrize("retraction", retractions.names())
@pytest.mark.parametrize("size", [1e-20, 1e-30])
def test_a_gradient_without_squares_makes_steps_of_its_length(size, retraction, watch, generator):
    first, second = pair(mr.Orthogonal(retraction), 6, torch.float32, generator)
    one, other = optim.RiemannianSGD(first, lr=0.1 / size), optim.RiemannianSGD(second, lr=0.1 / size)
    set_gradients(first, second, size, generator)
    one.step()
    with watch.torch():
        other.step()
    assert watch.taken == [True, False]
    assert_near(first, second, one, other)


@compiled
@pytest.mark.parametrize("retraction", retractions.names())
def test_nothing_of_a_bad_gradient_is_left_in_the_memory_of_steps(retraction, watch, generator):
    p = point(mr.Orthogonal(retraction), (5, 5), torch.float32, generator)
    p.data = p.data.mT.contiguous().mT
    optimizer = optim.RiemannianAdam([p], lr=1e-3, on_nonfinite="skip")
    for k in range(6):
        p.grad = torch.full((5, 5), math.inf) if k == 1 else torch.randn(5, 5, generator=generator)
        optimizer.step()
    assert watch.taken == [True, False, True, True, True, True]


@compiled
def test_moments_belong_to_their_state_once_they_have_numbers(monkeypatch, generator):
    params = [point(mr.Orthogonal(), (5, 5), torch.float32, generator) for _ in range(3)]
    optimizer = optim.RiemannianAdam(params, lr=1e-3)
    for p in params:
        p.grad = torch.randn(5, 5, generator=generator)

    def end(*_):
        raise KeyboardInterrupt

    before = frozen(params, optimizer)
    with monkeypatch.context() as patch:
        patch.setattr(SmallSteps, "commit", end)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    assert same(before, frozen(params, optimizer)) or not any(map(len, optimizer.state.values()))
    optimizer.step()
    assert all(optimizer.state[p]["step"] == 1 for p in params)


@compiled
def test_a_gradient_that_keeps_its_numbers_elsewhere_is_left_to_torch(watch, generator):
    p = point(mr.Orthogonal(), (4, 4), torch.float32, generator)
    p.grad = Wrapped(torch.randn(4, 4, generator=generator))
    before = p.detach().clone()
    optim.RiemannianSGD([p], lr=0.1).step()
    assert watch.taken == [False] and not torch.equal(p, before)


@pytest.mark.parametrize("eps", [1e-12, 1e-20, 1e-30])
@pytest.mark.parametrize("scale", [None, "angle"])
def test_vectors_without_a_gradient_stay_finite_at_the_least_eps(scale, eps, way, generator):
    p = point(mr.Oblique(), SHAPE, torch.float32, generator)
    p.grad = torch.randn(SHAPE, generator=generator)
    p.grad[:, 3] = 0
    p.grad[5] = 0
    p.grad[:, 7] *= 1e-24
    still = p.detach()[5].clone()
    optim.RiemannianAdam([p], lr=1e-3, eps=eps, scale=scale).step()
    assert float(p.manifold.defect(p.detach()).max()) < atol(p.dtype)
    torch.testing.assert_close(p.detach()[5], still, atol=atol(p.dtype), rtol=0)


@pytest.mark.parametrize("scale", [None, "angle"])
def test_an_eps_that_is_no_number_of_the_precision_changes_nothing(scale, way, generator):
    p = point(mr.Oblique(), SHAPE, torch.float32, generator)
    optimizer = optim.RiemannianAdam([p], lr=1e-3, eps=1e-200, scale=scale)
    p.grad = torch.zeros(SHAPE)
    before = frozen([p], optimizer)
    with pytest.raises(errors.NonFiniteError):
        optimizer.step()
    assert same(before, frozen([p], optimizer))


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, "angle"])
def test_moments_of_another_precision_are_not_read_as_if_they_were_of_this_one(scale, dtype, name, way, generator):
    p, q = (point(mr.Oblique(), SHAPE, torch.float32, generator) for _ in range(2))
    q.data = p.data.clone()
    one, other = (optim.RiemannianAdam([each], lr=1e-2, scale=scale) for each in (p, q))
    for k in range(2):
        p.grad = torch.randn(SHAPE, generator=generator)
        q.grad = p.grad.clone()
        if k:
            one.state[p][name] = one.state[p][name].to(dtype)
        before = frozen([p], one)
        try:
            one.step()
        except (RuntimeError, errors.DtypeError):  # not everything mixes these
            assert same(before, frozen([p], one))
            return
        other.step()
    torch.testing.assert_close(p.detach(), q.detach(), atol=1e-4 if dtype is torch.bfloat16 else atol(p.dtype), rtol=0)


@pytest.mark.parametrize("kinds", [(torch.float32, torch.float64), (torch.float64, torch.float32)], ids=str)
@pytest.mark.parametrize("scale", [None, "angle"])
def test_a_weight_that_became_another_after_its_gradient_is_refused(scale, kinds, way, generator):
    p = point(mr.Oblique(), SHAPE, kinds[0], generator)
    optimizer = optim.RiemannianAdam([p], lr=1e-2, scale=scale)
    p.grad = torch.randn(SHAPE, dtype=kinds[0], generator=generator)
    p.data = p.data.to(kinds[1])
    before = frozen([p], optimizer)
    with pytest.raises((errors.DtypeError, RuntimeError)):
        optimizer.step()
    assert same(before, frozen([p], optimizer))


@pytest.mark.parametrize("scale", [None, "angle"])
def test_such_a_gradient_of_vectors_is_taken(scale, way, generator):
    p, q = (point(mr.Oblique(), SHAPE, torch.float32, generator) for _ in range(2))
    q.data = p.data.clone()
    q.grad = torch.randn(SHAPE, generator=generator)
    p.grad = Wrapped(q.grad.clone())
    for each in (p, q):
        optim.RiemannianAdam([each], lr=1e-2, scale=scale).step()
    torch.testing.assert_close(p.detach(), q.detach(), atol=atol(p.dtype), rtol=0)


def conjugate(x):
    return x.clone().conj() if x.is_complex() else torch.complex(torch.zeros_like(x), -x).conj().imag


@pytest.mark.parametrize("kind", ["RiemannianSGD", "RiemannianAdam", "RiemannianMuon", "RiemannianRMSprop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("case", ["vectors", "matrix", "plain"])
def test_a_weight_whose_memory_has_another_sign_takes_the_same_steps(case, dtype, kind, generator):
    manifold = {"vectors": mr.Oblique(), "matrix": mr.Unitary() if dtype.is_complex else mr.Orthogonal()}.get(case)
    shape = SHAPE if case == "vectors" else (5, 5)
    x = torch.randn(shape, dtype=dtype, generator=generator)
    x = x if manifold is None else manifold.random(*shape, dtype=dtype, generator=generator)
    p, q = torch.nn.Parameter(conjugate(x)), torch.nn.Parameter(conjugate(x).resolve_conj().resolve_neg().clone())
    assert p.is_conj() or p.is_neg()
    if manifold is not None:
        p.manifold = q.manifold = manifold
    one, other = (getattr(optim, kind)([each], lr=0.01) for each in (p, q))
    for _ in range(3):
        q.grad = torch.randn(shape, dtype=dtype, generator=generator)
        p.grad = q.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(p.detach(), q.detach(), atol=atol(dtype.to_real()), rtol=0)
