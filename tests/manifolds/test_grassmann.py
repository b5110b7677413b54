"""The Grassmann manifold: independence of the representative, closed forms, pymanopt as the oracle, the cut locus."""

import copy

import numpy as np
import pytest
import torch
from pymanopt.manifolds import ComplexGrassmann
from pymanopt.manifolds import Grassmann as PymanoptGrassmann
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors

RETRACTIONS = ("polar", "qr", "cayley", "exp")
DTYPES = (torch.float64, torch.complex128)
SHAPES = ((6, 2), (5, 3), (4, 1))  # (5, 3) has directions inside the subspace only


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


def normal(generator, *shape, dtype):
    return torch.randn(shape, dtype=dtype, generator=generator)


def unitary(generator, p, dtype):
    group = mr.Unitary() if dtype.is_complex else mr.Orthogonal()
    return group.random(p, p, dtype=dtype, generator=generator)


def same_span(y, z, bound=1e-13):
    torch.testing.assert_close(y @ y.mH, z @ z.mH, atol=bound, rtol=0)


def with_angles(angles, dtype, generator, n=None):
    """Two subspaces with these principal angles, in any representatives."""
    angles = torch.tensor(angles, dtype=torch.float64)
    p = len(angles)
    Q = unitary(generator, n or 2 * p, dtype)
    y = Q[:, :p] * angles.cos() + Q[:, p : 2 * p] * angles.sin()
    return Q[:, :p] @ unitary(generator, p, dtype), y @ unitary(generator, p, dtype)


# --- independence of the representative ---


@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_every_map_is_that_of_the_subspace(retraction, shape, dtype, generator):
    Gr, p = mr.Grassmann(retraction), shape[-1]
    x = Gr.random(*shape, dtype=dtype, generator=generator)
    u, v = (0.5 * Gr.proju(x, normal(generator, *shape, dtype=dtype)) for _ in "uv")
    Q, R = unitary(generator, p, dtype), unitary(generator, p, dtype)
    y = Gr.expmap(x, v)
    close = {"atol": 1e-13, "rtol": 0}
    torch.testing.assert_close(Gr.dist(x @ Q, y @ R), Gr.dist(x, y), **close)
    torch.testing.assert_close(Gr.principal_angles(x @ Q, y @ R), Gr.principal_angles(x, y), **close)
    torch.testing.assert_close(Gr.expmap(x @ Q, u @ Q), Gr.expmap(x, u) @ Q, **close)
    torch.testing.assert_close(Gr.logmap(x @ Q, y @ R), Gr.logmap(x, y) @ Q, **close)
    torch.testing.assert_close(Gr.transp(x @ Q, y @ R, u @ Q), Gr.transp(x, y, u) @ R, **close)
    torch.testing.assert_close(Gr.inner(x @ Q, u @ Q, v @ Q), Gr.inner(x, u, v), **close)
    back, turned = Gr.inverse_retr_coordinates(x, y), Gr.inverse_retr_coordinates(x @ Q, y @ R)
    torch.testing.assert_close(Gr._vector(x, turned), Gr._vector(x, back) @ Q, **close)
    same_span(Gr.retr(x @ Q, u @ Q), Gr.retr(x, u))
    same_span(Gr.retr_coordinates(x, back), y)
    for geodesic in (True, False):
        g = normal(generator, *shape, dtype=dtype)
        same_span(
            Gr.spectral_step(x @ Q, g @ Q, 0.1, geodesic=geodesic), Gr.spectral_step(x, g, 0.1, geodesic=geodesic)
        )


def test_polar_and_qr_lead_to_the_same_subspace_and_qr_is_of_order_two_there(shape, dtype, generator):
    x = mr.Grassmann().random(*shape, dtype=dtype, generator=generator)
    u = mr.Grassmann().proju(x, normal(generator, *shape, dtype=dtype))
    same_span(mr.Grassmann("qr").retr(x, u), mr.Grassmann("polar").retr(x, u))
    errors_ = [
        float(mr.Grassmann().dist(mr.Grassmann("qr").retr(x, t * u), mr.Grassmann().expmap(x, t * u)))
        for t in (1e-2, 5e-3)
    ]
    assert 7.5 < errors_[0] / errors_[1] < 8.5  # of third order


