"""Positive definite matrices: closed forms, pymanopt and scipy as oracles, ill-conditioned points, means, refusals."""

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
from pymanopt.manifolds import HermitianPositiveDefinite, SymmetricPositiveDefinite
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors
from manifold_rnn.linalg.hermitian import pack_hermitian

METRICS = ("affine", "log-cholesky")
DTYPES = (torch.float64, torch.complex128)
AFFINE, CHOLESKY = mr.SPD(), mr.SPD("log-cholesky")


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=METRICS)
def spd(request):
    return mr.SPD(request.param)


def points(generator, *shape, dtype=torch.float64):
    return AFFINE.random(*shape, dtype=dtype, generator=generator)


def symmetric(generator, *shape, dtype=torch.float64):
    g = torch.randn(shape, dtype=dtype, generator=generator)
    return 0.5 * (g + g.mH)


def spread(generator, n, condition, dtype):
    """A point with this condition number."""
    group = mr.Unitary() if dtype.is_complex else mr.Orthogonal()
    Q = group.random(n, n, dtype=dtype, generator=generator)
    x = Q * torch.logspace(0, -np.log10(condition), n, dtype=torch.float64) @ Q.mH
    return 0.5 * (x + x.mH)


def power(x, t):
    w, V = np.linalg.eigh(x)
    return V * w**t @ V.conj().T


# --- the affine-invariant metric ---


def test_agrees_with_pymanopt(dtype, generator):
    theirs = (HermitianPositiveDefinite if dtype.is_complex else SymmetricPositiveDefinite)(4)
    x, y = points(generator, 2, 4, 4, dtype=dtype)
    u, v = 0.3 * symmetric(generator, 2, 4, 4, dtype=dtype)
    g = torch.randn(4, 4, dtype=dtype, generator=generator)
    a, b, w, h = (t.numpy() for t in (x, y, u, g))
    assert float(AFFINE.dist(x, y)) == pytest.approx(theirs.dist(a, b), abs=1e-10)
    inner = np.trace(np.linalg.solve(a, w) @ np.linalg.solve(a, v.numpy())).real  # theirs transposes complex vectors
    assert float(AFFINE.inner(x, u, v)) == pytest.approx(float(inner), abs=1e-12)
    if not dtype.is_complex:
        assert float(AFFINE.inner(x, u, v)) == pytest.approx(float(theirs.inner_product(a, w, v.numpy())), abs=1e-12)
        np.testing.assert_allclose(
            AFFINE.egrad2rgrad(x, g).numpy(), theirs.euclidean_to_riemannian_gradient(a, h), atol=1e-12
        )
    np.testing.assert_allclose(AFFINE.expmap(x, u).numpy(), theirs.exp(a, w), atol=1e-10)
    np.testing.assert_allclose(AFFINE.logmap(x, y).numpy(), theirs.log(a, b), atol=1e-10)


def test_geodesic_and_transport_agree_with_their_formulas(dtype, generator):
    x, y = points(generator, 2, 4, 4, dtype=dtype)
    v = symmetric(generator, 4, 4, dtype=dtype)
    a, b = x.numpy(), y.numpy()
    root, back = power(a, 0.5), power(a, -0.5)
    for t in (-0.5, 0.0, 0.3, 1.0, 1.7):
        expected = root @ power(back @ b @ back, t) @ root
        np.testing.assert_allclose(AFFINE.geodesic(x, y, t).numpy(), expected, atol=1e-12)
    E = scipy.linalg.sqrtm(b @ np.linalg.inv(a))
    np.testing.assert_allclose(AFFINE.transp(x, y, v).numpy(), E @ v.numpy() @ E.conj().T, atol=1e-12)


