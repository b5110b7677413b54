"""Steepest descent in the spectral norm: the closed form against its definition, its dual and matrix exponentials."""

import geoopt
import pytest
import torch
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import errors, linalg
from manifold_rnn.manifolds.steepest import steepest

SHAPES = [(5, 5), (6, 6), (12, 5), (7, 5), (40, 30), (64, 8), (3, 1), (3, 12, 5)]
DOUBLE = [torch.float64, torch.complex128]


def problem(shape, dtype, generator):
    x = mr.linalg.qr(torch.randn(shape, dtype=dtype, generator=generator))[0]
    return x, torch.randn(shape, dtype=dtype, generator=generator)


def generator_of(x, g):
    """The skew-Hermitian matrix K of the definition, of the size of the rows."""
    return 0.5 * (g @ x.mH - x @ g.mH)


def real_inner(a, b):
    return (a.conj() * b).real.sum((-2, -1))


@pytest.mark.parametrize("dtype", DOUBLE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gain_is_the_nuclear_norm_and_the_direction_is_tangent_of_norm_one(shape, dtype, generator):
    x, g = problem(shape, dtype, generator)
    found = steepest(x, g)
    nuclear = torch.linalg.svdvals(generator_of(x, g)).sum(-1)
    torch.testing.assert_close(real_inner(g, found.direction), nuclear, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gain[..., 0, 0], nuclear, rtol=1e-12, atol=0)
    inside = x.mH @ found.direction
    torch.testing.assert_close(inside, -inside.mH, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.linalg.matrix_norm(found.direction, 2), torch.ones_like(nuclear), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", DOUBLE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("angle", [1e-3, 0.7, 4.0])
def test_a_step_is_the_exponential_of_the_sign(angle, shape, dtype, generator):
    x, g = problem(shape, dtype, generator)
    A = linalg.msign(generator_of(x, g))
    expected = torch.matrix_exp(-angle * A) @ x
    m = mr.Stiefel()
    torch.testing.assert_close(m.spectral_step(x, g, angle), expected, rtol=0, atol=1e-11)


def test_no_tangent_vector_of_norm_one_gains_more(generator):
    """Weak duality: each symmetric L bounds the gain by the nuclear norm of g + x L; the least bound is the gain."""
    x, g = problem((12, 5), torch.float64, generator)
    gain = float(steepest(x, g).gain)
    L = torch.zeros(5, 5, dtype=torch.float64, requires_grad=True)
    for smoothing in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        optimizer = torch.optim.LBFGS([L], max_iter=100, line_search_fn="strong_wolfe")

        def bound(smoothing=smoothing, optimizer=optimizer):
            optimizer.zero_grad()
            s = torch.linalg.svdvals(g + x @ (L + L.mT))
            value = (s.square() + smoothing**2).sqrt().sum()
            value.backward()
            return value

        optimizer.step(bound)
    with torch.no_grad():
        least = float(torch.linalg.svdvals(g + x @ (L + L.mT)).sum())
    assert gain <= least * (1 + 1e-12) and least <= gain * (1 + 1e-6)


def test_a_square_step_is_the_sign_in_the_lie_algebra(generator):
    x, g = problem((6, 6), torch.float64, generator)
    expected = x @ linalg.msign(linalg.skew(x.mT @ g))
    torch.testing.assert_close(steepest(x, g).direction, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 5), (12, 5), (7, 5)], ids=str)
