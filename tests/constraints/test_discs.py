"""Sets of matrices with eigenvalues in a disc, and block triangles of them, as constraints of a layer."""

import copy
import pickle

import pytest
import torch
from support import naive
from support.disc_cases import DISCS, N, Plain, entry, plain, start
from support.selection import spread
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors, linalg

EVERY = pytest.mark.parametrize("name", DISCS)


@pytest.mark.parametrize(("name", "n", "batch"), spread(DISCS, [2, 3, 4, 5, 8], [(), (3,)], every=3))
def test_the_weight_is_in_the_set_and_its_gradient_is_right(name, n, batch, generator):
    constraint, x = start(name, n, generator, batch)
    if name in ("blocks", "blocks of manifolds") and n < 3:
        return
    layer = plain(constraint, x)
    parameters = list(layer.parameters())
    for p in parameters:
        p.data += 0.3 * torch.randn(p.shape, dtype=p.dtype, generator=generator)
    W = layer.weight
    assert W.shape == x.shape and W.dtype == x.dtype
    bound = 1.0 if "blocks" in name else 0.9
    assert bool((naive.spectral_radius(W) <= bound * (1 + 1e-10)).all())

    def value(*values):
        named = dict(zip(dict(layer.named_parameters()), values, strict=True))
        return torch.func.functional_call(layer, named, torch.eye(n, dtype=x.dtype))

    leaves = [p.detach().clone().requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(value, leaves, fast_mode=n > 4)


@EVERY
@pytest.mark.filterwarnings("ignore:Complex modules:UserWarning")
def test_what_a_module_does_with_its_weight(name, generator):
    constraint, x = start(name, generator=generator)
    layer = plain(constraint, x)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    h = torch.ones(1, N, dtype=x.dtype)

    def train(layer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (layer(layer(h)) - 2).abs().square().sum().backward()
            optimizer.step()

    train(layer, 20)
    assert set(layer.state_dict()) == set(dict(layer.named_parameters())) | set(dict(layer.named_buffers())) - {
        key for key in dict(layer.named_buffers()) if key.endswith("places")
    }
    fresh = plain(constraint, torch.zeros_like(x) + 0.1 * torch.eye(N, dtype=x.dtype))
    fresh.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert torch.equal(other.weight, layer.weight)
    single = copy.deepcopy(layer).to(torch.complex64 if x.is_complex() else torch.float32)
    torch.testing.assert_close(single.weight.to(x.dtype), layer.weight, atol=1e-5, rtol=1e-5)
    assert all(not p.is_complex() or "triangle" in key for key, p in single.named_parameters())
    W = layer.weight.detach().clone()
    if name != "schur, rotation":  # tested below
        layer.weight = W
        torch.testing.assert_close(layer.weight, W, atol=1e-9, rtol=0)
    assert mr.degrees_of_freedom(layer) >= 1
    assert torch.equal(mr.release(layer, "weight").weight, layer.weight) and type(layer) is Plain


@EVERY
def test_a_number_that_is_not_finite_is_not_loaded(name, generator):
    constraint, x = start(name, generator=generator)
    layer = plain(constraint, x)
    before = layer.weight.detach().clone()
    for key, value in layer.state_dict().items():
        if value.dtype.is_floating_point or value.is_complex():
            bad = {**layer.state_dict(), key: torch.full_like(value, torch.nan)}
            with pytest.raises(errors.NonFiniteError, match=key.split(".")[-1]):
                layer.load_state_dict(bad)
            assert torch.equal(layer.weight, before)


@EVERY
def test_the_update_view_is_for_manifolds_only(name):
    constraint, dtype = DISCS[name]
    layer = Plain(0.1 * torch.eye(N, dtype=dtype))
    if name in ("unit disc", "blocks of manifolds"):
        assert mr.constrain(layer, "weight", constraint).weight.manifold is constraint
        return
    with pytest.raises(errors.UnsupportedError, match="trivialized"):
        mr.constrain(layer, "weight", constraint, view="update")
    assert type(layer.weight) is nn.Parameter


# --- Schur forms and diagonals ---


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("name", ["schur", "schur, complex"])
def test_the_schur_form_reaches_every_matrix_inside(name, n, generator):
    for _ in range(10):
        constraint, x = start(name, n, generator)
        torch.testing.assert_close(plain(constraint, x).weight, x, atol=1e-9, rtol=0)


def test_the_schur_form_reaches_a_real_spectrum_and_nearly_a_multiple_of_the_identity(generator):
    disc = mr.SchurDisc(1.0)
    x = torch.diag(torch.tensor([0.9, -0.7, 0.5, 0.1, -0.2], dtype=torch.float64))
    x = x + torch.randn(5, 5, dtype=x.dtype, generator=generator).triu(1)
    torch.testing.assert_close(plain(disc, x).weight, x, atol=1e-9, rtol=0)
    for y in (0.5 * torch.eye(4, dtype=x.dtype), torch.zeros(3, 3, dtype=x.dtype)):
        torch.testing.assert_close(plain(disc, y).weight, y, atol=0.011, rtol=0)
    rotations = plain(mr.SchurDisc(1.0, blocks="rotation"), x[:4, :4])
    modulus = torch.linalg.eigvals(rotations.weight).abs().sort().values
    torch.testing.assert_close(modulus[::2], modulus[1::2], atol=1e-6, rtol=0)  # real ones become double


@pytest.mark.parametrize("name", ["schur", "schur, rotation", "schur, complex"])
def test_the_spectrum_does_not_depend_on_the_factor_nor_on_the_triangle(name, generator):
    constraint, x = start(name, 6, generator)
    layer = plain(constraint, x)
    before = torch.linalg.eigvals(layer.weight).abs().sort().values
    free = entry(layer)
    free.frame.coordinates.data.normal_(generator=generator)
    free.triangle.data.mul_(2.0).add_(0.1)
    torch.testing.assert_close(torch.linalg.eigvals(layer.weight).abs().sort().values, before, atol=1e-7, rtol=0)
    free.triangle.data.zero_()
    if name != "schur":
        W = layer.weight
        torch.testing.assert_close(W @ W.mH, W.mH @ W, atol=1e-12, rtol=0)


def test_a_start_on_the_boundary_is_put_slightly_inside(generator):
    Q = linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    W = plain(mr.SchurDisc(1.0), Q).weight
    torch.testing.assert_close(W, (1 - 1e-4) * Q, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", ["schur", "schur, rotation", "schur, complex", "blocks of discs"])
def test_the_retraction_of_the_factor_can_be_changed(name, generator):
    constraint, x = start(name, 6, generator)
    layer = plain(constraint, x)
    before = layer.weight.detach().clone()
    mr.set_retraction(layer, "weight", "qr")
    torch.testing.assert_close(layer.weight, before)
    with pytest.raises(errors.UnsupportedError, match="retraction"):
        mr.set_retraction(plain(*start("diagonal", 4, generator)), "weight", "qr")


@pytest.mark.parametrize("name", ["schur", "schur, rotation", "schur, complex", "diagonal"])
def test_a_weight_that_the_form_does_not_reach_is_not_assigned(name, generator):
    layer = plain(*start(name, 4, generator))
    before = layer.weight.detach().clone()
    outside, turned = 2.5 * before, torch.ones_like(before) @ before
    for weight in [outside] if name == "schur" else [outside, 0.5 * turned / linalg.spectral_radius(turned)]:
        if name == "schur, complex" and weight is not outside:
            continue  # reached
        with pytest.raises(errors.OffManifoldError, match="cannot represent"):
            layer.weight = weight
        assert torch.equal(layer.weight, before)
    if name == "schur, rotation":
        block = (
            0.8
            * torch.linalg.qr(torch.ones(2, 2).double() + torch.eye(2).double())[0]
            @ torch.diag(torch.tensor([1.0, -1.0]).double())
        )
        layer = plain(mr.SchurDisc(1.0, blocks="rotation"), torch.zeros(2, 2).double())
        layer.weight = block
        torch.testing.assert_close(layer.weight, block)


def test_the_number_of_free_parameters_is_the_dimension(generator):
    for n in (2, 5, 6):
        general, rotation = (plain(*start(name, n, generator)) for name in ("schur", "schur, rotation"))
        assert mr.degrees_of_freedom(general) == n * n
        assert mr.degrees_of_freedom(rotation) == n * n - n // 2  # a block commutes with its rotations
    assert mr.degrees_of_freedom(plain(*start("diagonal", 5, generator))) == 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("nu", [-20.0, -17.0, -1.0, 0.0, 4.0, 20.0])
def test_diagonal_moduli_are_below_one_without_overflow(nu, dtype):
    weight = 0.5 * torch.eye(3, dtype=dtype.to_complex())
    layer = plain(mr.DiagonalDisc(1.0), weight)
    free = entry(layer)
    free.log_rate.data.fill_(nu)
    modulus = free.eigenvalues().abs()
    assert bool((modulus <= 1 + 2 * torch.finfo(dtype).eps).all()) and bool((modulus >= 0).all())
    modulus.sum().backward()
    assert bool(free.log_rate.grad.isfinite().all()) and bool(free.phase.grad.isfinite().all())


# --- block triangles ---


def test_blocks_are_what_their_constraints_make_of_them(generator):
    constraint, x = start("blocks", 6, generator)
    W = plain(constraint, x).weight
    assert W[2:, :2].count_nonzero() == 0 and linalg.defect(W[:2, :2]) < 1e-12
    assert torch.linalg.det(W[:2, :2]) < 0
    torch.testing.assert_close(W[:2, 2:], x[:2, 2:])
    torch.testing.assert_close(W[2:, 2:], mr.UnitDisc(0.9).projx(x[2:, 2:]))


def test_a_weight_that_is_not_triangular_is_not_assigned(generator):
    layer = plain(*start("blocks", 6, generator))
    before = layer.weight.detach().clone()
    with pytest.raises(errors.OffManifoldError, match="zero outside"):
        layer.weight = torch.ones(6, 6, dtype=torch.float64)
    assert torch.equal(layer.weight, before)
    fixed = plain(mr.block_triangular(mr.StickyDisc(), mr.UnitDisc()), 0.1 * torch.eye(4))
    with pytest.raises(errors.UnsupportedError, match="retraction"):
        mr.set_retraction(fixed, "weight", "qr")


def test_an_rnn_takes_them_all(generator):
    for name, (constraint, dtype) in DISCS.items():
        if not dtype.is_complex:
            layer = mr.nn.RNN(2, 6, constraint=constraint, view="trivialized", dtype=dtype)
            out, _ = layer(torch.randn(4, 3, 2, dtype=dtype, generator=generator))
            out.sum().backward()
            assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters()), name


# --- long runs in single precision ---

RADIUS, SIZE = 0.95, 6
LONG = {
    "normalized": (mr.UnitDisc(RADIUS), torch.float32),
    "sticky": (mr.StickyDisc(RADIUS), torch.float32),
    "schur, general": (mr.SchurDisc(RADIUS), torch.float32),
    "schur, rotation": (mr.SchurDisc(RADIUS, blocks="rotation"), torch.float32),
    "schur, complex": (mr.SchurDisc(RADIUS), torch.complex64),
    "diagonal": (mr.DiagonalDisc(RADIUS), torch.complex64),
}


def wander(name, steps, generator):
    """Train towards random targets outside; largest modulus that the chart computes, and the excess of the dense one in
    units times the relative condition number of the dominant eigenvalue."""
    constraint, dtype = LONG[name]
    layer = plain(constraint, torch.randn(SIZE, SIZE, dtype=dtype, generator=generator))
    free = entry(layer)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    target = torch.zeros(SIZE, SIZE, dtype=dtype)
    worst, excess, condition = 0.0, 0.0, 0.0
    for step in range(steps):
        if step % 500 == 0:
            target = 2 * torch.randn(SIZE, SIZE, dtype=dtype, generator=generator)
        optimizer.zero_grad()
        (layer.weight - target).abs().square().sum().backward()
        optimizer.step()
        if step % 50 == 0:
            with torch.no_grad():
                W = naive.wide(layer.weight)
            unit = torch.finfo(torch.float32).eps
            kappa = float(linalg.spectral_condition(W) * torch.linalg.matrix_norm(W, 2) / RADIUS)
            dense = float(naive.spectral_radius(W)) / RADIUS - 1
            excess, condition = max(excess, dense / (unit * kappa)), max(condition, kappa)
            worst = max(worst, float(moduli(free, W)))
    return worst, excess, condition


def moduli(free, W):
    """Largest modulus of the free coordinates: what the chart promises."""
    if hasattr(free, "log_rate"):
        return free.eigenvalues().detach().abs().max()
    if not hasattr(free, "triangle"):
        M = naive.wide((free.matrix() if hasattr(free, "matrix") else free.base + free.coordinates).detach())
        size = linalg.spectral_radius(M)
        return size / (linalg.spectral_radius(M.float()) / RADIUS).clamp(min=1)  # what is divided, and by what
    if W.is_complex():
        return RADIUS * free.blocks().detach().abs().max()
    pairs = naive.wide(free.blocks()).detach().unflatten(-1, (-1, 2, 2))  # SIZE is even
    return RADIUS * naive.spectral_radius(pairs).max()


@pytest.mark.parametrize("steps", [200, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LONG)
def test_single_precision_stays_inside(name, steps, generator):
    worst, excess, condition = wander(name, steps, generator)
    assert worst <= RADIUS * (1 + 1e-6)
    assert excess <= 10, f"{excess:.2g} units times the condition number, up to {condition:.2g}"
