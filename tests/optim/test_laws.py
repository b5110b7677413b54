"""What every Riemannian optimizer must do; a new one is tested by being exported."""

import copy
import io

import geoopt
import pytest
import torch
from support import optimizer_cases
from support.selection import spread

from manifold_rnn import errors, manifolds, optim, retractions

OPTIMIZERS = sorted(set(optimizer_cases.OPTIMIZERS) - {"Landing"})  # which has laws of its own
PEERS = {name: plain for name in OPTIMIZERS if (plain := getattr(optim, name).plain)}
OPTIONS = {
    "RiemannianSGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "dampening": 0.3}],
    "RiemannianAdagrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}],
    "RiemannianAdam": [{}, {"amsgrad": True}, {"betas": (0.8, 0.99), "eps": 1e-3}],
    "RiemannianMuon": [{}, {"nesterov": False}, {"scale": "nuclear"}, {"step": "retraction"}, {"rule": "adam"}],
    "RiemannianRMSprop": [{}, {"momentum": 0.5, "centered": True, "eps": 1e-3}],
}
GROUPS = {
    "Orthogonal": torch.float64,
    "Unitary": torch.complex128,
    "SpecialUnitary": torch.complex128,
    "UnitaryRealForm": torch.float64,
}
NUMBERED = {f"{name}-{i}": (name, options) for name in PEERS for i, options in enumerate(OPTIONS[name])}
CASES = [pytest.param(*case, id=label) for label, case in NUMBERED.items()]


def point(manifold, shape=(4, 4), dtype=torch.float64, seed=0):
    x = manifold.random(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return geoopt.ManifoldParameter(x, manifold=manifold)


def loss(x, target):
    return (x - target).abs().square().sum() + 0.3 * (x @ x * target.conj()).real.sum()


def target(x, seed=1):
    return torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))