def test_a_complex_step_is_that_of_its_real_form(shape, generator):
    x, g = problem(shape, torch.complex128, generator)

    def real(z):
        return torch.cat([torch.cat([z.real, -z.imag], -1), torch.cat([z.imag, z.real], -1)], -2)

    m = mr.Stiefel()
    torch.testing.assert_close(
        m.spectral_step(real(x), real(g), 0.3), real(m.spectral_step(x, g, 0.3)), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (7, 5)], ids=str)
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_size_of_a_gradient_does_not_matter(scale, shape, dtype, generator):
    x, g = problem(shape, dtype, generator)
    m = mr.Stiefel()
    torch.testing.assert_close(
        m.spectral_step(x, scale * g, 0.3), m.spectral_step(x, g, 0.3), rtol=0, atol=30 * atol(dtype)
    )


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (7, 5)], ids=str)
def test_a_gradient_of_rank_one_rotates_one_plane(shape, generator):
    x, _ = problem(shape, torch.float64, generator)
    u, v = torch.randn(shape[0], 1, dtype=x.dtype, generator=generator), torch.randn(1, shape[1], dtype=x.dtype)
    found = steepest(x, u @ v)
    assert round(float(found.rank)) == 2
    y = mr.Stiefel().spectral_step(x, u @ v, 0.3)
    assert float(linalg.defect(y)) < 1e-9
    moved = torch.linalg.svdvals(y - x)
    assert float(moved[2:].max()) < 1e-10 and moved[0] <= 2 * torch.tensor(0.15).sin() + 1e-10


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (7, 5)], ids=str)
def test_a_gradient_across_the_manifold_or_of_zero_moves_nothing(shape, dtype, generator):
    x, g = problem(shape, dtype, generator)
    S = x.mH @ g
    for normal in (x @ (S + S.mH), torch.zeros_like(x)):
        for nuclear in (False, True):
            y = mr.Stiefel().spectral_step(x, normal, 0.3, nuclear=nuclear)
            torch.testing.assert_close(y, x, rtol=0, atol=10 * atol(dtype))


