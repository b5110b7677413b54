"""Blocks are a product of manifolds; an adapted manifold is geoopt's."""

import itertools
import math
import random

import geoopt
import pytest
import torch
from support.tolerances import atol

from manifold_rnn import errors, manifolds

VIEWS = [(1, None), (3, None), (3, (1,)), (4, (3, 0)), (2, (1, 0)), (5, (1, 2, 4))]


@pytest.fixture(params=[manifolds.Orthogonal("qr"), manifolds.Unitary("exp")], ids=lambda m: m.name)
def inner(request):
    return request.param


@pytest.fixture(params=VIEWS, ids=str)
def view(request, inner):
    blocks, which = request.param
    return manifolds.Blocks(inner, blocks, which)


@pytest.fixture
def x(view, generator):
    dtype = torch.complex128 if view.manifold.is_complex else torch.float64
    return view.random((2, view.layout.blocks * 3, 3), dtype=dtype, generator=generator)


def which(view):
    return view.layout.groups[0]


def split(view, x):
    """The constrained blocks and the free ones."""
    chosen, *free = view.layout.split(x)
    return chosen, free[0] if free else x.new_empty(2, 0, 3, 3)


def join(view, chosen, free):
    parts = (chosen, free) if view.layout.free else (chosen,)
    return view.layout.join(parts, (2, view.layout.blocks * 3, 3))


def normal(x, generator):
    return torch.randn(x.shape, dtype=x.dtype, generator=generator)


def test_splitting_loses_nothing(view, x):
    chosen, free = split(view, x)
    assert chosen.shape == (2, len(which(view)), 3, 3) and free.shape == (
        2,
        view.layout.blocks - len(which(view)),
        3,
        3,
    )
    assert torch.equal(join(view, chosen, free), x)
    for i, k in enumerate(which(view)):
        assert torch.equal(chosen[:, i], x[:, 3 * k : 3 * k + 3])


def test_chosen_blocks_move_on_the_manifold_and_the_others_by_addition(view, x, generator):
    u = 0.3 * view.proju(x, normal(x, generator))
    y, chosen = view.retr(x, u), split(view, x)[0]
    torch.testing.assert_close(split(view, y)[0], view.manifold.retr(chosen, split(view, u)[0]))
    torch.testing.assert_close(split(view, y)[1], split(view, x + u)[1])
    assert bool((view.defect(y) < atol(x.dtype)).all())


def test_the_metric_is_that_of_the_product(view, x, generator):
    u, v = (view.proju(x, normal(x, generator)) for _ in range(2))
    expected = (u.conj() * v).real.sum((-2, -1))
    torch.testing.assert_close(view.inner(x, u, v), expected)
    y = view.retr(x, 0.3 * u / view.norm(x, u, keepdim=True))
    (xc, xf), (yc, yf) = split(view, x), split(view, y)
    squares = view.manifold.dist(xc, yc).square().sum(-1) + (yf - xf).abs().square().sum((-3, -2, -1))
    torch.testing.assert_close(view.dist(x, y), squares.sqrt())


def test_coordinates_are_one_vector_in_an_orthonormal_basis(view, x, generator):
    u, v = (view.proju(x, normal(x, generator)) for _ in range(2))
    c = view.to_coordinates(x, u)
    k, reals = len(which(view)), 2 if x.is_complex() else 1
    free = (view.layout.blocks - k) * 9 * reals
    assert c.shape == (2, k * (9 if x.is_complex() else 3) + free) == view.coordinate_shape(x.shape, x.dtype)
    torch.testing.assert_close((c * view.to_coordinates(x, v)).sum(-1), view.inner(x, u, v))
    torch.testing.assert_close(view.from_coordinates(x, c), u)
    square = view.square_coordinates(x, c, "matrix")
    assert square.shape == c.shape and bool((square >= c.square() - 1e-12).all())


def test_a_transposed_view_is_the_view_of_the_transpose(view, x, generator):
    turned = manifolds.Blocks(view.manifold, view.layout.blocks, which(view), matrix_dims=(-1, -2))
    u = view.proju(x, normal(x, generator))
    assert torch.equal(turned.retr(x.mT, u.mT), view.retr(x, u).mT)
    assert torch.equal(turned.to_coordinates(x.mT, u.mT), view.to_coordinates(x, u))
    assert turned.key() != view.key()


