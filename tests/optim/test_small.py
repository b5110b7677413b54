"""Compiled steps of small orthogonal weights against the rule of torch, and what they leave to it."""

import contextlib
import copy
import math

import pytest
import torch
from support.compiled_cases import Watch, assert_near, pair, set_gradients
from support.optimizer_cases import frozen, point, same
from support.tolerances import atol
from torch.utils._python_dispatch import TorchDispatchMode

import manifold_rnn as mr
from manifold_rnn import errors, optim, retractions
from manifold_rnn._kernels.loading import library

pytestmark = pytest.mark.skipif(library() is None, reason="this installation has no compiled library")

DTYPES = [torch.float32, torch.float64]
SIZES = [1, 2, 8, 31, 64, 65, 100, 128]  # products for the first cache up to 64, for the second above it
RULES = {
    "descent": (optim.RiemannianSGD, {}),
    "momentum": (optim.RiemannianSGD, {"momentum": 0.9, "dampening": 0.3}),
    "nesterov": (optim.RiemannianSGD, {"momentum": 0.9, "nesterov": True, "maximize": True}),
    "adam": (optim.RiemannianAdam, {"betas": (0.8, 0.95)}),
    "never polished": (optim.RiemannianAdam, {"polish_every": 0, "maximize": True}),
    "always polished": (optim.RiemannianSGD, {"polish_every": 1}),
}


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


def rate_of(rule, length, n):
    """A rate by which a gradient of normal numbers makes steps of about this spectral norm."""
    growth = 3.0 if "momentum" in RULES[rule][1] else 1.0  # of the momentum in three steps
    return length / (1.5 * growth * math.sqrt(n))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("retraction", retractions.names())
@pytest.mark.parametrize("rule", RULES)
def test_a_compiled_step_is_that_of_torch(rule, retraction, dtype, n, watch, generator):
    kind, options = RULES[rule]
    longer = 0.5 if n <= 64 else 0.2
    for length, manifold in ((1e-6, mr.Orthogonal(retraction)), (longer, mr.SpecialOrthogonal(retraction))):
        first, second = pair(manifold, n, dtype, generator)
        rate = rate_of(rule, length, n)
        one, other = kind(first, lr=rate, **options), kind(second, lr=rate, **options)
        for k in range(4):
            set_gradients(first, second, 1.0, generator, by_columns=k == 2)
            if k == 3:  # a loaded state
                one.load_state_dict(copy.deepcopy(one.state_dict()))
            one.step()
            with watch.torch():
                other.step()
            assert watch.taken[0], (length, k)
            watch.taken.clear()
        assert_near(first, second, one, other)
        for p in first:
            assert float(manifold.defect(p.detach()).max()) < 10 * atol(dtype)


@pytest.mark.parametrize("n", [8, 66])
@pytest.mark.parametrize("retraction", retractions.names())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_longest_steps_that_are_taken_agree_and_longer_ones_are_left_to_torch(
    retraction, dtype, n, watch, generator
):
    taken = []
    for length in (0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 1.99, 2.01, 4.0):
        # a gradient with all planes turning by the same angle, whose norm is therefore known
        turn = torch.zeros(n, n, dtype=dtype)
        turn[range(0, n, 2), range(1, n, 2)] = -1.0
        first, second = pair(mr.Orthogonal(retraction), n, dtype, generator, count=1)
        one, other = optim.RiemannianSGD(first, lr=length), optim.RiemannianSGD(second, lr=length)
        first[0].grad = first[0].detach() @ (turn - turn.mT)
        second[0].grad = first[0].grad.clone()
        one.step()
        with watch.torch():
            other.step()
        taken.append(watch.taken[0])
        watch.taken.clear()
        assert_near(first, second, one, other)
    assert taken == sorted(taken, reverse=True) and taken[n == 8] and not taken[7], taken