def test_distances_do_not_change_under_congruence_and_inversion(dtype, generator):
    x, y = points(generator, 2, 4, 4, dtype=dtype)
    B = torch.randn(4, 4, dtype=dtype, generator=generator)
    d = AFFINE.dist(x, y)
    torch.testing.assert_close(AFFINE.dist(B @ x @ B.mH, B @ y @ B.mH), d, atol=0, rtol=1e-10)
    torch.testing.assert_close(AFFINE.dist(torch.linalg.inv(x), torch.linalg.inv(y)), d, atol=0, rtol=1e-10)
    torch.testing.assert_close(AFFINE.dist(1e-30 * x, 1e-30 * y), d, atol=0, rtol=1e-10)
    torch.testing.assert_close(AFFINE.dist(1e30 * x, 1e30 * y), d, atol=0, rtol=1e-10)


# --- the log-Cholesky metric ---


def numbers(x):
    """Entries of the factor below the diagonal, and logarithms of those on it."""
    L = np.linalg.cholesky(x.numpy())
    return np.concatenate([L[np.tril_indices(len(L), -1)], np.log(np.diag(L))])


def test_the_log_cholesky_metric_is_flat_in_its_numbers(dtype, generator):
    x, y, z = points(generator, 3, 4, 4, dtype=dtype)
    assert float(CHOLESKY.dist(x, y)) == pytest.approx(np.linalg.norm(numbers(y) - numbers(x)), abs=1e-13)
    for t in (-1.0, 0.25, 2.0):
        np.testing.assert_allclose(
            numbers(CHOLESKY.geodesic(x, y, t)), (1 - t) * numbers(x) + t * numbers(y), atol=1e-12
        )
    mean = CHOLESKY.mean(torch.stack([x, y, z]), torch.tensor([1.0, 2.0, 1.0]))
    np.testing.assert_allclose(numbers(mean), (numbers(x) + 2 * numbers(y) + numbers(z)) / 4, atol=1e-12)
    u = symmetric(generator, 4, 4, dtype=dtype)
    h = 1e-6
    slope = (numbers(x + h * u) - numbers(x - h * u)) / (2 * h)
    assert float(CHOLESKY.norm(x, u)) == pytest.approx(np.linalg.norm(slope), rel=1e-8)


# --- both ---


def test_exp_and_log_are_inverse(spd, dtype, generator):
    x, y = points(generator, 2, 5, 5, dtype=dtype)
    u = symmetric(generator, 5, 5, dtype=dtype)
    torch.testing.assert_close(spd.expmap(x, spd.logmap(x, y)), y, atol=1e-10, rtol=0)
    torch.testing.assert_close(spd.logmap(x, spd.expmap(x, u)), u, atol=1e-10, rtol=0)
    torch.testing.assert_close(spd.norm(x, spd.logmap(x, y)), spd.dist(x, y), atol=1e-12, rtol=0)
    torch.testing.assert_close(spd.dist(y, x), spd.dist(x, y), atol=1e-12, rtol=0)


@pytest.mark.parametrize("condition", [1e6, 1e12])
def test_ill_conditioned_points_are_reached(spd, dtype, condition, generator):
    x, y = (spread(generator, 4, condition, dtype) for _ in "xy")
    eye = torch.eye(4, dtype=dtype)
    size = float(torch.linalg.matrix_norm(y, 2))
    for base in (eye, x):
        c = spd.inverse_retr_coordinates(base, y)
        unit = 1e-13 if base is eye else 1e-13 * condition**0.5
        torch.testing.assert_close(spd.retr_coordinates(base, c), y, atol=unit * size, rtol=0)
    d = torch.diag(torch.logspace(0, -np.log10(condition), 4, dtype=torch.float64)).to(dtype)
    expected = float(np.linalg.norm(np.linspace(0, np.log(condition), 4)))
    assert float(AFFINE.dist(eye, d)) == pytest.approx(expected, rel=1e-13)
    assert float(AFFINE.dist(eye, y)) == pytest.approx(expected, rel=1e-13 * condition**0.5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_step_scales_with_the_point(scale, dtype, generator):
    for kind in (dtype, torch.complex64 if dtype.is_complex else torch.float32):
        x, u = points(generator, 3, 3, dtype=kind), 0.3 * symmetric(generator, 3, 3, dtype=kind)
        expected = AFFINE.retr(x, u)
        tolerance = 1e-5 if kind != dtype else 1e-12
        torch.testing.assert_close(AFFINE.retr(scale * x, scale * u) / scale, expected, atol=tolerance, rtol=0)


def test_single_precision_is_double_precision_rounded_once(spd, generator):
    x, y = points(generator, 2, 4, 4, dtype=torch.float32)
    u = symmetric(generator, 4, 4, dtype=torch.float32)
    for name, arguments in {"retr": (x, u), "logmap": (x, y), "dist": (x, y), "transp": (x, y, u)}.items():
        wide = getattr(spd, name)(*(t.double() for t in arguments))
        low = getattr(spd, name)(*arguments)
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, wide.float(), atol=2e-6, rtol=1e-6)  # a few maps round in between


