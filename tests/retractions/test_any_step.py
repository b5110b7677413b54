"""Every retraction on every manifold, for steps of any finite length: right, or refused by name."""

import pytest
import torch
from support import naive
from support.manifold_cases import ALL, ids
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import errors, linalg, manifolds, retractions

LENGTHS = (1e-30, 1e-12, 1e-3, 1.0, 30.0, 1e3, 1e5, 1e8, 1e11, 1e13, 1e20, 1e30, 3e37)
SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}
PAIRS = [(case, r) for case in ALL if case.name not in ("EuclideanStiefel", "Sphere", "Tall") for r in case.retractions]


def step(case, retraction, dtype, length, generator):
    manifold = case.make(retraction)
    x = manifold.polish(case.point((), generator).to(dtype))
    u = manifold.proju(x, torch.randn(x.shape, dtype=dtype, generator=generator))
    return manifold, x, u * (length / float(u.abs().max()))


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(("case", "retraction"), PAIRS, ids=ids)
def test_the_result_is_a_point_or_the_step_is_refused(case, retraction, single, generator):
    dtype = SINGLE[case.dtype] if single else case.dtype
    for length in LENGTHS:
        manifold, x, u = step(case, retraction, dtype, length, generator)
        try:
            y = manifold.retr(x, u)
        except errors.NonFiniteError:
            assert length >= (30.0 if case.cone else 1e10), (retraction, length)  # e^60 overflows, and e^2 does not
            continue
        assert bool(y.isfinite().all()), (retraction, length)
        wide = case.make(retraction)
        slack = 100 if dtype in (torch.float64, torch.complex128) else 1
        assert float(wide.defect(naive.wide(y)).max()) <= slack * atol(dtype), (retraction, length)


@pytest.mark.parametrize("n", [1, 4, 5])
@pytest.mark.parametrize("retraction", retractions.names())
@pytest.mark.parametrize("group", [mr.Orthogonal, mr.SpecialOrthogonal], ids=lambda g: g.__name__)
def test_a_long_step_stays_in_its_component(group, retraction, n, generator):
    for dtype in (torch.float32, torch.float64):
        for length in LENGTHS:
            x = mr.SpecialOrthogonal().random(n, n, dtype=dtype, generator=generator)
            g = length * torch.randn(n, n, dtype=dtype, generator=generator)
            try:
                y = group(retraction).retr_gradient(x, g, -1.0)
            except errors.NonFiniteError:
                assert length > 1e10
                continue
            assert float(torch.linalg.det(y.double())) > 0.5, (dtype, length)


