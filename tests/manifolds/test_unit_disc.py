"""What the unit disc and the contractions do on their boundary, and how their random points are drawn."""

import geoopt
import pytest
import torch
from support import naive
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import errors, linalg, manifolds, testing

DTYPES = [torch.float64, torch.complex128]


def on_boundary(disc, dtype, generator, n=5):
    """A point of modulus ``radius``, as a rule from one eigenvalue or one pair."""
    x = torch.randn(3, n, n, dtype=dtype, generator=generator)
    return x * (disc.radius / linalg.spectral_radius(x))[..., None, None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("radius", [0.3, 1.0, 5.0])
def test_pulling_back_divides_by_the_radius_and_leaves_points_alone(dtype, radius, generator):
    disc = manifolds.UnitDisc(radius)
    x = on_boundary(disc, dtype, generator)
    torch.testing.assert_close(disc.projx(1.7 * x), x)
    assert torch.equal(disc.projx(0.7 * x), 0.7 * x)
    torch.testing.assert_close(disc.defect(1.5 * x), torch.full((3,), 0.5, dtype=torch.float64))
    assert bool((disc.defect(0.9 * x) == 0).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_the_boundary_a_small_step_against_the_gradient_goes_down(dtype, generator):
    disc = manifolds.UnitDisc()
    for _ in range(10):
        x = on_boundary(disc, dtype, generator)
        g = torch.randn(x.shape, dtype=dtype, generator=generator)
        rgrad, t = disc.egrad2rgrad(x, g), 1e-5
        y = disc.retr(x, -t * rgrad)
        slope = ((y - x).conj() * g).real.sum((-2, -1)) / t
        torch.testing.assert_close(slope, -disc.inner(x, rgrad), atol=0, rtol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_the_boundary_steps_along_it_are_exact_to_first_order(dtype, generator):
    disc = manifolds.UnitDisc()
    x = on_boundary(disc, dtype, generator)
    g = torch.randn(x.shape, dtype=dtype, generator=generator)
    normal = linalg.spectrum.radius_slope(x, linalg.spectral_radius(x), 1e-7)
    u = g - normal * (disc.inner(x, normal, g) / disc.inner(x, normal))[..., None, None]
    for t in (1e-2, 1e-3, 1e-4):
        assert torch.linalg.matrix_norm(disc.retr(x, t * u) - x - t * u).max() <= 50 * t**2


def test_inside_the_gradient_is_left_alone_and_outside_directions_only_are_cut(generator):
    disc = manifolds.UnitDisc()
    x = on_boundary(disc, torch.float64, generator)
    g = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    assert torch.equal(disc.egrad2rgrad(0.9 * x, g), g)
    normal = linalg.spectrum.radius_slope(x, linalg.spectral_radius(x), 1e-7)
    assert torch.equal(disc.egrad2rgrad(x, normal), normal)
    torch.testing.assert_close(disc.egrad2rgrad(x, -normal), torch.zeros_like(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", [mr.optim.RiemannianSGD, mr.optim.RiemannianAdam, geoopt.optim.RiemannianSGD])
@pytest.mark.parametrize("m", [manifolds.UnitDisc(0.8), manifolds.Contraction(0.8)], ids=repr)
def test_optimizers_reach_the_boundary_and_stay_in(make, m, generator):
    x = m.random(4, 4, dtype=torch.float64, generator=generator)
    p, target = geoopt.ManifoldParameter(x, manifold=m), 3 * torch.eye(4, dtype=torch.float64)
    optimizer = make([p], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (p - target).square().sum().backward()
        optimizer.step()
        assert m.defect(p.detach()) < 1e-12
    assert linalg.spectral_radius(p.detach()) > 0.8 - 1e-6
    assert testing.check_optimizer(lambda q: make(q, lr=0.05), m, 0.3 * x).ok


SETS = [manifolds.UnitDisc(0.7), mr.SchurDisc(0.7), mr.SchurDisc(0.7, blocks="rotation"), mr.DiagonalDisc(0.7)]


@pytest.mark.parametrize("shape", [(6, 6), (2, 5, 5), (3, 1, 1), (0, 4, 4), (7, 7)], ids=str)
@pytest.mark.parametrize("disc", SETS, ids=repr)
def test_random_points_are_inside(disc, shape, dtype, generator):
    dtype = dtype.to_complex() if disc.is_complex else dtype
    x = disc.random(*shape, dtype=dtype, generator=generator)
    assert x.shape == shape and x.dtype == dtype
    assert bool((manifolds.UnitDisc(0.7).defect(x) <= 100 * atol(dtype)).all())
    again = disc.random(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)


@pytest.mark.parametrize("disc", [mr.SchurDisc(2.0), mr.DiagonalDisc(2.0)], ids=repr)
def test_random_eigenvalues_are_uniform_on_the_disc(disc, generator):
    x = disc.random(200, 10, 10, dtype=torch.complex128, generator=generator)
    area = (torch.linalg.eigvals(x).abs() / 2).square().flatten().sort().values
    assert (area - torch.linspace(0, 1, len(area), dtype=area.dtype)).abs().max() < 0.05


def test_the_dominant_eigenvalue_is_as_far_out_as_a_uniform_point(generator):
    x = manifolds.UnitDisc(2.0).random(2000, 3, 3, generator=generator)
    area = (naive.spectral_radius(x) / 2).square().sort().values
    assert (area - torch.linspace(0, 1, len(area))).abs().max() < 0.05


def test_degrees_of_freedom():
    assert manifolds.UnitDisc().degrees_of_freedom((2, 5, 5)) == 50
    assert manifolds.UnitDisc().degrees_of_freedom((2, 5, 5), torch.complex64) == 100
    assert manifolds.Contraction().degrees_of_freedom((2, 3, 4)) == 24


REFUSED = {
    "radius": (lambda: manifolds.UnitDisc(0.0), errors.OptionError, "positive"),
    "infinite radius": (lambda: manifolds.UnitDisc(float("inf")), errors.OptionError, "inf"),
    "blocks": (lambda: mr.SchurDisc(blocks="any"), errors.OptionError, "'general'"),
    "retraction": (lambda: mr.SchurDisc(retraction="caley"), errors.OptionError, "cayley"),
    "radius of a Schur form": (lambda: mr.SchurDisc(-1.0), errors.OptionError, "SchurDisc"),
    "radius of a diagonal": (lambda: mr.DiagonalDisc(0), errors.OptionError, "DiagonalDisc"),
    "bound": (lambda: manifolds.Contraction(-1), errors.OptionError, "positive"),
    "tall": (lambda: manifolds.UnitDisc().projx(torch.ones(3, 2)), errors.ShapeError, "square"),
    "integers": (lambda: manifolds.Contraction().projx(torch.ones(3, 2).long()), errors.DtypeError, "int64"),
    "vector": (lambda: manifolds.Contraction().projx(torch.ones(3)), errors.ShapeError, "n, p"),
    "NaN": (lambda: manifolds.UnitDisc().projx(torch.full((2, 2), torch.nan)), errors.NonFiniteError, "4 of 4"),
    "dist": (lambda: manifolds.UnitDisc().dist(torch.eye(2), torch.eye(2)), errors.UnsupportedError, "convex"),
    "swap": (lambda: manifolds.UnitDisc().with_retraction("qr"), errors.UnsupportedError, "its own retraction"),
    "split": (lambda: manifolds.BlockTriangular(mr.Orthogonal(), mr.Orthogonal(), split=0), errors.OptionError, "rows"),
    "block": (lambda: manifolds.BlockTriangular(mr.Orthogonal, mr.Orthogonal()), errors.OptionError, "object such as"),
    "too small": (
        lambda: manifolds.BlockTriangular(mr.Orthogonal(), mr.UnitDisc(), split=3).projx(torch.eye(3)),
        errors.ShapeError,
        "n > 3",
    ),
    "rectangle": (
        lambda: manifolds.BlockTriangular(mr.Orthogonal(), mr.UnitDisc()).projx(torch.ones(4, 3)),
        errors.ShapeError,
        "n, n",
    ),
    "structured block": (
        lambda: manifolds.BlockTriangular(mr.FixedBase(mr.Orthogonal()), mr.UnitDisc()),
        errors.OptionError,
        "block_triangular",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name):
    act, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words) as caught:
        act()
    assert len(str(caught.value)) <= 400


def test_blocks_of_a_triangle_are_where_they_should_be(generator):
    m = manifolds.BlockTriangular(mr.Orthogonal("exp"), mr.UnitDisc(0.5), split=2)
    x = m.random(3, 5, 5, dtype=torch.float64, generator=generator)
    spectrum = torch.linalg.eigvals(x).abs().sort().values
    torch.testing.assert_close(spectrum[:, 3:], torch.ones(3, 2, dtype=torch.float64))
    assert spectrum[:, :3].max() <= 0.5 + 1e-12
    assert m.degrees_of_freedom((3, 5, 5)) == 3 * (1 + 9 + 6) == m.coordinate_shape((3, 5, 5))[1] * 3
    other = m.with_retraction("qr")
    assert other.retraction.name == "qr" and other.top.retraction.name == "qr" and other.bottom is m.bottom
    assert torch.equal(m.layout.join(m.layout.split(x), x.shape), x)