# --- means ---


def scipy_mean(p, weights):
    x = np.einsum("k,kij->ij", weights, p)
    for _ in range(300):
        root = scipy.linalg.sqrtm(x).astype(p.dtype)  # old versions return complex256
        back = np.linalg.inv(root)
        step = sum(w * scipy.linalg.logm(back @ one @ back) for w, one in zip(weights, p, strict=True))
        x = root @ scipy.linalg.expm(0.5 * step) @ root
        if np.linalg.norm(step) < 1e-13:
            break
    return x


def test_the_karcher_mean_is_that_of_scipy(dtype, generator):
    p = torch.stack([spread(generator, 4, c, dtype) for c in (1.0, 1e1, 1e2, 1e3, 1e1)])
    w = torch.tensor([1.0, 2.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    for weights in (None, w):
        shares = np.full(5, 0.2) if weights is None else (w / w.sum()).numpy()
        mean = AFFINE.mean(p, weights)
        np.testing.assert_allclose(mean.numpy(), scipy_mean(p.numpy(), shares), atol=1e-8)
        logs = torch.stack([AFFINE.logmap(mean, one) for one in p])
        rest = torch.einsum("k,kij->ij", torch.as_tensor(shares).to(dtype), logs)
        assert float(AFFINE.norm(mean, rest)) < 1e-10


def test_means_of_far_points_of_batches_and_of_one(spd, dtype, generator):
    p = torch.stack([spread(generator, 3, 1e12, dtype) for _ in range(4)])
    mean = AFFINE.mean(p)
    logs = torch.stack([AFFINE.inverse_retr_coordinates(mean, one) for one in p])
    assert float(torch.linalg.vector_norm(logs.mean(0))) < 1e-6  # of distances of 50
    batch = points(generator, 2, 3, 4, 4, dtype=dtype)
    torch.testing.assert_close(spd.mean(batch), torch.stack([spd.mean(one) for one in batch]), atol=1e-12, rtol=0)
    torch.testing.assert_close(spd.mean(batch[0, :1]), batch[0, 0], atol=1e-13, rtol=0)
    torch.testing.assert_close(spd.mean(batch[0, :2]), spd.geodesic(batch[0, 0], batch[0, 1], 0.5), atol=1e-12, rtol=0)
    commuting = torch.stack([torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ([1.0, 8.0], [4.0, 2.0])])
    torch.testing.assert_close(spd.mean(commuting), torch.diag(torch.tensor([2.0, 4.0], dtype=torch.float64)))


def test_gradients_of_the_logarithm_are_finite_however_far_the_points_are(spd, dtype):
    x = torch.eye(3, dtype=dtype)
    w = torch.tensor([1e9, 1e-9, 2.0], dtype=torch.float64)  # two eigenvalues whose ratio exceeds 1 / epsilon
    y = torch.diag(w).to(dtype).requires_grad_()
    (g,) = torch.autograd.grad(spd.logmap(x, y).real.diagonal().sum(), y)
    torch.testing.assert_close(g, torch.diag(1 / w).to(dtype), atol=1e-12, rtol=1e-12)
    far = [spread(torch.Generator().manual_seed(seed), 3, 1e12, dtype) for seed in (0, 1)]
    (g,) = torch.autograd.grad(spd.logmap(far[0], far[1].requires_grad_()).abs().square().sum(), far[1])
    assert bool(g.isfinite().all())


# --- projection and membership ---


def test_the_hessian_of_half_the_squared_distance_is_the_metric_where_points_are_equal(spd, dtype, generator):
    x, u = points(generator, 4, 4, dtype=dtype), symmetric(generator, 4, 4, dtype=dtype)

    def half_square(t):
        return 0.5 * spd.inner(x, spd.logmap(x, x + t * u))

    slope = torch.func.grad(half_square)
    zero = torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(slope(zero), zero, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.func.grad(slope)(zero), spd.inner(x, u), rtol=1e-10, atol=0)


def test_an_indefinite_matrix_is_projected_and_a_point_stays(dtype, generator):
    x = spread(generator, 4, 1e12, dtype)
    torch.testing.assert_close(AFFINE.projx(x), x, atol=1e-15, rtol=0)
    y = AFFINE.projx(torch.randn(4, 4, dtype=dtype, generator=generator))
    w = torch.linalg.eigvalsh(y)
    assert float(w[0] / w[-1]) > 1e-9 and torch.equal(y, y.mH)
    torch.testing.assert_close(AFFINE.projx(y), y, atol=1e-14, rtol=0)
    assert float(AFFINE.defect(y)) == 0.0 and float(AFFINE.defect(-y)) >= 1 and float(AFFINE.defect(0 * y)) >= 1
    off = points(generator, 4, 4, dtype=dtype) + 1e-3 * torch.ones(4, 4, dtype=dtype).triu(1)
    assert 1e-4 < float(AFFINE.defect(off)) < 1e-2


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_points_of_half_precision_are_positive_definite_after_rounding(spd, half, generator):
    for n in (2, 6, 30):
        y = spd.projx(torch.randn(10, n, n, generator=generator).to(half))
        assert y.dtype == half and float(torch.linalg.eigvalsh(y.double()).min()) > 0
        torch.testing.assert_close(spd.projx(y), y, atol=2 * torch.finfo(half).eps * float(y.abs().max()), rtol=0)
    layer = nn.Linear(6, 6, bias=False, dtype=half)
    layer = mr.constrain(layer, "weight", spd, view="trivialized")
    assert layer.weight.dtype == half
    refused = 0
    for _ in range(40):  # a step ends at a point of this dtype, or is refused
        u = (4 * symmetric(generator, 3, 3)).to(half)
        try:
            y = spd.retr(torch.eye(3, dtype=half), u)
        except errors.NonFiniteError:
            refused += 1
        else:
            assert float(torch.linalg.eigvalsh(y.double()).min()) > 0
    assert refused < 40


KINDS = [torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_step_beyond_the_condition_numbers_of_a_dtype_ends_at_a_point_with_its_rounded_entries(spd, kind, generator):
    wide = torch.complex128 if kind.is_complex else torch.float64
    for n in (1, 2, 5, 30):
        for condition in (1e2, 1e8, 1e16, 1e30, 1e300):
            Q = torch.linalg.qr(torch.randn(n, n, dtype=wide, generator=generator))[0]
            w = torch.logspace(0, -np.log10(condition), n, dtype=torch.float64)
            L = torch.linalg.qr((Q * w.sqrt()).mH)[1].mH  # of Q w Q^H, which has no factor in double precision
            L = L * (L.diagonal().conj() / L.diagonal().abs())
            if spd.metric == "affine":
                c = pack_hermitian(Q * w.log() @ Q.mH)
            else:
                c = torch.cat([pack_hermitian(L, 1.0)[:-n], L.diagonal().real.log()])
            y = spd.retr_coordinates(torch.eye(n, dtype=kind), c)
            assert y.dtype == kind and torch.linalg.cholesky_ex(y.to(wide)).info == 0, (n, condition)
            slack = (100 * n + 4 * float(c.norm())) * torch.finfo(kind).eps  # rounding of a long exponent
            torch.testing.assert_close(y.to(wide), Q * w @ Q.mH, atol=slack, rtol=0)
            again = spd.retr_coordinates(y, 0 * c)
            torch.testing.assert_close(again.to(wide), y.to(wide), atol=slack, rtol=0)


def test_rounding_to_a_point_has_the_derivative_of_a_step_and_passes_through_vmap(spd, generator):
    x = torch.eye(3)
    c = torch.randn(4, 6, generator=generator)
    c[1:, 3:] += torch.tensor([20.0, -20.0, 0.0])  # beyond single precision
    y = torch.func.vmap(lambda c: spd.retr_coordinates(x, c))(c)
    assert torch.equal(y, torch.stack([spd.retr_coordinates(x, one) for one in c]))
    found = torch.func.vmap(torch.func.jacrev(lambda c: spd.retr_coordinates(x, c)))(c)
    wide = torch.func.vmap(torch.func.jacrev(lambda c: spd.retr_coordinates(x.double(), c)))(c.double())
    size = wide.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found / size, wide.float() / size, atol=1e-5, rtol=0, check_dtype=False)


def test_a_step_beyond_the_numbers_of_a_dtype_is_refused(spd):
    x = torch.eye(2)
    for sign, scale in ((1.0, 1.0), (-1.0, 1e-30)):
        c = sign * torch.tensor([0.0, 100.0, 100.0])
        with pytest.raises(errors.NonFiniteError, match=r"1 of 1 that overflow or underflow"):
            spd.retr_coordinates(scale * x, c)


# --- in training ---


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_learns_a_covariance(spd, view, dtype, generator):
    S = spread(generator, 3, 4.0, dtype)
    torch.manual_seed(0)
    layer = mr.constrain(nn.Linear(3, 3, bias=False, dtype=dtype), "weight", spd, view=view, init="haar")
    make = mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD
    optimizer = make(layer.parameters(), lr=0.05, momentum=0.7)
    for _ in range(150):
        optimizer.zero_grad()
        W = layer.weight
        loss = torch.linalg.slogdet(W)[1] + torch.linalg.solve(W, S).diagonal().sum().real  # least at W = S
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), S, atol=1e-4, rtol=0)