# --- closed forms, written from the definitions ---


def exp_by_svd(x, u):
    U, S, Vh = torch.linalg.svd(u, full_matrices=False)
    return (x @ Vh.mH * S.cos() + U * S.sin()) @ Vh


def log_by_svd(x, y):
    inside = x.mH @ y
    U, S, Vh = torch.linalg.svd((y - x @ inside) @ torch.linalg.inv(inside), full_matrices=False)
    return U * S.atan() @ Vh


def transport_by_svd(x, u, v):
    U, S, Vh = torch.linalg.svd(u, full_matrices=False)
    along = (-x @ Vh.mH * S.sin() + U * S.cos()) @ U.mH
    return (along + torch.eye(len(x), dtype=x.dtype) - U @ U.mH) @ v


def test_maps_agree_with_their_formulas(shape, dtype, generator):
    Gr = mr.Grassmann()
    x = Gr.random(*shape, dtype=dtype, generator=generator)
    u, v = (Gr.proju(x, normal(generator, *shape, dtype=dtype)) for _ in "uv")
    u = u * 1.2 / torch.linalg.matrix_norm(u, 2)
    y = exp_by_svd(x, u)
    close = {"atol": 1e-13, "rtol": 0}
    with torch.no_grad():  # the factorisation
        torch.testing.assert_close(Gr.expmap(x, u), y, **close)
    torch.testing.assert_close(Gr.expmap(x, u), y, **close)  # what is differentiated
    Q = unitary(generator, shape[-1], dtype)
    torch.testing.assert_close(Gr.logmap(x, y @ Q), log_by_svd(x, y @ Q), **close)
    torch.testing.assert_close(Gr.transp(x, y, v), transport_by_svd(x, u, v), **close)


@pytest.mark.parametrize("largest", [1e-9, 1e-3, 1.0, 1.5, 1.57, 1.5707])
def test_exp_and_log_are_inverse_and_the_distance_is_the_length(largest, dtype, generator):
    Gr = mr.Grassmann()
    x, y = with_angles([0.0, 0.3 * largest, 0.3 * largest, largest], dtype, generator, n=9)
    u = Gr.logmap(x, y)
    same_span(Gr.expmap(x, u), y, 1e-10)
    torch.testing.assert_close(Gr.norm(x, u), Gr.dist(x, y), atol=1e-13, rtol=1e-10)
    v = Gr.proju(x, normal(generator, 9, 4, dtype=dtype))
    v = v * largest / torch.linalg.matrix_norm(v, 2)
    torch.testing.assert_close(Gr.logmap(x, Gr.expmap(x, v)), v, atol=1e-10, rtol=0)


def test_principal_angles_keep_their_digits_from_the_smallest_to_a_right_angle(dtype, generator):
    angles = [1e-12, 1e-8, 1e-4, 0.7, 1.5707963, torch.pi / 2]
    x, y = with_angles(angles, dtype, generator, n=14)
    expected = torch.tensor(angles, dtype=torch.float64)
    torch.testing.assert_close(mr.Grassmann().principal_angles(x, y), expected, atol=2e-15, rtol=1e-8)


def test_agrees_with_pymanopt(shape, dtype, generator):
    if shape[-1] == 1:
        pytest.skip("pymanopt squeezes one column")
    theirs = (ComplexGrassmann if dtype.is_complex else PymanoptGrassmann)(*shape)
    Gr = mr.Grassmann("polar")
    x, y = (Gr.random(*shape, dtype=dtype, generator=generator) for _ in "xy")
    g, v = (normal(generator, *shape, dtype=dtype) for _ in "gv")
    u = Gr.proju(x, g)
    a, b, h, w = (t.numpy() for t in (x, y, g, u))
    assert abs(float(Gr.dist(x, y)) - theirs.dist(a, b)) < 1e-10
    np.testing.assert_allclose(u.numpy(), theirs.projection(a, h), atol=1e-12)
    np.testing.assert_allclose(Gr.logmap(x, y).numpy(), theirs.log(a, b), atol=1e-10)
    same_span(Gr.expmap(x, u), torch.from_numpy(np.ascontiguousarray(theirs.exp(a, w))), 1e-10)
    same_span(Gr.retr(x, u), torch.from_numpy(np.ascontiguousarray(theirs.retraction(a, w))), 1e-10)
    assert float(Gr.inner(x, u, Gr.proju(x, v))) == pytest.approx(
        float(np.real(theirs.inner_product(a, w, Gr.proju(x, v).numpy()))), abs=1e-12
    )
    assert Gr.degrees_of_freedom(shape, dtype) == theirs.dim