def run(optimizer, params, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        sum(loss(p, target(p)) for p in params).backward()
        optimizer.step()


@pytest.mark.parametrize(("case", "group", "retraction"), spread(NUMBERED, GROUPS, retractions.names(), every=3))
def test_equals_torch_on_the_trivialization_rebased_every_step(case, group, retraction):
    name, options = NUMBERED[case]
    manifold = getattr(manifolds, group)(retraction)
    p = point(manifold, dtype=GROUPS[group])
    base, goal = p.detach().clone(), target(p)
    c = torch.zeros(manifold.coordinate_shape(base.shape, base.dtype), dtype=torch.float64, requires_grad=True)
    run_update = getattr(optim, name)([p], lr=0.05, polish_every=0, **options)
    run_trivialized = PEERS[name]([c], lr=0.05, **options)
    for _ in range(50):
        run(run_update, [p], 1)
        run_trivialized.zero_grad()
        loss(manifold.retr_coordinates(base, c), goal).backward()
        run_trivialized.step()
        with torch.no_grad():
            base = manifold.retr_coordinates(base, c)
            c.zero_()
    torch.testing.assert_close(p.detach(), base, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("name", "state"), [("RiemannianRMSprop", "square_avg"), ("RiemannianAdagrad", "sum")])
def test_the_accumulator_starts_where_it_is_told(name, state):
    p, q = point(manifolds.Orthogonal()), torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = getattr(optim, name)([p, q], lr=0.1, eps=0.0, initial_accumulator_value=1.0)
    q.grad, p.grad = torch.full_like(q, 2.0), torch.zeros_like(p)
    optimizer.step()
    v = 0.99 + 0.01 * 4 if state == "square_avg" else 1 + 4
    torch.testing.assert_close(optimizer.state[q][state], torch.full_like(q, v))
    torch.testing.assert_close(q.detach(), torch.full_like(q, 1 - 0.1 * 2 / v**0.5))
    assert optimizer.state[p][state].shape == p.manifold.coordinate_shape(p.shape)


@pytest.mark.parametrize("shape", [(6, 2), (2, 5, 3)])
def test_every_vector_that_is_carried_stays_tangent_on_tall_matrices(shape):
    p = point(manifolds.Stiefel(), shape)
    optimizer = optim.RiemannianRMSprop([p], lr=0.05, momentum=0.5, centered=True)
    for _ in range(5):
        optimizer.zero_grad()
        (p - target(p)).square().sum().backward()
        optimizer.step()
    for name in optimizer.carried:
        v = optimizer.state[p][name]
        torch.testing.assert_close(p.manifold.proju(p.detach(), v), v, atol=1e-12, rtol=0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_plain_parameters_are_stepped_as_torch_steps_them(name, options, weight_decay):
    ours = [torch.ones(3, 2, dtype=d, requires_grad=True) for d in (torch.float64, torch.complex128)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    options = options | {"lr": 0.01, "weight_decay": weight_decay}
    for params, optimizer in ((ours, getattr(optim, name)), (theirs, PEERS[name])):
        stepper = optimizer(params, **options)
        for _ in range(20):
            stepper.zero_grad()
            sum((p - 0.3).abs().pow(4).sum() for p in params).backward()
            stepper.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("manifold", "shape"),
    [
        (geoopt.Sphere(), (5, 4)),
        (geoopt.EuclideanStiefel(), (5, 3)),
        (geoopt.CanonicalStiefel(), (2, 5, 3)),
        (geoopt.PoincareBall(), (5, 3)),
    ],
    ids=str,
)
def test_adam_on_a_geoopt_manifold_equals_geoopts(manifold, shape):
    generator = torch.Generator().manual_seed(0)
    x = manifold.projx(0.3 * torch.randn(shape, dtype=torch.float64, generator=generator))
    goal = torch.randn(shape, dtype=torch.float64, generator=generator)
    ours, theirs = (geoopt.ManifoldParameter(x.clone(), manifold=manifold) for _ in range(2))
    for p, optimizer in ((ours, optim.RiemannianAdam), (theirs, geoopt.optim.RiemannianAdam)):
        stepper = optimizer([p], lr=0.02)
        for _ in range(30):
            stepper.zero_grad()
            (p - goal).square().sum().backward()
            stepper.step()
    torch.testing.assert_close(ours.detach(), theirs.detach(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_batch_of_equal_parameters_steps_like_each_alone(name):
    together = [point(manifolds.Orthogonal(), seed=k) for k in range(3)]
    alone = [point(manifolds.Orthogonal(), seed=k) for k in range(3)]
    run(getattr(optim, name)(together, lr=0.05), together, 5)
    for p, q in zip(together, alone, strict=True):
        run(getattr(optim, name)([q], lr=0.05), [q], 5)
        torch.testing.assert_close(p.detach(), q.detach(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_that_miss_a_gradient_keep_their_own_count(name):
    options = OPTIONS[name][-1]
    both, alone = [point(manifolds.Orthogonal(), seed=k) for k in range(2)], point(manifolds.Orthogonal(), seed=1)
    optimizer, single = (
        getattr(optim, name)(both, lr=0.05, **options),
        getattr(optim, name)([alone], lr=0.05, **options),
    )
    run(optimizer, both[:1], 3)
    run(optimizer, both, 4)
    run(single, [alone], 4)
    torch.testing.assert_close(both[1].detach(), alone.detach(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("through", ["state_dict", "saved state_dict", "deepcopy"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_from_its_saved_state(name, through):
    options = OPTIONS[name][1]
    params = [point(manifolds.Orthogonal(), seed=k) for k in range(2)]
    optimizer = getattr(optim, name)(params, lr=0.05, **options)
    run(optimizer, params, 3)
    if through == "deepcopy":
        copies, resumed = copy.deepcopy((params, optimizer))
    else:
        copies, state = copy.deepcopy(params), optimizer.state_dict()
        if through == "saved state_dict":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        resumed = getattr(optim, name)(copies, lr=0.7)
        resumed.load_state_dict(copy.deepcopy(state))
    run(optimizer, params, 3)
    run(resumed, copies, 3)
    for p, q in zip(params, copies, strict=True):
        assert torch.equal(p, q)
    groups = [[{k: v for k, v in g.items() if k != "params"} for g in o.param_groups] for o in (optimizer, resumed)]
    assert groups[0] == groups[1]


def test_an_option_that_a_state_dict_of_an_earlier_version_lacks_takes_its_default():
    params = [torch.nn.Parameter(torch.eye(3))]
    optimizer = optim.RiemannianAdam(params, lr=0.05, scale="angle")
    state = optimizer.state_dict()
    del state["param_groups"][0]["scale"]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["scale"] == "angle"


@pytest.mark.parametrize(("name", "options"), CASES)
def test_capturable_steps_are_the_same_and_skip_on_the_device(name, options):
    plain, captured = point(manifolds.Orthogonal("qr")), point(manifolds.Orthogonal("qr"))
    first = getattr(optim, name)([plain], lr=0.05, **options)
    second = getattr(optim, name)([captured], lr=0.05, capturable=True, **options)
    for k in range(8):
        if k in (0, 4):
            captured.grad = torch.full_like(captured, torch.nan)
            second.step()
        run(first, [plain], 1)
        run(second, [captured], 1)
    torch.testing.assert_close(plain.detach(), captured.detach(), atol=1e-12, rtol=0)
    assert second.skipped == 2


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_is_named_and_changes_nothing(name, bad):
    params = {"first": point(manifolds.Orthogonal()), "second": torch.nn.Parameter(torch.ones(3))}
    optimizer = getattr(optim, name)(params.items(), lr=0.05, **OPTIONS[name][1])
    run(optimizer, list(params.values())[:1], 2)
    before = copy.deepcopy((list(params.values()), optimizer.state_dict()["state"]))
    params["first"].grad = torch.ones(4, 4, dtype=torch.float64)
    params["second"].grad = torch.tensor([0.0, bad, 0.0])
    with pytest.raises(errors.NonFiniteError, match=r"1 of 3 .* second"):
        optimizer.step()
    after = (list(params.values()), optimizer.state_dict()["state"])
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    for group in optimizer.param_groups:
        group["on_nonfinite"] = "skip"
    optimizer.step()
    torch.testing.assert_close((list(params.values()), optimizer.state_dict()["state"]), before, atol=0, rtol=0)
    assert optimizer.skipped == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_maximize_descends_the_negative(name):
    up, down = point(manifolds.Orthogonal()), point(manifolds.Orthogonal())
    optimizer = getattr(optim, name)([up], lr=0.05, maximize=True)
    for _ in range(3):
        optimizer.zero_grad()
        (-loss(up, target(up))).backward()
        optimizer.step()
    run(getattr(optim, name)([down], lr=0.05), [down], 3)
    assert torch.equal(up, down)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_closure_scheduler_and_groups(name):
    p, q = point(manifolds.Orthogonal()), torch.nn.Parameter(torch.ones(4, 4, dtype=torch.float64))
    optimizer = getattr(optim, name)([{"params": [p], "lr": 0.05}, {"params": [q]}], lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def closure():
        optimizer.zero_grad()
        value = loss(p, target(p)) + q.square().sum()
        value.backward()
        return value

    values = []
    for _ in range(5):
        values.append(optimizer.step(closure).item())
        scheduler.step()
    assert values == sorted(values, reverse=True)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05 / 32, 0.01 / 32])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_leaves_the_manifold_alone_with_one_warning(name):
    decayed, free = point(manifolds.Orthogonal()), point(manifolds.Orthogonal())
    with pytest.warns(UserWarning, match="weight_decay") as caught:
        optimizer = getattr(optim, name)([decayed], lr=0.05, weight_decay=0.5)
    assert len(caught) == 1
    run(optimizer, [decayed], 3)
    run(getattr(optim, name)([free], lr=0.05), [free], 3)
    assert torch.equal(decayed, free)


def test_matrix_second_moment_does_not_depend_on_the_basis():
    manifold, generator = manifolds.Orthogonal(), torch.Generator().manual_seed(5)
    R = manifold.random(4, 4, dtype=torch.float64, generator=generator)
    p = point(manifold)
    q = geoopt.ManifoldParameter((p @ R).detach(), manifold=manifold)
    goal = target(p)
    for x, to in ((p, goal), (q, goal @ R)):
        optimizer = optim.RiemannianAdam([x], lr=0.05, second_moment="matrix")
        for _ in range(10):
            optimizer.zero_grad()
            (x - to).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close((p @ R).detach(), q.detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("every", [0, 1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_polish_removes_what_is_off(name, every):
    p = point(manifolds.Orthogonal("cayley"))
    options = {"step": "retraction"} if name == "RiemannianMuon" else {}  # its geodesic steps remove it by themselves
    optimizer = getattr(optim, name)([p], lr=1e-3, polish_every=every, **options)
    with torch.no_grad():
        p.mul_(1 + 1e-4)
    run(optimizer, [p], 3)
    assert (p.manifold.defect(p).item() < 1e-6) == bool(every)


def test_viewed_blocks_and_free_entries_move_together():
    gates = manifolds.Blocks(manifolds.Orthogonal(), blocks=2, which=(1,))
    W = gates.projx(torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    p, q = geoopt.ManifoldParameter(W, manifold=gates), torch.nn.Parameter(W[:4].clone())
    block = geoopt.ManifoldParameter(W[4:].clone(), manifold=manifolds.Orthogonal())
    goal = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for params, value in (
        ([p], lambda: (p - goal).square().sum()),
        ([q, block], lambda: (torch.cat([q, block]) - goal).square().sum()),
    ):
        optimizer = optim.RiemannianAdam(params, lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            value().backward()
            optimizer.step()
    torch.testing.assert_close(p.detach(), torch.cat([q, block]).detach(), atol=1e-12, rtol=0)
