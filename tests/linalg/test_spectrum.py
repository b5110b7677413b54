"""The spectral radius: known values, its gradient where there is one, and what it says where there is none."""

import math

import pytest
import torch
from support import naive

import manifold_rnn as mr
from manifold_rnn import errors, linalg


def chain(n, forward, backward, dtype=torch.float64):
    ones = torch.ones(n - 1, dtype=dtype)
    return forward * ones.diag(-1) + backward * ones.diag(1)


def rotation(angle, radius=1.0):
    c, s = radius * math.cos(angle), radius * math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def similar(values, generator, strength=0.3):
    """A matrix that is not normal, with a block for each value: 1 x 1 if real, 2 x 2 if a pair."""
    blocks = [
        rotation(v[1], v[0]) if isinstance(v, tuple) else torch.full((1, 1), v, dtype=torch.float64) for v in values
    ]
    D = torch.block_diag(*blocks)
    S = torch.eye(len(D), dtype=D.dtype) + strength * torch.randn(D.shape, dtype=D.dtype, generator=generator)
    return S @ D @ torch.linalg.inv(S)


KNOWN = {
    "zero": (torch.zeros(3, 3), 0.0),
    **{
        f"Jordan {n} {d} {a}": (d * torch.eye(n, dtype=torch.float64) + chain(n, a, 0.0), d)
        for n in (4, 12, 50, 100)
        for d, a in ((0.2, 1.0), (0.9, 1.0), (0.99, 0.01))
    },
    "tiny Jordan": (1e-30 * (0.9 * torch.eye(20, dtype=torch.float64) + chain(20, 1.0, 0.0)), 0.9e-30),
    "huge Jordan": (1e30 * (0.9 * torch.eye(20, dtype=torch.float64) + chain(20, 1.0, 0.0)), 0.9e30),
    "long nilpotent": (chain(100, 3.0, 0.0), 0.0),
    "nilpotent": (chain(5, 3.0, 0.0), 0.0),
    "identity": (torch.eye(4), 1.0),
    "rotation": (rotation(2.0), 1.0),
    "not normal": (torch.tensor([[0.5, 10.0], [0.0, 0.4]]), 0.5),
    "feedback chain": (chain(100, 0.99, 0.01), 2 * math.sqrt(0.0099) * math.cos(math.pi / 101)),
    "huge": (torch.tensor([[1e30, 1e25], [0.0, 1e20]], dtype=torch.float64), 1e30),
    "tiny": (torch.tensor([[1e-30, 1e-10], [0.0, 1e-31]], dtype=torch.float64), 1e-30),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("single", [True, False])
def test_known_values(name, single):
    x, value = KNOWN[name]
    x = x.float() if single else x.double()
    got = linalg.spectral_radius(x)
    expected = torch.tensor(value, dtype=x.dtype)
    torch.testing.assert_close(got, expected, atol=0, rtol=2e-6 if single else 1e-13)
    (slope,) = torch.autograd.grad(linalg.spectral_radius(x.requires_grad_()), x)
    assert bool(slope.isfinite().all())


def test_triangular_matrices_are_exact_in_any_order_and_as_blocks(generator, dtype):
    x = torch.randn(30, 30, dtype=dtype, generator=generator).tril() / 3
    order = torch.randperm(30, generator=generator)
    expected = x.diagonal().abs().max()
    block = torch.block_diag(0.01 * torch.randn(3, 3, dtype=dtype, generator=generator), x)
    for y in (x, x.mT, x[order][:, order], block):
        torch.testing.assert_close(linalg.spectral_radius(y), expected, atol=0, rtol=1e-5)


@pytest.mark.parametrize("gain", [1.0, 1e10, 1e22, 1e24, 1e30, 1e48, 1e100])
@pytest.mark.parametrize("value", [0.5, 2.0, 1e-25, 1e-171])
def test_an_eigenvalue_whose_powers_underflow_is_not_zero(value, gain, generator):
    for n in (3, 8, 9, 16, 33):
        x = value * torch.eye(n, dtype=torch.float64) + chain(n, gain, 0.0)
        order = torch.randperm(n, generator=generator)
        together = torch.stack([x, x[order][:, order], chain(n, gain, 0.0), 0 * x])
        expected = torch.tensor([value, value, 0.0, 0.0], dtype=torch.float64)
        torch.testing.assert_close(linalg.spectral_radius(together), expected, atol=0, rtol=1e-12)
        assert linalg.spectral_radius(torch.tensor([[1.0, -1.0], [1.0, -1.0]])) == 0  # no triangle, and no underflow
        if value > 1:
            disc = mr.UnitDisc()
            assert not disc.check_point_on_manifold(x) and float(disc.projx(x).diagonal().max()) <= 1 + 1e-12


def test_random_nilpotent_matrices_have_no_more_than_their_rounding_errors(generator):
    for n in (3, 5, 8):
        Q = linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
        x = Q @ torch.randn(n, n, dtype=torch.float64, generator=generator).triu(1) @ Q.mT
        assert linalg.spectral_radius(x) < 30 * torch.finfo(x.dtype).eps ** (1 / n)


def test_dense_eigenvalues_are_not_to_be_trusted_where_the_condition_number_is_large():
    x = chain(100, 0.99, 0.01)
    assert naive.spectral_radius(x) > 0.4 and linalg.spectral_radius(x) < 0.2
    assert linalg.spectral_condition(x) > 1e12


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_equals_the_dense_eigenvalues_up_to_their_condition(n, dtype, generator):
    x = torch.randn(5, n, n, dtype=dtype, generator=generator)
    kappa, unit = linalg.spectral_condition(x), torch.finfo(dtype).eps
    error = (linalg.spectral_radius(x).double() - naive.spectral_radius(naive.wide(x))).abs()
    assert bool((error <= 10 * n * unit * kappa * torch.linalg.matrix_norm(x, 2)).all())


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_scaling_powers_transposes_and_similarity(n, generator):
    x = torch.randn(3, n, n, dtype=torch.complex128, generator=generator)
    radius, s = linalg.spectral_radius(x), torch.randn(n, n, dtype=x.dtype, generator=generator)
    for y, expected in (
        ((2 - 1j) * x, 5**0.5 * radius),
        (x @ x @ x, radius**3),
        (x.mH, radius),
        (torch.linalg.solve(s, x @ s), radius),
    ):
        torch.testing.assert_close(linalg.spectral_radius(y), expected, atol=0, rtol=1e-10)


def test_condition_is_one_for_normal_matrices_and_known_for_triangles(generator):
    Q = linalg.qr(torch.randn(4, 6, 6, dtype=torch.float64, generator=generator))[0]
    torch.testing.assert_close(linalg.spectral_condition(Q), torch.ones(4, dtype=torch.float64))
    for gap in (1e-1, 1e-3, 1e-6):
        x = torch.tensor([[1.0, 2.0], [0.0, 1.0 - gap]], dtype=torch.float64)
        torch.testing.assert_close(linalg.spectral_condition(x).item(), math.hypot(1, 2 / gap), rtol=1e-8, atol=0)
    assert linalg.spectral_condition(torch.tensor([[1.0, 1.0], [0.0, 1.0]])) > 1e15


DOMINANT = {
    "real": [1.2, 0.5, (0.4, 1.0)],
    "negative": [-1.2, 0.9, (0.4, 1.0)],
    "pair": [(1.2, 0.7), 0.5, -0.4],
    "nearly tied": [(1.2, 0.7), 1.2 - 1e-3, -0.4],
}


def slope_error(x, h, generator, count=8):
    """Largest error of the derivative along random directions, relative to the gradient, by differences of order 4."""
    (g,) = torch.autograd.grad(linalg.spectral_radius(x.requires_grad_()), x)
    x, worst = x.detach(), 0.0
    for _ in range(count):
        e = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        e = e / torch.linalg.matrix_norm(e)
        at = [linalg.spectral_radius(x + k * h * e) for k in (1, -1, 2, -2)]
        quotient = (8 * (at[0] - at[1]) - (at[2] - at[3])) / (12 * h)
        worst = max(worst, abs(float(quotient - (g.conj() * e).real.sum())))
    return worst / float(torch.linalg.matrix_norm(g))


@pytest.mark.parametrize("name", DOMINANT)
def test_gradient_equals_finite_differences(name, generator):
    for _ in range(5):
        assert slope_error(similar(DOMINANT[name], generator), 1e-5, generator) < 1e-6


def test_gradient_of_a_complex_matrix_equals_finite_differences(generator):
    for n in (1, 3, 8):
        assert slope_error(torch.randn(n, n, dtype=torch.complex128, generator=generator), 1e-4, generator) < 1e-6


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_gradient_near_a_defective_matrix_is_right_while_it_is_below_the_guard(gap, generator):
    x = torch.tensor([[1.0, 1.0], [gap, 1.0]], dtype=torch.float64)  # condition number 1 / (2 sqrt(gap))
    torch.testing.assert_close(linalg.spectral_condition(x).item(), (1 + gap) / (2 * gap**0.5), rtol=1e-6, atol=0)
    assert slope_error(x, 1e-3 * gap, generator) < 1e-6


def test_gradient_does_not_depend_on_the_scale_and_its_product_with_the_matrix_is_the_radius(generator):
    for values in DOMINANT.values():
        x = similar(values, generator).requires_grad_()
        radius = linalg.spectral_radius(x)
        (g,) = torch.autograd.grad(radius, x)
        y = (7 * x.detach()).requires_grad_()
        torch.testing.assert_close((g * x).sum(), radius, atol=1e-12, rtol=0)
        torch.testing.assert_close(torch.autograd.grad(linalg.spectral_radius(y), y)[0], g)


@pytest.mark.parametrize(
    "values", [[1.0, -1.0, 0.3], [(1.0, 0.5), 1.0], [(1.0, 0.5), (1.0, 2.0)], [-1.0, (1.0, 1.0), 1.0]]
)
def test_where_moduli_tie_the_gradient_is_a_subgradient(values, generator):
    x = similar(values, generator).requires_grad_()
    (g,) = torch.autograd.grad(linalg.spectral_radius(x), x)
    torch.testing.assert_close((g * x).sum().item(), 1.0, atol=1e-10, rtol=0)
    t = 1e-6
    for _ in range(50):
        e = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        one_sided = (linalg.spectral_radius(x + t * e) - linalg.spectral_radius(x)) / t
        assert one_sided >= (g * e).sum() - 1e-3


@pytest.mark.parametrize("n", [2, 3, 6])
def test_of_a_defective_matrix_the_gradient_is_the_radial_one(n, dtype, generator):
    J = torch.eye(n, dtype=dtype) * (1 + 1j if dtype.is_complex else -1.5) + torch.ones(n - 1, dtype=dtype).diag(1)
    Q = linalg.qr(torch.randn(n, n, dtype=dtype, generator=generator))[0]
    x = (Q @ J @ Q.mH).requires_grad_()
    radius = linalg.spectral_radius(x)
    (g,) = torch.autograd.grad(radius, x)
    torch.testing.assert_close(g, (radius / x.abs().square().sum() * x).detach(), rtol=1e-5, atol=1e-6)
    (forced,) = torch.autograd.grad(linalg.spectral_radius(x, tol=2.0), x)
    torch.testing.assert_close(forced, g)


def test_clipping_is_the_nearest_point_and_its_gradient_survives_ties(generator):
    x = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    U, s, Vh = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(linalg.clip_singular_values(x, 0.8), U * s.clamp(max=0.8).unsqueeze(-2) @ Vh)
    inside = x / torch.linalg.matrix_norm(x, 2, keepdim=True)
    assert torch.equal(linalg.clip_singular_values(0.9 * inside), 0.9 * inside)
    Q = linalg.qr(x)[0].float().requires_grad_()  # every singular value is 1, rounded up or down
    g = torch.randn(x.shape, generator=generator)
    torch.testing.assert_close(torch.autograd.grad(linalg.clip_singular_values(Q), Q, g)[0], g)
    far = (3 * Q.detach()).requires_grad_()
    u = torch.autograd.grad(linalg.clip_singular_values(far), far, g)[0]
    e = 1e-3 * torch.randn(x.shape, generator=generator)
    quotient = (linalg.clip_singular_values(far + e) - linalg.clip_singular_values(far - e)).detach() / 2
    torch.testing.assert_close((quotient * g).sum(), (u * e).sum(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, "a", None, True])
def test_a_bound_that_is_not_positive_is_refused(bound):
    with pytest.raises(errors.OptionError, match="positive"):
        linalg.clip_singular_values(torch.eye(2), bound)


@pytest.mark.parametrize("tol", [-1.0, math.nan, "a", True])
def test_a_tolerance_that_is_not_a_number_of_at_least_zero_is_refused(tol):
    with pytest.raises(errors.OptionError, match="tol"):
        linalg.spectral_radius(torch.eye(2), tol=tol)


@pytest.mark.parametrize("exponent", [0, -8, -16, -40, -150, -290, -300, -309, -320])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_columns_of_very_different_sizes_have_the_right_eigenvectors(exponent, dtype):
    small = 10.0**exponent
    right, left = torch.tensor([1.0, -1.7]).double(), torch.tensor([1.0, small], dtype=torch.float64)
    x = torch.outer(right, left).to(dtype).requires_grad_()  # of rank one: the other eigenvalue is 0
    eigenvalue = float(left @ right)
    (slope,) = torch.autograd.grad(linalg.spectral_radius(x), x)
    expected = torch.outer(left, right) / abs(eigenvalue)
    torch.testing.assert_close(slope, expected.to(dtype), atol=1e-13, rtol=1e-13)
    condition = left.norm() * right.norm() / abs(eigenvalue)
    torch.testing.assert_close(linalg.spectral_condition(x.detach()), condition)
