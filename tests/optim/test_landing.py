"""Landing steps near the manifold, never farther from it than its epsilon, and arrives."""

import geoopt
import pytest
import torch

from manifold_rnn import errors, linalg, manifolds, optim

CASES = {
    "square": (manifolds.Orthogonal(), (6, 6), torch.float64),
    "rotation": (manifolds.SpecialOrthogonal(), (6, 6), torch.float64),
    "unitary": (manifolds.Unitary(), (2, 5, 5), torch.complex128),
    "tall": (manifolds.Stiefel(), (9, 3), torch.float64),
    "tall complex": (manifolds.Stiefel(metric="canonical"), (7, 2), torch.complex128),
}


def point(manifold, shape, dtype, seed=0):
    x = manifold.random(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return geoopt.ManifoldParameter(x, manifold=manifold)


def goal_like(p):
    return p.manifold.random(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(1))


def step(optimizer, p, goal):
    optimizer.zero_grad()
    value = (p - goal).abs().square().sum()
    value.backward()
    optimizer.step()
    return value.item()


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_arrives_at_a_critical_point_on_the_manifold(case, momentum):
    p = point(*CASES[case])
    goal, optimizer = goal_like(p), optim.Landing([p], lr=0.1, momentum=momentum)
    first = step(optimizer, p, goal)
    for _ in range(600):
        last = step(optimizer, p, goal)
    gradient = p.manifold.proju(p.detach(), p.grad)
    assert last < 0.5 * first and gradient.norm() < 1e-5
    assert optimizer.distance < 1e-8


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("lr", [0.3, 10.0, 1e4])
@pytest.mark.parametrize("case", CASES)
def test_never_leaves_its_epsilon_however_long_the_rate(case, lr, epsilon):
    p = point(*CASES[case])
    optimizer, generator = optim.Landing([p], lr=lr, epsilon=epsilon, attraction=0.3), torch.Generator().manual_seed(2)
    worst = 0.0
    for _ in range(200):
        p.grad = 10 * torch.randn(p.shape, dtype=p.dtype, generator=generator)
        optimizer.step()
        worst = max(worst, float(linalg.defect(p.detach()).max()))
        assert worst <= epsilon * (1 + 1e-9)
    assert worst > 0.5 * epsilon  # the bound is not far from what is needed
    assert optimizer.distance <= epsilon


def test_the_field_is_the_formula():
    p = point(*CASES["tall complex"])
    with torch.no_grad():
        p.mul_(1.02)
    x, g = p.detach().clone(), torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(3))
    p.grad = g.clone()
    optim.Landing([p], lr=1e-3, attraction=0.7).step()
    relative = linalg.skew(g @ x.mH)
    eye = torch.eye(2, dtype=x.dtype)
    torch.testing.assert_close(p.detach(), x - 1e-3 * (relative @ x + 0.7 * x @ (x.mH @ x - eye)), atol=1e-13, rtol=0)


def test_comes_nearer_from_outside_its_epsilon():
    p = point(*CASES["square"])
    with torch.no_grad():
        p.mul_(1.1)
    optimizer = optim.Landing([p], lr=0.1, epsilon=0.1)
    before = optimizer.distance
    assert before > 0.1
    for _ in range(100):
        step(optimizer, p, goal_like(p))
        assert optimizer.distance <= max(before, 0.1)
        before = optimizer.distance
    assert before <= 0.1


def test_projection_puts_the_weights_on_their_manifolds():
    p = point(*CASES["square"])
    optimizer = optim.Landing([p, torch.nn.Parameter(torch.ones(2))], lr=1.0)
    step(optimizer, p, goal_like(p))
    assert optimizer.distance > 1e-3
    optimizer.project()
    assert optimizer.distance < 1e-13


def test_plain_parameters_move_as_under_sgd_and_free_blocks_too():
    gates = manifolds.Blocks(manifolds.Orthogonal(), blocks=2, which=(1,))
    W = gates.projx(torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    p, q = geoopt.ManifoldParameter(W, manifold=gates), torch.nn.Parameter(W[:4].clone())
    options = {"lr": 0.05, "momentum": 0.9, "nesterov": True}
    ours, theirs = optim.Landing([p], **options), torch.optim.SGD([q], **options)
    for _ in range(5):
        for parameter, optimizer in ((p, ours), (q, theirs)):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(p.detach()[:4], q.detach(), atol=1e-13, rtol=0)
    assert 0 < ours.distance < 0.5


def test_capturable_steps_are_the_same():
    plain, captured = (point(*CASES["unitary"]) for _ in range(2))
    first, second = optim.Landing([plain], lr=0.2), optim.Landing([captured], lr=0.2, capturable=True)
    for _ in range(5):
        step(first, plain, goal_like(plain))
        step(second, captured, goal_like(captured))
    captured.grad = torch.full_like(captured, torch.nan)
    second.step()
    torch.testing.assert_close(plain.detach(), captured.detach(), atol=1e-13, rtol=0)
    assert second.skipped == 1


@pytest.mark.parametrize(
    "manifold",
    [
        manifolds.SpecialUnitary(),
        manifolds.BlockTriangular(manifolds.Orthogonal(), manifolds.UnitDisc()),
        geoopt.Sphere(),
    ],
    ids=str,
)
def test_other_manifolds_are_refused_by_name(manifold):
    p = geoopt.ManifoldParameter(torch.eye(4), manifold=manifold)
    with pytest.raises(errors.UnsupportedError, match=r"(?s)Landing.*RiemannianSGD"):
        optim.Landing([p])