def test_a_gradient_inside_the_columns_moves_within_them(generator):
    x, _ = problem((12, 5), torch.float64, generator)
    g = x @ torch.randn(5, 5, dtype=x.dtype, generator=generator)
    y = mr.Stiefel().spectral_step(x, g, 0.3)
    torch.testing.assert_close(x @ (x.mT @ y), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_steps_leave_nothing_but_rounding(steps, generator):
    x = torch.nn.Parameter(mr.Stiefel("qr").random(24, 8, generator=generator))
    x.manifold = mr.Stiefel("qr")  # whose polish_every is 0
    optimizer = mr.optim.RiemannianMuon([x], lr=0.02)
    gradients = torch.randn(16, 24, 8, generator=generator)
    for k in range(steps):
        x.grad = gradients[k % 16]
        optimizer.step()
    assert float(linalg.defect(x.detach())) < 1e-5


@pytest.mark.parametrize("shape", [(32, 8), (8, 8)], ids=str)
@pytest.mark.parametrize("step", ["geodesic", "retraction"])
def test_it_solves_a_procrustes_problem(step, shape, generator):
    n, p = shape
    U, V = (linalg.qr(torch.randn(k, p, dtype=torch.float64, generator=generator))[0] for k in shape)
    s = torch.logspace(0, -2, p, dtype=torch.float64)
    B = U * s @ V.mT
    x = torch.nn.Parameter(mr.Stiefel().random(n, p, dtype=torch.float64, generator=generator))
    x.manifold = mr.Stiefel() if n > p else mr.Orthogonal()
    optimizer = mr.optim.RiemannianMuon([x], lr=0.3, momentum=0.0, nesterov=False, step=step)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
    best = float(s.sum())
    if n == p and torch.linalg.det(x) * torch.linalg.det(B) < 0:  # the best matrix of the other component
        best -= 2 * float(s[-1])
    for _ in range(600):
        optimizer.zero_grad()
        (-(B * x).sum()).backward()
        optimizer.step()
        schedule.step()
    assert abs(float((B * x.detach()).sum()) - best) < 1e-6 * best


def test_wide_weights_blocks_and_heads_step_each_matrix(generator):
    layer = torch.nn.Linear(12, 4, bias=False, dtype=torch.float64)
    mr.constrain(layer, "weight", mr.Stiefel())
    gru = mr.constrain(torch.nn.GRU(3, 4, dtype=torch.float64), "weight_hh_l0", mr.Orthogonal(), blocks=3)
    params = [layer.weight, gru.weight_hh_l0]
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
    mr.optim.RiemannianMuon(params, lr=0.1, momentum=0.0).step()
    wide = mr.Stiefel().spectral_step(before[0].mT, layer.weight.grad.mT, 0.1).mT
    torch.testing.assert_close(layer.weight.detach(), wide, rtol=0, atol=1e-12)
    for k in range(3):
        rows = slice(4 * k, 4 * k + 4)
        expected = mr.Orthogonal().spectral_step(before[1][rows], gru.weight_hh_l0.grad[rows], 0.1)
        torch.testing.assert_close(gru.weight_hh_l0.detach()[rows], expected, rtol=0, atol=1e-12)


def test_plain_matrices_kernels_and_vectors_have_their_rules(generator):
    matrix, kernel, vector = (
        torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((6, 3), (4, 2, 3), (5,))
    )
    before = [p.detach().clone() for p in (matrix, kernel, vector)]
    optimizer = mr.optim.RiemannianMuon([matrix, kernel, vector], lr=0.1, momentum=0.0, weight_decay=0.5)
    for p in (matrix, kernel, vector):
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()
    decayed = 0.95
    U, _, Vh = torch.linalg.svd(matrix.grad, full_matrices=False)
    torch.testing.assert_close(matrix.detach(), decayed * before[0] - 0.1 * 2**0.5 * U @ Vh, atol=1e-5, rtol=0)
    U, _, Vh = torch.linalg.svd(kernel.grad.flatten(1), full_matrices=False)
    torch.testing.assert_close(
        kernel.detach().flatten(1), decayed * before[1].flatten(1) - 0.1 * U @ Vh, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(vector.detach(), decayed * before[2] - 0.1 * vector.grad.sign(), atol=1e-5, rtol=0)


def test_a_group_with_the_rule_adam_is_that_of_riemannian_adam(generator):
    def weights():
        layer = mr.constrain(torch.nn.Linear(4, 4, dtype=torch.float64), "weight", mr.Orthogonal())
        with torch.no_grad():
            layer.weight.copy_(torch.eye(4))
            layer.bias.zero_()
        return layer

    ours, adam = weights(), weights()
    optimizers = (
        mr.optim.RiemannianMuon([{"params": ours.parameters(), "rule": "adam", "lr": 0.01}]),
        mr.optim.RiemannianAdam(adam.parameters(), lr=0.01),
    )
    x = torch.randn(8, 4, dtype=torch.float64, generator=generator)
    for layer, optimizer in zip((ours, adam), optimizers, strict=True):
        for _ in range(5):
            optimizer.zero_grad()
            (layer(x) - 1).square().sum().backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), adam.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-12, rtol=0)  # torch's fused steps round the bias otherwise


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 1.0},
        {"scale": "spectral"},
        {"step": "exp"},
        {"rule": "sgd"},
        {"nesterov": 1},
        {"betas": (0.9, 1.0)},
    ],
    ids=str,
)
def test_options_out_of_range_are_answered_by_name(options):
    with pytest.raises(errors.OptionError, match=next(iter(options))):
        mr.optim.RiemannianMuon([torch.nn.Parameter(torch.ones(2, 2))], **options)


@pytest.mark.parametrize(
    "kind", [mr.UnitDisc, mr.Contraction, mr.SpectralScaled, mr.SpecialUnitary, mr.UnitaryRealForm]
)
def test_other_sets_are_descended_as_well(kind, generator):
    m = kind()
    dtype = torch.complex128 if m.is_complex else torch.float64
    goal, x = (m.random(4, 4, dtype=dtype, generator=generator) for _ in range(2))
    p = torch.nn.Parameter(x.clone())
    p.manifold = m
    optimizer = mr.optim.RiemannianMuon([p], lr=0.15)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.96)
    for _ in range(200):
        optimizer.zero_grad()
        (p - goal).abs().square().sum().backward()
        optimizer.step()
        schedule.step()
    assert float(m.defect(p.detach()).max()) < 1e-9
    assert float((p - goal).detach().norm()) < 0.02 * float((x - goal).norm())