def test_transport_is_an_isometry_that_carries_the_geodesic_on(shape, dtype, generator):
    Gr = mr.Grassmann()
    x = Gr.random(3, *shape, dtype=dtype, generator=generator)
    u, v = (0.3 * Gr.proju(x, normal(generator, 3, *shape, dtype=dtype)) for _ in "uv")
    y = Gr.expmap(x, u)
    moved, along = Gr.transp(x, y, v), Gr.transp(x, y, u)
    torch.testing.assert_close(Gr.inner(y, moved, along), Gr.inner(x, v, u), atol=1e-13, rtol=0)
    torch.testing.assert_close(Gr.expmap(y, along), Gr.expmap(x, 2 * u), atol=1e-13, rtol=0)
    torch.testing.assert_close(Gr.transp(y, x, moved), v, atol=1e-13, rtol=0)


# --- the cut locus ---


def test_at_a_right_angle_the_logarithm_is_refused_and_the_distance_is_right(dtype, generator):
    Gr = mr.Grassmann()
    x, y = with_angles([0.4, torch.pi / 2], dtype, generator)
    assert float(Gr.dist(x, y)) == pytest.approx((0.4**2 + torch.pi**2 / 4) ** 0.5, abs=1e-12)
    for call in (Gr.logmap, *(mr.Grassmann(r).inverse_retr_coordinates for r in RETRACTIONS)):
        with pytest.raises(errors.OffManifoldError, match="90 degrees"):
            call(x, y)
    v = Gr.proju(x, normal(generator, 4, 2, dtype=dtype))
    torch.testing.assert_close(Gr.norm(y, Gr.transp(x, y, v)), Gr.norm(x, v), atol=1e-10, rtol=0)


def test_beyond_a_right_angle_the_logarithm_is_the_shorter_way(dtype, generator):
    Gr = mr.Grassmann()
    x = Gr.random(6, 2, dtype=dtype, generator=generator)
    u = Gr.proju(x, normal(generator, 6, 2, dtype=dtype))
    u = u * 2.0 / torch.linalg.matrix_norm(u, 2)  # by more than a right angle
    y = Gr.expmap(x, u)
    assert float(Gr.dist(x, y)) < float(Gr.norm(x, u)) - 0.1
    same_span(Gr.expmap(x, Gr.logmap(x, y)), y, 1e-12)


# --- steepest descent in the spectral norm ---