def test_only_the_chosen_blocks_have_to_be_points(view, x):
    view.assert_check_point_on_manifold(x)
    chosen, free = split(view, x)
    view.assert_check_point_on_manifold(join(view, chosen, 5 * free))
    assert not view.check_point_on_manifold(join(view, 2 * chosen, free))
    with pytest.raises(errors.ShapeError, match="blocks"):
        view.require(x[:, 1:]) if view.layout.blocks > 1 else view.require(x[0, 0])


@pytest.mark.parametrize("seed", range(20))
def test_any_axes_are_rows_and_columns(seed):
    """Entry by entry: what the flattened indices of rows and columns pick is what `split` shows."""
    rng = random.Random(seed)
    axes = rng.sample(range(-4, 0), 4)
    cuts = sorted(rng.sample(range(1, 4), 2))
    rows, columns, shape = axes[: cuts[0]], axes[cuts[0] : cuts[1]], (2, 4, 2, 6)
    height, width = (math.prod(shape[k] for k in side) for side in (rows, columns))
    blocks = rng.choice([b for b in (1, 2, 4) if height % b == 0])
    which = tuple(rng.sample(range(blocks), rng.randint(1, blocks)))
    view = manifolds.Blocks(geoopt.Euclidean(2), blocks, which, matrix_dims=(rows, columns), transpose=seed % 2 == 1)
    x = torch.arange(math.prod(shape)).reshape(shape)
    parts = view.layout.split(x)
    assert torch.equal(view.layout.join(parts, shape), x)
    assert tuple(tuple(part.shape) for part in parts) == view.layout.shapes(shape)
    matrices = (parts[0].mT if view.layout.transpose else parts[0]).reshape(-1, len(which), height // blocks, width)
    places = [range(shape[k]) if k not in (*rows, *columns) else (0,) for k in range(-4, 0)]
    for matrix, place in zip(matrices, itertools.product(*places), strict=True):
        for (i, k), a, b in itertools.product(enumerate(which), range(height // blocks), range(width)):
            index = list(place)
            for side, flat in ((rows, k * (height // blocks) + a), (columns, b)):
                for axis in reversed(side):
                    flat, index[axis] = divmod(flat, shape[axis])
            assert matrix[i, a, b] == x[tuple(index)]


def test_adapt_leaves_ours_and_wraps_theirs(generator):
    ours, theirs = manifolds.Orthogonal(), geoopt.EuclideanStiefel()
    assert manifolds.adapt(ours) is ours
    wrapped = manifolds.adapt(theirs)
    assert manifolds.adapt(wrapped) is wrapped and wrapped.key() == manifolds.adapt(theirs).key()
    x = theirs.projx(torch.randn(3, 5, 2, generator=generator))
    u = theirs.proju(x, torch.randn(3, 5, 2, generator=generator))
    assert torch.equal(wrapped.retr(x, u), theirs.retr(x, u))
    assert torch.equal(wrapped.expmap(x, u), theirs.expmap(x, u))
    assert bool((wrapped.defect(x) < 1e-5).all()) and bool((wrapped.defect(2 * x) > 1).all())
    assert wrapped.coordinate_shape(tuple(x.shape)) == tuple(x.shape)
    torch.testing.assert_close(wrapped.polish(1.001 * x), x)
    with pytest.raises(errors.UnsupportedError, match="inverse"):
        wrapped.inverse_retr_coordinates(x, x)


def test_complex_points_of_a_foreign_manifold_have_real_coordinates(generator):
    plain = manifolds.adapt(geoopt.Euclidean(ndim=2))
    x, u = (torch.randn(2, 3, 3, dtype=torch.complex128, generator=generator) for _ in range(2))
    c = plain.to_coordinates(x, u)
    assert c.shape == plain.coordinate_shape(tuple(x.shape), x.dtype) == (2, 3, 3, 2)
    assert torch.equal(plain.retr_coordinates(x, c), x + u)
