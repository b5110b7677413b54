"""Other libraries on our manifolds, and ours on theirs."""

# ruff: noqa: NPY002  (pymanopt draws from NumPy's global generator)

import copy

import geoopt
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import manifold_rnn as mr
from manifold_rnn import errors, manifolds, retractions

pymanopt = pytest.importorskip("pymanopt", reason="pymanopt is not installed")
GROUPS = [mr.Orthogonal(), mr.SpecialOrthogonal("polar"), mr.Unitary("exp"), mr.SpecialUnitary(), mr.UnitaryRealForm()]


def sample(manifold, size=(4, 4), seed=0):
    dtype = torch.complex128 if manifold.is_complex else torch.float64
    return manifold.random(*size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# --- geoopt's optimizers and samplers on ours ---


@pytest.mark.parametrize("kind", [geoopt.optim.RiemannianSGD, geoopt.optim.RiemannianAdam])
@pytest.mark.parametrize("manifold", [*GROUPS, mr.Stiefel(), mr.Stiefel("cayley", "canonical")], ids=repr)
def test_geoopts_optimizers_descend_on_ours(manifold, kind):
    size = (6, 3) if isinstance(manifold, manifolds.Stiefel) else (4, 4)
    p = geoopt.ManifoldParameter(sample(manifold, size), manifold=manifold)
    goal = manifold.retr(p.detach(), 0.5 * manifold.proju(p.detach(), sample(manifold, size, 1)))
    optimizer, losses = kind([p], lr=0.05), []
    for _ in range(200):
        optimizer.zero_grad()
        value = (p - goal).abs().square().sum()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 1e-2 * losses[0] and manifold.defect(p.detach()) < 1e-9


@pytest.mark.parametrize("kind", ["RHMC", "RSGLD", "SGRHMC"])
@pytest.mark.parametrize("manifold", [mr.Orthogonal(), mr.SpecialOrthogonal("exp")], ids=repr)
def test_geoopts_samplers_stay_on_ours_and_find_the_mode(manifold, kind):
    torch.manual_seed(0)
    goal = sample(manifold)
    p = geoopt.ManifoldParameter(sample(manifold, seed=1) if kind == "RSGLD" else goal.clone(), manifold=manifold)
    sampler = getattr(geoopt.samplers, kind)([p], **{"epsilon": 1e-2} | ({} if kind == "RSGLD" else {"n_steps": 2}))
    seen = []
    for _ in range(150):
        sampler.step(lambda: 20 * (p * goal).sum())  # a log density with its mode at the goal
        seen.append((p * goal).sum().item() / 4)
    assert manifold.defect(p.detach()) < 1e-8
    if torch.linalg.det(p.detach()) * torch.linalg.det(goal) > 0:
        assert np.mean(seen[75:]) > 0.6 and np.std(seen[75:]) > 1e-4


# --- geoopt's manifolds in our constraints and optimizers ---


@pytest.mark.parametrize("view", ["update", "trivialized"])
@pytest.mark.parametrize(
    "manifold", [geoopt.Sphere(), geoopt.SymmetricPositiveDefinite(), geoopt.PoincareBall()], ids=lambda m: m.name
)
def test_geoopts_manifolds_constrain_and_train(manifold, view):
    torch.manual_seed(0)
    layer = nn.Linear(3, 3).double()
    with torch.no_grad():
        layer.weight.mul_(0.3).add_(0.3 * torch.eye(3))
    mr.constrain(layer, "weight", manifold, view=view)
    kind = mr.optim.RiemannianAdam if view == "update" else torch.optim.Adam
    optimizer, x = kind(layer.parameters(), lr=0.02), torch.randn(32, 3).double()
    target, losses = x @ manifold.projx(0.5 * torch.eye(3).double()), []
    for _ in range(150):
        optimizer.zero_grad()
        value = (layer(x) - target).square().mean()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.2 * losses[0]
    assert not any(p.requires_grad for p in manifold.parameters())  # a curvature stays fixed
    assert manifold.check_point_on_manifold(layer.weight.detach().as_subclass(torch.Tensor), atol=1e-6)


# --- models that were constrained by others ---


@pytest.mark.parametrize("library", ["torch", "geotorch"])
@pytest.mark.parametrize("size", [(4, 4), (6, 3), (3, 6)])
def test_weights_are_carried_over(library, size):
    model = nn.Sequential(nn.Linear(size[1], size[0]), nn.ReLU())
    if library == "torch":
        parametrizations.orthogonal(model[0], "weight")
    else:
        pytest.importorskip("geotorch", reason="geotorch is not installed").orthogonal(model[0], "weight")
    x = torch.randn(5, size[1])
    before = model(x).detach()
    parametrize.remove_parametrizations(model[0], "weight")
    mr.constrain(model[0], "weight", mr.Orthogonal() if size[0] == size[1] else mr.Stiefel())
    torch.testing.assert_close(model(x).detach(), before, atol=1e-5, rtol=0)
    state = copy.deepcopy(model.state_dict())
    assert set(state) == {"0.weight", "0.bias"}


# --- pymanopt's solvers on ours ---


@pytest.mark.parametrize("manifold", [*GROUPS, mr.Stiefel(), mr.Stiefel("polar")], ids=repr)
def test_hessian_is_the_second_derivative_along_geodesics(manifold):
    size = (5, 2) if isinstance(manifold, manifolds.Stiefel) else (4, 4)
    outer = mr.interop.to_pymanopt(manifold, *size)
    np.random.seed(0)
    x, B = outer.random_point(), outer.random_point()
    u = outer.random_tangent_vector(x)

    def cost(x):  # not quadratic, so that every term of the Hessian counts
        return (x * B.conj()).real.sum() ** 2 + (x.real**3).sum()

    def egrad(x):
        return 2 * (x * B.conj()).real.sum() * B + 3 * x.real**2

    ehess = 2 * (u * B.conj()).real.sum() * B + 6 * x.real * u.real
    got = outer.inner_product(x, u, outer.euclidean_to_riemannian_hessian(x, egrad(x), ehess, u))
    t = 1e-3
    along = [cost(outer.exp(x, s * t * u)) for s in (-2, -1, 0, 1, 2)]
    second = (-along[0] + 16 * along[1] - 30 * along[2] + 16 * along[3] - along[4]) / (12 * t * t)
    assert got == pytest.approx(second, abs=1e-6)
    slope = (cost(outer.exp(x, t * u)) - cost(outer.exp(x, -t * u))) / (2 * t)
    assert outer.inner_product(x, u, outer.euclidean_to_riemannian_gradient(x, egrad(x))) == pytest.approx(
        slope, abs=1e-4
    )


@pytest.mark.parametrize("retraction", retractions.names())
@pytest.mark.parametrize("size", [(5, 5), (6, 3)])
def test_trust_regions_solve_procrustes_to_the_last_digits(size, retraction):
    manifold = mr.SpecialOrthogonal(retraction) if size[0] == size[1] else mr.Stiefel(retraction)
    outer = mr.interop.to_pymanopt(manifold, *size)
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(20, size[0], dtype=torch.float64, generator=generator)
    goal = manifold.random(*size, dtype=torch.float64, generator=generator)

    @pymanopt.function.pytorch(outer)
    def cost(x):
        return 0.5 * (A @ (x - goal)).square().sum()

    np.random.seed(0)
    problem = pymanopt.Problem(outer, cost)
    start = outer.retraction(goal.numpy(), 0.3 * outer.random_tangent_vector(goal.numpy()))
    solver = pymanopt.optimizers.TrustRegions(verbosity=0, min_gradient_norm=1e-10, max_iterations=60)
    result = solver.run(problem, initial_point=start)
    np.testing.assert_allclose(result.point, goal.numpy(), atol=1e-9)
    assert result.iterations < 30


@pytest.mark.parametrize("name", ["SteepestDescent", "ConjugateGradient"])
@pytest.mark.parametrize("manifold", [mr.Unitary(), mr.SpecialUnitary("exp")], ids=repr)
def test_first_order_solvers_work_on_complex_points(manifold, name):
    outer = mr.interop.to_pymanopt(manifold, 3, 3)
    np.random.seed(0)
    goal = outer.random_point()
    problem = pymanopt.Problem(
        outer,
        pymanopt.function.numpy(outer)(lambda x: float((np.abs(x - goal) ** 2).sum())),
        euclidean_gradient=pymanopt.function.numpy(outer)(lambda x: 2 * (x - goal)),
    )
    start = outer.exp(goal, 0.7 * outer.random_tangent_vector(goal))
    result = getattr(pymanopt.optimizers, name)(verbosity=0, max_iterations=300).run(problem, initial_point=start)
    np.testing.assert_allclose(result.point, goal, atol=1e-4)


def test_the_rest_of_pymanopts_contract():
    outer = mr.interop.to_pymanopt(mr.Orthogonal(), 4, 4)
    np.random.seed(1)
    x = outer.random_point()
    np.random.seed(1)
    np.testing.assert_array_equal(x, outer.random_point())
    u = outer.random_tangent_vector(x)
    y = outer.exp(x, u)
    assert outer.dim == 6 and outer.norm(x, u) == pytest.approx(1.0)
    assert outer.dist(x, y) == pytest.approx(1.0) and outer.typical_dist > 1
    np.testing.assert_allclose(outer.log(x, y), u, atol=1e-10)
    np.testing.assert_allclose(outer.exp(x, 0.5 * u), outer.pair_mean(x, y), atol=1e-10)
    assert outer.norm(y, outer.transport(x, y, u)) == pytest.approx(1.0)
    assert not outer.zero_vector(x).any() and outer.embedding(x, u) is u


@pytest.mark.parametrize(
    "manifold", [mr.Stiefel(metric="canonical"), mr.UnitDisc(), manifolds.adapt(geoopt.Sphere())], ids=str
)
def test_other_metrics_are_refused(manifold):
    with pytest.raises(errors.UnsupportedError, match="metric of the ambient space"):
        mr.interop.to_pymanopt(manifold, 4, 4)