def test_the_spectral_step_has_the_largest_gain_and_follows_the_geodesic(shape, dtype, generator):
    Gr = mr.Grassmann()
    x = Gr.random(2, *shape, dtype=dtype, generator=generator)
    g = normal(generator, 2, *shape, dtype=dtype)
    u = Gr.proju(x, g)
    U, S, Vh = torch.linalg.svd(u, full_matrices=False)
    rank = min(shape[-1], shape[-2] - shape[-1])
    xi = U[..., :rank] @ Vh[..., :rank, :]
    y = Gr.spectral_step(x, g, 0.3)
    torch.testing.assert_close(y, Gr.expmap(x, -0.3 * xi), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        Gr.inner(x, xi, g), S.sum(-1), atol=1e-12, rtol=0
    )  # the nuclear norm: nothing is above it
    angles = Gr.principal_angles(x, y)[..., -rank:]
    torch.testing.assert_close(angles, torch.full_like(angles, 0.3), atol=1e-12, rtol=0)
    mean = S.sum(-1)[..., None, None] / rank
    torch.testing.assert_close(
        Gr.spectral_step(x, g, 0.1, nuclear=True), Gr.spectral_step(x, g, 0.1 * mean), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_the_spectral_step_does_not_depend_on_the_size_of_the_gradient(scale, dtype, generator):
    Gr = mr.Grassmann()
    for kind in (dtype, torch.complex64 if dtype.is_complex else torch.float32):
        x = Gr.random(6, 2, dtype=kind, generator=generator)
        g = normal(generator, 6, 2, dtype=kind)
        torch.testing.assert_close(
            Gr.spectral_step(x, scale * g, 0.2), Gr.spectral_step(x, g, 0.2), atol=atol(kind) * 10, rtol=0
        )
        assert torch.equal(Gr.spectral_step(x, torch.zeros_like(g), 0.2), mr.linalg.polish(x))
        same_span(Gr.spectral_step(x, scale * x, 0.2), x, 10 * atol(kind))  # the gradient along the fibre is rounding


# --- in training ---


def spectrum_loss(A, W):
    return -torch.einsum("...ip,ij,...jp->...", W.conj(), A, W).real.sum()


@pytest.mark.parametrize("view", ["update", "trivialized"])
@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_learns_the_leading_subspace(view, retraction, generator):
    Q = unitary(generator, 6, torch.float64)
    A = Q * torch.tensor([5.0, 4.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64) @ Q.mH
    torch.manual_seed(0)
    layer = mr.constrain(
        nn.Linear(2, 6, bias=False, dtype=torch.float64),
        "weight",
        mr.Grassmann(retraction),
        view=view,
        init="haar",
        rebase_every=None if view == "update" else 5,
    )
    make = mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD
    optimizer = make(layer.parameters(), lr=0.05, momentum=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        spectrum_loss(A, layer.weight).backward()
        optimizer.step()
    assert float(mr.Grassmann().dist(layer.weight.detach(), Q[:, :2])) < 1e-6
    assert float(mr.linalg.defect(layer.weight.detach())) < 1e-12


def test_muon_learns_it_too_and_a_wide_weight_is_transposed(generator):
    Q = unitary(generator, 6, torch.float64)
    A = Q * torch.tensor([5.0, 4.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64) @ Q.mH
    torch.manual_seed(0)
    layer = mr.constrain(nn.Linear(6, 2, bias=False, dtype=torch.float64), "weight", mr.Grassmann())
    optimizer = mr.optim.RiemannianMuon(layer.parameters(), lr=0.2, momentum=0.0)
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.2 * 0.8**step
        optimizer.zero_grad()
        spectrum_loss(A, layer.weight.mT).backward()
        optimizer.step()
    assert float(mr.Grassmann().dist(layer.weight.detach().mT.contiguous(), Q[:, :2])) < 1e-2


def test_a_square_weight_is_one_point_and_does_not_move(generator):
    for view in ("update", "trivialized"):
        layer = mr.constrain(nn.Linear(4, 4), "weight", mr.Grassmann(), view=view)
        before = layer.weight.detach().clone()
        make = mr.optim.RiemannianAdam if view == "update" else torch.optim.Adam
        optimizer = make(layer.parameters(), lr=0.1)
        layer(torch.randn(3, 4, generator=generator)).square().sum().backward()
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), before, atol=1e-6, rtol=0)
    assert mr.degrees_of_freedom(mr.constrain(nn.Linear(4, 4, bias=False), "weight", mr.Grassmann())) == 0
    y = mr.Orthogonal().random(4, 4, generator=generator).requires_grad_()
    mr.Grassmann().dist(before, y).square().backward()  # a loss has a gradient there too: 0
    assert y.grad is not None and torch.equal(y.grad, torch.zeros(4, 4))


def test_a_step_of_nan_is_refused_and_changes_nothing(generator):
    for shape in ((6, 2), (3, 3)):
        layer = mr.constrain(nn.Linear(shape[1], shape[0], bias=False), "weight", mr.Grassmann())
        optimizer = mr.optim.RiemannianAdam(layer.parameters(), lr=0.1)
        before = copy.deepcopy(layer.state_dict())
        layer.weight.grad = torch.full(shape, torch.nan)
        with pytest.raises(errors.NonFiniteError):
            optimizer.step()
        assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
        with pytest.raises(errors.NonFiniteError):
            mr.Grassmann().retr(layer.weight.detach(), layer.weight.grad)