def test_a_step_that_leaves_the_set_of_a_dtype_is_refused_and_changes_nothing(spd, generator):
    for gradient in (torch.full((3, 3), torch.nan), -1e3 * torch.diag(torch.tensor([1.0, -1.0, 0.0]))):
        layer = mr.constrain(nn.Linear(3, 3, bias=False), "weight", spd, init="haar")
        optimizer = mr.optim.RiemannianSGD(layer.parameters(), lr=1.0)
        before = copy.deepcopy(layer.state_dict())
        layer.weight.grad = gradient.clone()
        with pytest.raises(errors.NonFiniteError):
            optimizer.step()
        assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    with pytest.raises(errors.OffManifoldError):
        layer.load_state_dict({"weight": -before["weight"]})
    assert torch.equal(layer.weight, before["weight"])


def test_coordinates_of_the_trivialized_view_reach_every_point(spd, dtype, generator):
    x, y = points(generator, 3, 3, dtype=dtype), spread(generator, 3, 1e8, dtype)
    entry = mr.constraints.trivialize(spd, x)
    with torch.no_grad():
        entry.coordinates.copy_(spd.inverse_retr_coordinates(x, y))
    torch.testing.assert_close(entry().detach(), y, atol=1e-13, rtol=0)
    assert spd.degrees_of_freedom((3, 3), dtype) == entry.coordinates.numel() == (9 if dtype.is_complex else 6)
