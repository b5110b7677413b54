"""A step is sound or refused with everything untouched; counters keep their digits; compiled steps are plain ones."""

import contextlib
import copy

import pytest
import torch
from support.manifold_cases import ALL, ids
from support.optimizer_cases import OPTIMIZERS, frozen, point, same

import manifold_rnn as mr
from manifold_rnn import errors, optim

OPTIONS = {
    "RiemannianSGD": {"momentum": 0.9},
    "RiemannianRMSprop": {"momentum": 0.9, "centered": True},
    "Landing": {"momentum": 0.9},
}
SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}
KINDS = {
    "square": (lambda r: mr.Orthogonal(r), (5, 5), torch.float32),
    "special": (lambda r: mr.SpecialOrthogonal(r), (5, 5), torch.float32),
    "complex": (lambda r: mr.Unitary(r), (4, 4), torch.complex64),
    "tall": (lambda r: mr.Stiefel(r), (6, 4), torch.float32),
}


def made(name, params, **more):
    return getattr(optim, name)(params, lr=1.0 if name == "RiemannianSGD" else 0.1, **OPTIONS.get(name, {}), **more)


@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("retraction", ["cayley", "exp", "qr", "polar"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_finite_gradient_gives_a_point_or_an_untouched_refusal(name, kind, retraction, warm, generator):
    make, shape, dtype = KINDS[kind]
    manifold = make(retraction)
    for scale in (1e-30, 1.0, 1e8, 1e12, 1e20, 1e30, 1e38):
        params = [point(manifold, shape, dtype, generator) for _ in range(2)] + [torch.nn.Parameter(torch.ones(3))]
        optimizer = made(name, params)
        for k in range(warm + 1):
            size = scale if k == warm else 1e-2
            for p in params:
                p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            params[1].grad *= size
            before = frozen(params, optimizer)
            said = None
            try:
                optimizer.step()
            except errors.NonFiniteError as error:
                said = str(error)
            assert said is None or (same(before, frozen(params, optimizer)) and len(said) <= 400 and scale > 1e8)
        for p in params[:2]:
            assert bool(p.isfinite().all())
            bound = 0.6 if name == "Landing" else 1e-4
            assert float(manifold.defect(p.detach()).max()) < bound, scale


@pytest.mark.parametrize("capturable", [False, True])
def test_a_refused_step_is_skipped_where_that_is_asked_for(capturable, generator):
    params = [point(mr.Orthogonal("exp"), (4, 4), torch.float32, generator) for _ in range(2)]
    optimizer = optim.RiemannianSGD(params, lr=1.0, momentum=0.9, on_nonfinite="skip", capturable=capturable)
    for scale in (1e-2, 1e20, 1e38):
        for p in params:
            p.grad = scale * torch.randn(4, 4, generator=generator)
        before = frozen(params, optimizer)
        optimizer.step()
        assert same(before, frozen(params, optimizer)) == (scale > 1)
    assert optimizer.skipped == 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_an_error_of_any_kind_ends_leaves_everything_as_it_was(name, monkeypatch, generator):
    params = [point(mr.Orthogonal(), (n, n), torch.float32, generator) for n in (4, 3)]
    optimizer, advance = made(name, params), type(made(name, params)).advance

    def end(self, batch, *args):
        y = advance(self, batch, *args)
        if batch.params[0] is params[1] and armed:
            raise KeyboardInterrupt
        return y

    monkeypatch.setattr(type(optimizer), "advance", end)
    monkeypatch.setattr(type(optimizer), "small", None)
    for armed in (True, False, True):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        before = frozen(params, optimizer)
        with pytest.raises(KeyboardInterrupt) if armed else contextlib.nullcontext():
            optimizer.step()
        assert same(before, frozen(params, optimizer)) == armed


@pytest.mark.parametrize("case", [c for c in ALL if c.solid], ids=ids)
def test_steps_of_regions_stay_inside_up_to_the_largest_number(case, generator):
    manifold, dtype = case.make("straight"), SINGLE[case.dtype]
    for scale in (1.0, 1e10, 1e30, 1e38):
        p = torch.nn.Parameter((0.3 * manifold.random(*case.shape, dtype=dtype, generator=generator)).clone())
        p.manifold = manifold
        p.grad = (
            scale * torch.randn(case.shape, dtype=dtype, generator=generator).clamp_(-2, 2)
            if not dtype.is_complex
            else scale * torch.randn(case.shape, dtype=dtype, generator=generator)
        )
        before = p.detach().clone()
        try:
            optim.RiemannianSGD([p], lr=1.0).step()
        except errors.NonFiniteError:
            assert torch.equal(p, before) and scale > 1e35
        assert bool(p.isfinite().all()) and float(manifold.defect(p.detach()).max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["RiemannianAdam", "RiemannianAdagrad"])
def test_counters_of_capturable_steps_do_not_have_the_dtype_of_the_parameter(name, dtype):
    more = {"lr_decay": 1e-2} if name == "RiemannianAdagrad" else {}
    ours, theirs = (torch.nn.Parameter(torch.zeros(1, dtype=dtype)) for _ in range(2))
    a = getattr(optim, name)([ours], lr=1e-2, capturable=True, **more)
    b = getattr(optim, name).plain([theirs], lr=1e-2, fused=True, **more)  # which rounds moments alike
    for k in range(300):
        for p, o in ((ours, a), (theirs, b)):
            p.grad = torch.ones_like(p)
            with torch.no_grad():
                p.zero_()
            o.step()
        if k == 150:
            again = getattr(optim, name)([ours], lr=1e-2, capturable=True, **more)
            again.load_state_dict(copy.deepcopy(a.state_dict()))
            a = again
    assert a.state[ours]["step"] == 300
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0.02)


def test_a_constrained_weight_in_half_precision_moves_alike_with_and_without_capture(generator):
    w = mr.Orthogonal().random(8, 8, generator=generator).bfloat16()
    g = torch.randn(8, 8, generator=generator).bfloat16()
    moved = []
    for capturable in (False, True):
        p = torch.nn.Parameter(w.clone())
        p.manifold, p.grad = mr.Orthogonal(), g
        optim.RiemannianAdam([p], lr=1e-2, capturable=capturable).step()
        moved.append(p.detach())
    torch.testing.assert_close(*moved, atol=1e-2, rtol=0)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_compiled_step_is_the_plain_one(name, capturable, generator):
    w = mr.Orthogonal().random(4, 4, generator=generator)
    grads, found = [torch.randn(4, 4, generator=generator) for _ in range(2)], []
    for compiled in (False, True):
        p, q = torch.nn.Parameter(w.clone()), torch.nn.Parameter(torch.zeros(3))
        p.manifold = mr.Orthogonal()
        optimizer = made(name, [p, q], capturable=capturable)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for g in grads:
            p.grad, q.grad = g.clone(), torch.ones(3)
            step()
        found.append((p.detach(), q.detach()))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("Landing", "RiemannianMuon")])
def test_at_a_large_point_a_second_moment_that_overflows_is_refused(name):
    """The coordinates of a gradient on SPD grow with the point, so a short one may overflow once it is squared."""
    p = torch.nn.Parameter(1e200 * torch.eye(3, dtype=torch.float64))
    p.manifold, p.grad = mr.SPD(), torch.eye(3, dtype=torch.float64)
    optimizer = getattr(optim, name)([p], lr=1e-3)
    before = frozen([p], optimizer)
    with pytest.raises(errors.NonFiniteError):
        optimizer.step()
    assert same(before, frozen([p], optimizer))
