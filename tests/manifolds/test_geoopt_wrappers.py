"""geoopt's own wrappers around our manifolds, and ours around its: scaled, in products, or refused by name."""

import geoopt
import pytest
import torch
from support.manifold_cases import ALL, ids

from manifold_rnn import errors, linalg, manifolds, optim

SCALE = 2.0
OURS = [case for case in ALL if case.retractions != ("own",)]


def drawn(case, m, generator):
    x = case.point((), generator)
    return x, 0.1 * m.proju(x, torch.randn(x.shape, dtype=x.dtype, generator=generator))


def outcome(f, *args):
    """What a method returns, or the class of its refusal."""
    try:
        return f(*args)
    except errors.UnsupportedError as refusal:
        return type(refusal)


def assert_same(a, b):
    assert a is b if isinstance(b, type) else torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("inner", [lambda m: m, lambda m: geoopt.Scaled(m, 1.0), manifolds.Blocks], ids=range(3))
@pytest.mark.parametrize("case", OURS, ids=ids)
def test_scaled_steps_are_shorter_and_scaled_distances_longer(case, inner, generator):
    m = case.make("cayley")
    if inner is manifolds.Blocks and (m.ndim != 2 or isinstance(m, manifolds.Parts)):
        return
    scaled, (x, u) = geoopt.Scaled(inner(m), SCALE), drawn(case, m, generator)
    for name in ("retr", "expmap"):
        assert_same(outcome(getattr(scaled, name), x, u), outcome(getattr(m, name), x, u / SCALE))
    y = m.retr(x, u)
    scaled.assert_check_point(y)
    assert scaled.reversible == m.reversible
    for name, power in (("dist", 1), ("dist2", 2), ("logmap", 1)):
        expected = outcome(getattr(m, name), x, y)
        expected = expected if isinstance(expected, type) else SCALE**power * expected
        assert_same(outcome(getattr(scaled, name), x, y), expected)
    for name, *args in (("proju", x, u), ("projx", y), ("transp", x, y, u), ("egrad2rgrad", x, u), ("inner", x, u)):
        assert_same(outcome(getattr(scaled, name), *args), outcome(getattr(m, name), *args))
    moved, carried = scaled.retr_transp(x, u, u)
    assert_same(moved, m.retr(x, u / SCALE))
    assert_same(carried, m.transp(x, moved, u))


@pytest.mark.parametrize("case", OURS, ids=ids)
def test_a_product_works_part_by_part(case, generator):
    m = case.make("cayley")
    (x, u), (y, v) = (drawn(case, m, generator) for _ in range(2))
    product = geoopt.ProductManifold((m, case.shape), (m, case.shape))
    both, vector = product.pack_point(x, y), product.pack_point(u, v)
    product.assert_check_point(both)
    assert product.reversible == m.reversible
    assert_same(product.retr(both, vector), product.pack_point(m.retr(x, u), m.retr(y, v)))
    assert_same(product.proju(both, vector), product.pack_point(m.proju(x, u), m.proju(y, v)))
    assert_same(product.projx(both), product.pack_point(m.projx(x), m.projx(y)))


@pytest.mark.parametrize("wrap", [lambda m: geoopt.Scaled(m, SCALE), lambda m: m], ids=["scaled", "bare"])
@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "geoopt's"])
def test_optimizers_of_ours_move_what_geoopts_wrappers_wrap(theirs, wrap, generator):
    inner = geoopt.EuclideanStiefel() if theirs else manifolds.Stiefel()
    m = manifolds.adapt(geoopt.ProductManifold((wrap(inner), (4, 2)), (geoopt.Sphere(), 3)))
    x = m.projx(torch.randn(11, dtype=torch.float64, generator=generator))
    for name in ("RiemannianSGD", "RiemannianAdam"):
        p = torch.nn.Parameter(x.clone())
        p.manifold = m
        optimizer = getattr(optim, name)([p], lr=0.1)
        for _ in range(3):
            p.grad = torch.randn(11, dtype=torch.float64, generator=generator)
            optimizer.step()
        assert not torch.equal(p, x)
        assert linalg.defect(p[:8].detach().reshape(4, 2)) < 1e-12 and abs(p[8:].norm() - 1) < 1e-12


def test_a_scaled_manifold_of_ours_is_stepped_by_as_much_less(generator):
    m, g = manifolds.Orthogonal(), torch.randn(4, 4, dtype=torch.float64, generator=generator)
    x, moved = m.random(4, 4, dtype=torch.float64, generator=generator), []
    for manifold, lr in ((m, 0.1), (geoopt.Scaled(m, SCALE), 0.1 * SCALE)):
        p = torch.nn.Parameter(x.clone())
        p.manifold, p.grad = manifold, g
        optim.RiemannianSGD([p], lr=lr).step()
        moved.append(p.detach())
    torch.testing.assert_close(*moved, atol=1e-12, rtol=0)


def test_a_product_of_stereographic_models_takes_only_these(generator):
    with pytest.raises(TypeError, match="Stereographic"):
        geoopt.StereographicProductManifold((manifolds.Orthogonal(), (3, 3)))
    torus = geoopt.StereographicProductManifold((geoopt.SphereProjection(), 2), (geoopt.PoincareBall(), 3))
    ours, x = manifolds.adapt(torus), 0.1 * torch.randn(5, dtype=torch.float64, generator=generator)
    u = 0.1 * torch.randn(5, dtype=torch.float64, generator=generator)
    for name, *args in (("retr", x, u), ("expmap", x, u), ("proju", x, u), ("egrad2rgrad", x, u), ("dist", x, x + u)):
        torch.testing.assert_close(getattr(ours, name)(*args), getattr(torus, name)(*args))
    p = torch.nn.Parameter(x.clone())
    p.manifold, p.grad = torus, u
    optim.RiemannianAdam([p], lr=0.1).step()
    assert not torch.equal(p, x)
    torus.assert_check_point(p.detach())
