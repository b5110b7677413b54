"""The public checks pass what is right, catch what is wrong, and change nothing around them."""

import dataclasses

import geoopt
import pytest
import torch

from manifold_rnn import errors, manifolds, optim, retractions, testing

CHECKS = [testing.check_manifold, testing.check_retraction, testing.check_gradient]
THEIRS = [
    geoopt.EuclideanStiefel(),
    geoopt.EuclideanStiefelExact(),
    geoopt.Sphere(),
    geoopt.SymmetricPositiveDefinite(),
    geoopt.PoincareBall(),
    geoopt.Euclidean(ndim=1),
]


class Doubled(manifolds.Orthogonal):
    """A manifold with a mistake in one place, the place given by name."""

    def __init__(self, place):
        super().__init__()
        setattr(self, place, lambda *args: 2 * getattr(manifolds.Orthogonal(), place)(*args))


class Straight(torch.optim.SGD):
    """An optimizer that claims to know manifolds."""

    moves_on_manifolds = True


def stale(x, u):
    """A retraction of the right derivative that leaves the manifold."""
    return x + u


@pytest.mark.parametrize("manifold", THEIRS, ids=lambda m: m.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_right_manifolds_of_others_pass(check, manifold):
    check(manifold, strict=True)


def test_geoopt_s_canonical_stiefel_steps_twice_too_far():
    report = testing.check_retraction(geoopt.CanonicalStiefel())
    assert not report.ok and report.first_order == pytest.approx(1, abs=0.1)
    assert testing.check_manifold(geoopt.CanonicalStiefel()).proju_idempotent > 0.1
    with pytest.raises(errors.CheckError, match="first_order") as caught:
        testing.check_retraction(geoopt.CanonicalStiefel(), strict=True)
    assert isinstance(caught.value, AssertionError) and isinstance(caught.value, errors.ManifoldError)


@pytest.mark.parametrize(
    ("place", "check", "number"),
    [
        ("proju", testing.check_manifold, "proju_idempotent"),
        ("projx", testing.check_manifold, "defect"),
        ("egrad2rgrad", testing.check_manifold, "riesz"),
        ("logmap", testing.check_manifold, "exp_log"),
        ("to_coordinates", testing.check_manifold, "coordinates"),
        ("retr", testing.check_retraction, "at_zero"),
        ("egrad2rgrad", testing.check_gradient, "descent"),
        ("egrad2coordinates", testing.check_gradient, "by_coordinates"),
        ("inverse_retr_coordinates", testing.check_retraction, "inverse"),
    ],
)
def test_a_factor_of_two_is_found_and_named(place, check, number):
    report = check(Doubled(place))
    assert number in [row.name for row in report.failures]
    with pytest.raises(errors.CheckError, match=r"Expected .* got "):
        report.require()


def test_a_retraction_of_lower_order_than_claimed_is_found():
    assert testing.check_retraction(manifolds.Orthogonal("qr")).ok
    report = testing.check_retraction(manifolds.Orthogonal("qr"), order=2)
    assert [row.name for row in report.failures] == ["geodesic_order"]
    manifold = manifolds.Orthogonal()
    manifold.retr = stale
    assert {row.name for row in testing.check_retraction(manifold).failures} >= {"defect", "geodesic_order"}


class OfOrder(manifolds.Orthogonal):
    """Steps that leave the geodesic with a power of their length."""

    def __init__(self, order):
        super().__init__()
        self.power = order + 1

    def retr(self, x, u):
        aside = x @ torch.ones_like(x).triu(1).sub(torch.ones_like(x).tril(-1))
        return self.expmap(x, u + torch.linalg.matrix_norm(u)[..., None, None] ** self.power * aside)


@pytest.mark.parametrize("order", range(1, 8))
def test_the_order_of_a_retraction_is_what_was_built_into_it(order):
    report = testing.check_retraction(OfOrder(order), order=order)
    assert report.geodesic_order == pytest.approx(order + 1, abs=0.05)
    failed = testing.check_retraction(OfOrder(order), order=order + 1).failures
    assert "geodesic_order" in [row.name for row in failed]


@dataclasses.dataclass(frozen=True)
class Bare(retractions.Retraction):
    """Nothing but what the abstract class asks for."""

    def group_map(self, A):
        return torch.linalg.solve(torch.eye(A.shape[-1], dtype=A.dtype) - A / 2, torch.eye(A.shape[-1]).to(A) + A / 2)

    def inverse_group_map(self, Q):
        raise errors.UnsupportedError("none")

    def retract_tall(self, x, u):
        raise errors.UnsupportedError("none")

    def inverse_tall(self, x, y):
        raise errors.UnsupportedError("none")


class Plane(manifolds.Manifold):
    """Nothing but what the abstract class asks for: vectors of sum 0."""

    name = "Plane"
    ndim = 1
    reversible = False

    def projx(self, x):
        return x - x.mean(-1, keepdim=True)

    def proju(self, x, u):
        return self.projx(u)

    def egrad2rgrad(self, x, u):
        return self.projx(u)

    def inner(self, x, u, v=None, *, keepdim=False):
        return (u * (u if v is None else v)).sum(-1, keepdim=keepdim)

    def retr(self, x, u):
        return x + u

    def expmap(self, x, u):
        return x + u

    def transp(self, x, y, v):
        return v

    def _check_point_on_manifold(self, x, *, atol=1e-5, rtol=1e-5):
        return bool(x.sum(-1).abs().max() <= atol), "the sum is not 0"

    def _check_vector_on_tangent(self, x, u, *, atol=1e-5, rtol=1e-5):
        return bool(u.sum(-1).abs().max() <= atol), "the sum is not 0"


def test_what_defines_the_abstract_methods_alone_passes_every_check():
    assert Bare().name == "bare" and Bare().order(manifolds.Orthogonal()) == 1
    for manifold, x in ((manifolds.Orthogonal(Bare()), None), (Plane(), torch.randn(4, 5))):
        for check in CHECKS:
            check(manifold, x=x, strict=True)
        testing.check_optimizer(lambda params: optim.RiemannianAdam(params, lr=0.1), manifold, x, strict=True)


@pytest.mark.parametrize(("name", "order"), [("qr", 1), ("polar", 2), ("cayley", 2)])
def test_a_retraction_has_its_own_order_and_no_higher_one(name, order):
    manifold = manifolds.Orthogonal(name)
    assert testing.check_retraction(manifold, order=order).ok
    assert not testing.check_retraction(manifold, order=order + 1).ok


@pytest.mark.parametrize("manifold", [manifolds.Orthogonal, manifolds.Stiefel, manifolds.Unitary, manifolds.Sphere])
def test_a_gradient_that_is_not_tangent_is_found(manifold):
    class Ambient(manifold):
        def egrad2rgrad(self, x, u):
            return u

    assert "gradient_tangent" in [row.name for row in testing.check_manifold(Ambient()).failures]


def test_nan_is_out_of_every_bound():
    manifold = manifolds.Orthogonal()
    manifold.retr = lambda x, u: x + torch.nan
    report = testing.check_retraction(manifold)
    assert report.failures[0].excess == float("inf") and "nan" in str(report)


def test_a_check_takes_points_and_functions(generator):
    manifold = manifolds.Unitary("exp")
    x = manifold.random(3, 5, 5, generator=generator)  # single precision is projected in double
    a = torch.randn(5, 5, dtype=torch.complex128, generator=generator)
    for check in CHECKS:
        assert check(manifold, x=x).ok
    assert testing.check_gradient(manifold, lambda y: (a @ y @ a.mH @ y.mH).real.sum((-2, -1)), x).ok
    with pytest.raises(errors.UnsupportedError, match="no random points"):
        testing.check_manifold(geoopt.Lorentz())


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_a_report_is_a_frozen_table_of_numbers_that_comes_out_the_same_again(check):
    manifold = manifolds.Blocks(manifolds.Orthogonal(), 3, (1,))
    state = torch.get_rng_state()
    torch.manual_seed(0)
    report = check(manifold)
    torch.set_rng_state(state)
    assert report == check(manifold) and torch.equal(torch.get_rng_state(), state)
    assert check(manifold, seed=1) != report
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.atol = 1.0
    lines = str(report).splitlines()
    assert "ok" in lines[0] and len(lines) == 1 + len(report.rows)
    assert all(row.name in line for row, line in zip(report.rows, lines[1:], strict=True))


def test_points_drawn_with_the_same_seed_are_not_parallel_to_the_directions():
    for seed in range(3):
        torch.manual_seed(seed)
        sphere = geoopt.Sphere()
        x = sphere.projx(torch.randn(2, 4, dtype=torch.float64))
        assert testing.check_retraction(sphere, x, seed=seed).ok


OPTIMIZERS = {
    "sgd": lambda p: optim.RiemannianSGD(p, lr=0.1),
    "momentum": lambda p: optim.RiemannianSGD(p, lr=0.05, momentum=0.5),
    "adam": lambda p: optim.RiemannianAdam(p, lr=0.05),
    "matrix": lambda p: optim.RiemannianAdam(p, lr=0.05, second_moment="matrix"),
    "rmsprop": lambda p: optim.RiemannianRMSprop(p, lr=0.01),
    "adagrad": lambda p: optim.RiemannianAdagrad(p, lr=0.1),
    "geoopt": lambda p: geoopt.optim.RiemannianSGD(p, lr=0.1),
}
OURS = [manifolds.Orthogonal(r) for r in retractions.names()] + [
    manifolds.SpecialOrthogonal(), manifolds.Unitary(), manifolds.SpecialUnitary(), manifolds.UnitaryRealForm(),
    manifolds.Blocks(manifolds.Orthogonal(), 2, (1,)), geoopt.EuclideanStiefel(), geoopt.Sphere(),
]  # fmt: skip


@pytest.mark.parametrize("manifold", OURS, ids=repr)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_descend_without_leaving_the_manifold(name, manifold):
    if name == "geoopt" and isinstance(manifold, manifolds.Unitary):
        pytest.skip("geoopt's optimizer on complex points is tested with a real loss elsewhere")
    testing.check_optimizer(OPTIMIZERS[name], manifold, strict=True)


def test_an_optimizer_that_leaves_the_manifold_is_found():
    report = testing.check_optimizer(lambda p: Straight(p, lr=0.1), manifolds.Orthogonal())
    assert report.failures[0].name == "defect"
    report = testing.check_optimizer(lambda p: optim.RiemannianSGD(p, lr=0.1, maximize=True), manifolds.Orthogonal())
    assert {row.name for row in report.failures} >= {"first_step", "loss_ratio", "plain_ratio"}
    report = testing.check_optimizer(lambda p: optim.RiemannianSGD(p, lr=1e-4), manifolds.Orthogonal())
    assert {row.name for row in report.failures} == {"loss_ratio", "plain_ratio"}