def test_on_the_special_unitary_group_it_ends_at_a_stationary_point(generator):
    m = mr.SpecialUnitary()
    D = 1j * torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.complex128))  # whose phase alone changes at first
    p = torch.nn.Parameter(torch.eye(3, dtype=torch.complex128))
    p.manifold = m
    optimizer = mr.optim.RiemannianMuon([p], lr=0.1, momentum=0.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    losses = []
    for _ in range(400):
        optimizer.zero_grad()
        loss = (D.conj() * p).real.sum()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        schedule.step()
    assert losses[1] < losses[0] - 0.05 and float(m.defect(p.detach())) < 1e-10
    assert float(m.norm(p.detach(), m.egrad2rgrad(p.detach(), p.grad))) < 1e-3


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("angle", [0.01, 2.0, 1e3])
def test_on_the_special_unitary_group_a_step_follows_the_geodesic_of_its_direction(n, angle, generator):
    m = mr.SpecialUnitary()
    x = m.random(2, n, n, dtype=torch.complex128, generator=generator)
    g = torch.randn(2, n, n, dtype=torch.complex128, generator=generator)
    found = steepest(x, g, m._lie)
    A = x.mH @ found.direction
    assert float(A.diagonal(dim1=-2, dim2=-1).sum(-1).abs().max()) < 1e-12  # so det x stays 1
    moved = m.spectral_step(x, g, -angle)
    torch.testing.assert_close(moved, x @ torch.linalg.matrix_exp(angle * A), rtol=0, atol=1e-10 * max(1, angle))
    K = m._lie(x.mH @ g)
    rank = torch.linalg.svdvals(K).gt(1e-9).sum(-1).double()
    torch.testing.assert_close(found.rank.flatten(), rank)
    torch.testing.assert_close(found.gain.flatten(), torch.linalg.svdvals(K).sum(-1))


def test_nuclear_steps_are_as_long_as_stated_from_the_first_on(generator):
    x, g = problem((6, 6), torch.float64, generator)
    for nesterov in (False, True):
        p = torch.nn.Parameter(x.clone())
        p.manifold = mr.Orthogonal()
        p.grad = g
        mr.optim.RiemannianMuon([p], lr=0.01, nesterov=nesterov, scale="nuclear").step()
        expected = mr.Orthogonal().spectral_step(x, g, 0.01, nuclear=True)
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)


def test_an_infinite_angle_is_refused_and_changes_nothing(generator):
    x, g = problem((6, 6), torch.float64, generator)
    p = torch.nn.Parameter(x.clone())
    p.manifold, p.grad = mr.Orthogonal(), g
    with pytest.raises(errors.OptionError, match="lr"):
        mr.optim.RiemannianMuon([p], lr=torch.inf)
    optimizer = mr.optim.RiemannianMuon([p], lr=1e308, scale="nuclear")  # finite, but not times the nuclear norm
    p.grad = 1e3 * g
    with pytest.raises(errors.NonFiniteError):
        optimizer.step()
    assert torch.equal(p, x)


def test_manifolds_of_geoopt_are_descended_by_their_own_norm(generator):
    for m in (geoopt.Sphere(), geoopt.Lorentz(), geoopt.PoincareBall()):
        p = torch.nn.Parameter(m.projx(0.3 * torch.randn(5, dtype=torch.float64, generator=generator)))
        p.manifold, p.grad = m, torch.randn(5, dtype=torch.float64, generator=generator)
        before = p.detach().clone()
        mr.optim.RiemannianMuon([p], lr=0.01, momentum=0.0).step()
        assert abs(float(m.dist(before, p.detach())) - 0.01) < 1e-4


def test_torchs_muon_is_refused_for_points_and_refuses_coordinates():
    layer = mr.constrain(torch.nn.Linear(4, 4, bias=False), "weight", mr.Orthogonal())
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 4)).sum().backward()
    with pytest.raises(errors.OptimizerError, match=r"Muon would move the weight 'weight' off its manifold"):
        torch.optim.Muon(layer.parameters()).step()
    assert torch.equal(layer.weight, before)
    layer = mr.constrain(torch.nn.Linear(4, 4, bias=False), "weight", mr.Orthogonal(), view="trivialized")
    with pytest.raises(ValueError, match="2D"):  # torch's own message: coordinates have one axis
        torch.optim.Muon(layer.parameters())