@pytest.mark.parametrize("how", ["raise", "skip"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("rule", RULES)
def test_a_bad_gradient_of_any_weight_changes_nothing(rule, value, how, generator):
    kind, options = RULES[rule]
    params = [point(mr.Orthogonal("exp"), (n, n), torch.float32, generator) for n in (1, 4, 4, 70, 260)]
    params.append(torch.nn.Parameter(torch.ones(3)))
    for bad in range(len(params)):
        optimizer = kind([{"params": params[:4]}, {"params": params[4:]}], lr=0.01, on_nonfinite=how, **options)
        for k in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            if k == 1:
                params[bad].grad.view(-1)[-1] = value
            before = frozen(params, optimizer)
            refuses = k == 1 and not (value == 1e30 and bad in (0, 5))
            with pytest.raises(errors.NonFiniteError) if refuses and how == "raise" else contextlib.nullcontext():
                optimizer.step()
            if refuses:
                assert same(before, frozen(params, optimizer))
                assert optimizer.skipped == (how == "skip")
            for p in params[:5]:
                assert bool(p.isfinite().all()) and float(mr.linalg.defect(p.detach())) < 1e-4


def test_a_prepared_step_is_dropped_where_that_of_another_weight_ends_in_an_error(monkeypatch, watch, generator):
    params = [point(mr.Orthogonal(), (n, n), torch.float32, generator) for n in (5, 260)]
    optimizer = optim.RiemannianAdam(params, lr=1e-3)

    def end(*_):
        raise KeyboardInterrupt

    for _ in range(2):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        before = frozen(params, optimizer)
        with monkeypatch.context() as patch:
            patch.setattr(optim.RiemannianAdam, "direction", end)
            with pytest.raises(KeyboardInterrupt):
                optimizer.step()
        assert same(before, frozen(params, optimizer)) and watch.taken[-2:] == [True, False]
        optimizer.step()
        assert not same(before, frozen(params, optimizer))


@pytest.mark.parametrize("kind", [optim.RiemannianSGD, optim.RiemannianAdam])
def test_both_ways_may_take_turns(kind, watch, generator):
    options = {"momentum": 0.9} if kind is optim.RiemannianSGD else {}
    first, second = pair(mr.Orthogonal("qr"), 6, torch.float64, generator)
    one, other = kind(first, lr=0.02, **options), kind(second, lr=0.02, **options)
    for k in range(8):
        set_gradients(first, second, 1.0, generator)
        with watch.torch() if k % 3 == 1 else contextlib.nullcontext():
            one.step()
        with watch.torch():
            other.step()
        if k == 4:
            first[0].grad[0, 0] = math.nan
            with pytest.raises(errors.NonFiniteError):
                one.step()
    assert_near(first, second, one, other)


@pytest.mark.parametrize("kind", [optim.RiemannianSGD, optim.RiemannianAdam])
def test_threads_and_a_default_device_change_nothing(kind, watch, generator):
    first, second = pair(mr.Orthogonal(), 48, torch.float64, generator, count=50)
    one, other = kind(first, lr=1e-3), kind(second, lr=1e-3)
    before = torch.get_num_threads()
    try:
        for threads in (4, 2, 1, 3):
            torch.set_num_threads(threads)
            set_gradients(first, second, 1.0, generator)
            with torch.device("meta"):
                one.step()
            with watch.torch():
                other.step()
            if threads == 2:  # of one weight in the share of another thread
                first[40].grad[0, 0] = math.nan
                with pytest.raises(errors.NonFiniteError, match="number 40"):
                    one.step()
    finally:
        torch.set_num_threads(before)
    assert watch.taken == [True, False, True, False, False, True, False, True, False]
    assert_near(first, second, one, other)


def test_several_groups_keep_their_own_options(watch, generator):
    first, second = pair(mr.Orthogonal(), 5, torch.float64, generator, count=4)
    runs = []
    for params in (first, second):
        groups = [
            {"params": params[:1], "lr": 0.1},
            {"params": params[1:3], "maximize": True, "momentum": 0.5},
            {"params": params[3:], "polish_every": 3},
        ]
        runs.append(optim.RiemannianSGD(groups, lr=0.03))
    for _ in range(4):
        set_gradients(first, second, 1.0, generator)
        runs[0].step()
        assert all(watch.taken) and len(watch.taken) == 3
        with watch.torch():
            runs[1].step()
        watch.taken.clear()
    assert_near(first, second, *runs)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("retraction", retractions.names())
def test_steps_keep_the_determinant_and_drift_stays_at_rounding(retraction, sign, watch, generator):
    p = point(mr.SpecialOrthogonal(retraction), (7, 7), torch.float32, generator)
    if sign < 0:
        p.manifold = mr.Orthogonal(retraction)
        p.data[:, 0] *= -1
    optimizer = optim.RiemannianAdam([p], lr=0.03)
    for _ in range(300):
        p.grad = torch.randn(7, 7, generator=generator)
        optimizer.step()
    assert all(watch.taken) and float(mr.linalg.defect(p.detach())) < 10 * atol(p.dtype)
    assert float(torch.linalg.det(p.detach())) == pytest.approx(sign, abs=1e-5)


@pytest.mark.parametrize("n", [6, 70])
@pytest.mark.parametrize("retraction", ["qr", "polar"])
def test_a_retraction_that_corrects_drift_does_so(retraction, n, watch, generator):
    p = point(mr.Orthogonal(retraction), (n, n), torch.float64, generator)
    p.data += 1e-3 * 6 / n * torch.randn(n, n, dtype=torch.float64, generator=generator)
    p.grad = torch.randn(n, n, dtype=torch.float64, generator=generator)
    optim.RiemannianSGD([p], lr=0.01).step()
    assert watch.taken == [True] and float(mr.linalg.defect(p.detach())) < atol(p.dtype)


@pytest.mark.parametrize("n", [8, 70])
@pytest.mark.parametrize("retraction", ["exp", "cayley"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("drift", [1e-6, 1e-4, 1e-2])
def test_drift_is_corrected_by_one_step_of_newton_schulz_as_torch_does(drift, dtype, retraction, n, watch, generator):
    first, second = pair(mr.Orthogonal(retraction), n, dtype, generator)
    for p, q in zip(first, second, strict=True):
        p.data[0] *= 1 + drift
        q.data.copy_(p.data)
    one = optim.RiemannianSGD(first, lr=1e-3, polish_every=2)
    other = optim.RiemannianSGD(second, lr=1e-3, polish_every=2)
    for _ in range(3):
        set_gradients(first, second, 1.0, generator)
        one.step()
        with watch.torch():
            other.step()
        assert_near(first, second, one, other)
    assert watch.taken == [True, False] * 3


@pytest.mark.parametrize("n", [8, 70])
@pytest.mark.parametrize("kind", [optim.RiemannianSGD, optim.RiemannianAdam])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_coordinates_whose_squares_come_near_infinity_are_left_to_torch(dtype, kind, n, watch, generator):
    most = torch.finfo(dtype).max ** 0.5
    for size, taken in ((1e-2 * most, False), (1e-4 * most, True)):
        first, second = pair(mr.Orthogonal(), n, dtype, generator, count=1)
        rate = 1e-3 if kind is optim.RiemannianAdam else 1e-3 / size
        one, other = kind(first, lr=rate), kind(second, lr=rate)
        turn = torch.randn(n, n, dtype=dtype, generator=generator)
        turn *= size / torch.linalg.norm(turn - turn.mT)
        first[0].grad = first[0].detach() @ (turn - turn.mT)
        second[0].grad = first[0].grad.clone()
        one.step()
        with watch.torch():
            other.step()
        assert watch.taken == [taken, False]
        watch.taken.clear()
        torch.testing.assert_close(first[0].detach(), second[0].detach(), atol=atol(dtype), rtol=atol(dtype))
        for name in one.state[first[0]].keys() - {"step"}:
            ours, theirs = one.state[first[0]][name], other.state[second[0]][name]
            assert bool(ours.isfinite().all())
            torch.testing.assert_close(ours, theirs, atol=atol(dtype) * float(theirs.abs().max()), rtol=atol(dtype))


def test_a_compiled_step_is_seen_by_autograd(watch, generator):
    p = point(mr.Orthogonal(), (4, 4), torch.float32, generator)
    loss = p.square().sum()
    p.grad = torch.randn(4, 4, generator=generator)
    optim.RiemannianSGD([p], lr=0.1).step()
    assert watch.taken == [True]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Own(mr.Orthogonal):
    """Somebody's own group, which may map in its own way."""


class Hurried(optim.RiemannianSGD):
    """Somebody's own rule."""

    def direction(self, batch, x, c, steps, group):
        return 2 * c


class Counting(TorchDispatchMode):
    """Sees every operation."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


LEFT = {
    "complex": (mr.Unitary(), (4, 4), optim.RiemannianSGD, {}),
    "tall": (mr.Stiefel(), (6, 4), optim.RiemannianSGD, {}),
    "large": (mr.Orthogonal(), (257, 257), optim.RiemannianSGD, {}),
    "many in one": (mr.Orthogonal(), (3, 4, 4), optim.RiemannianSGD, {}),
    "own group": (Own(), (4, 4), optim.RiemannianSGD, {}),
    "own rule": (mr.Orthogonal(), (4, 4), Hurried, {}),
    "another rule": (mr.Orthogonal(), (4, 4), optim.RiemannianRMSprop, {}),
    "amsgrad": (mr.Orthogonal(), (4, 4), optim.RiemannianAdam, {"amsgrad": True}),
    "one second moment": (mr.Orthogonal(), (4, 4), optim.RiemannianAdam, {"second_moment": "matrix"}),
    "capturable": (mr.Orthogonal(), (4, 4), optim.RiemannianAdam, {"capturable": True}),
    "a rate in a tensor": (mr.Orthogonal(), (4, 4), optim.RiemannianSGD, {"lr": torch.tensor(0.1)}),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_the_compiled_step_does_not_know_is_left_to_torch(case, watch, generator):
    manifold, shape, kind, options = LEFT[case]
    dtype = torch.complex64 if manifold.is_complex else torch.float32
    p = point(manifold, shape, dtype, generator)
    before = p.detach().clone()
    p.grad = torch.randn(shape, dtype=dtype, generator=generator)
    kind([p], **{"lr": 0.1, **options}).step()
    assert not any(watch.taken) and not torch.equal(p, before)


def test_a_weight_that_is_watched_or_lies_in_no_order_is_left_to_torch(watch, generator):
    p = point(mr.Orthogonal(), (4, 4), torch.float32, generator)
    optimizer = optim.RiemannianSGD([p], lr=0.1)
    p.grad = torch.randn(4, 4, generator=generator)
    with Counting():
        optimizer.step()
    optimizer.step()
    p.data = torch.empty(4, 8)[:, ::2].copy_(p.data)
    optimizer.step()
    p.data = p.data.contiguous()
    p.grad = torch.randn(4, 8, generator=generator)[:, ::2]
    optimizer.step()
    assert watch.taken == [False, True, False, False]


def test_moments_of_another_kind_are_left_to_torch(watch, generator):
    p = point(mr.Orthogonal(), (4, 4), torch.float32, generator)
    optimizer = optim.RiemannianAdam([p], lr=0.1, second_moment="matrix")
    p.grad = torch.randn(4, 4, generator=generator)
    optimizer.step()
    assert optimizer.state[p]["exp_avg_sq"].shape == (1,)
    optimizer = optim.RiemannianAdam([p], lr=0.1)
    optimizer.step()
    optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"].double()
    with contextlib.suppress(RuntimeError):
        optimizer.step()
    assert watch.taken == [False, True, False]