MAPS = {
    "cayley": lambda a: 2 * torch.atan(a / 2),
    "exp": lambda a: a,
    "polar": torch.atan,
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("n", [2, 5, 8])
def test_single_precision_agrees_with_the_eigenvectors_in_double(name, n, generator):
    for dtype in (torch.float32, torch.complex64):
        for length in (1e-20, 1.0, 1e2, 1e4, 1e6, 1e8, 1e9):
            A = linalg.skew(torch.randn(n, n, dtype=dtype, generator=generator)) * length
            w, V = torch.linalg.eigh(-1j * naive.wide(A).to(torch.complex128))
            expected = (V * torch.polar(torch.ones_like(w), MAPS[name](w))) @ V.mH
            got = retractions.get(name).group_map(A).to(torch.complex128)
            torch.testing.assert_close(got, expected, atol=atol(dtype), rtol=0)


def test_cayley_of_a_matrix_beyond_every_square_is_minus_one_on_its_range(generator):
    for dtype, length in ((torch.float32, 1e30), (torch.complex128, 1e300), (torch.float64, 1e200)):
        A = linalg.skew(torch.randn(4, 4, dtype=dtype, generator=generator)) * length
        torch.testing.assert_close(linalg.cayley(A), -naive.eye(A), atol=atol(dtype), rtol=0)
        flat = torch.zeros(5, 5, dtype=dtype)
        flat[:2, :2] = linalg.skew(torch.randn(2, 2, dtype=dtype, generator=generator)) * length
        expected = torch.diag(torch.tensor([-1.0, -1, 1, 1, 1], dtype=dtype))
        torch.testing.assert_close(linalg.cayley(flat), expected, atol=atol(dtype), rtol=0)


@pytest.mark.parametrize("name", retractions.names())
@pytest.mark.parametrize("shape", [(6, 2), (5, 4), (4, 1)], ids=str)
def test_tall_steps_in_single_precision_agree_with_those_in_double(name, shape, generator):
    retraction = retractions.get(name)
    for dtype in (torch.float32, torch.complex64):
        for length in (1e-30, 1e-3, 1.0, 5.0, 50.0, 1e3, 1e5, 1e7):
            x = linalg.polish(naive.wide(mr.Stiefel().random(*shape, dtype=dtype, generator=generator)))
            u = length * mr.Stiefel().proju(x, torch.randn(shape, dtype=x.dtype, generator=generator))
            expected, got = retraction.retract(x, u), retraction.retract(x.to(dtype), u.to(dtype))
            # what rounding u turns the result by grows with its length, only for the exponential without a bound
            slack = 1 + (length if name == "exp" else min(length, 1e3))
            torch.testing.assert_close(naive.wide(got), expected, atol=slack * atol(dtype), rtol=0)


@pytest.mark.parametrize("retraction", retractions.names())
@pytest.mark.parametrize("kind", ["Orthogonal", "Unitary", "SpecialUnitary", "Stiefel"])
def test_coordinates_that_ran_away_give_a_point_and_finite_gradients_or_are_refused(kind, retraction, generator):
    manifold = getattr(manifolds, kind)(retraction)
    shape = (6, 3) if kind == "Stiefel" else (5, 5)
    for length in LENGTHS:
        base = manifold.random(*shape, generator=generator)
        c = length * torch.randn(manifold.coordinate_shape(shape, base.dtype), generator=generator)
        try:
            W = manifold.retr_free(base, c.requires_grad_())
        except errors.NonFiniteError:
            assert length > 1e10
            continue
        (g,) = torch.autograd.grad(W.abs().square().sum() + W.real.sum(), c)
        assert linalg.defect(naive.wide(W.detach())) < 1e-5 and bool(g.isfinite().all()), length


@pytest.mark.parametrize("retraction", retractions.names())
def test_the_exponential_map_of_either_metric_follows_long_vectors(retraction, generator):
    for metric in ("euclidean", "canonical"):
        manifold = mr.Stiefel(retraction, metric)
        for length in (1.0, 10.0, 1e4, 1e8):
            x = manifold.random(6, 3, dtype=torch.float64, generator=generator)
            u = length * manifold.proju(x, torch.randn(x.shape, dtype=x.dtype, generator=generator))
            assert linalg.defect(manifold.expmap(x, u)) < 1e-12


def test_the_exponential_map_in_single_precision_ends_on_the_manifold(generator):
    for length in (0.1, 1.0, 3.0, 10.0):
        for n, p in ((5, 4), (4, 2), (40, 7)):
            x = mr.Stiefel().random(100, n, p, dtype=torch.float32, generator=generator)
            u = length * torch.randn(x.shape, generator=generator)
            assert linalg.defect(mr.Stiefel().expmap(x, u).double()).max() < 1e-5


def test_the_gradient_of_a_long_tall_step_is_that_of_the_curve(generator):
    for phi in (linalg.cayley, linalg.expm_skew):
        for inside in (0.0, 1.0):
            x = mr.Stiefel().random(7, 2, dtype=torch.complex128, generator=generator).requires_grad_()
            u = torch.randn(7, 2, dtype=torch.complex128, generator=generator, requires_grad=True)
            move = lambda x, u, phi=phi, inside=inside: linalg.action.moved_by_group(phi, x, u, inside)  # noqa: E731
            assert torch.autograd.gradcheck(move, (x, u)) and torch.autograd.gradgradcheck(move, (x, u), fast_mode=True)


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1e-12, 1e12, 1e25, 1e37])
def test_polar_factors_and_norms_do_not_depend_on_the_scale(scale, generator):
    for dtype in (torch.float32, torch.complex64):
        x = torch.randn(5, 3, dtype=dtype, generator=generator)
        torch.testing.assert_close(linalg.polar(scale * x), linalg.polar(x), atol=1e-5, rtol=0)
        for manifold in (mr.Stiefel(), mr.Stiefel(metric="canonical"), mr.Contraction()):
            y, u = (x, x) if isinstance(manifold, mr.Contraction) else (linalg.polar(x), x)
            torch.testing.assert_close(manifold.norm(y, scale * u), scale * manifold.norm(y, u), atol=0, rtol=1e-5)
