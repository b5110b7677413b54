"""What each function of linalg is, as laws that hold for every argument."""

import pytest
import torch
from support import naive
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import errors, linalg

SHAPES = [(1, 1), (5, 5), (0, 4, 4), (2, 3, 6, 6)]


@pytest.fixture(params=SHAPES, ids=str)
def x(request, dtype, generator):
    return torch.randn(request.param, dtype=dtype, generator=generator)


@pytest.fixture
def close(dtype):
    return lambda a, b: torch.testing.assert_close(a, b, atol=atol(dtype), rtol=atol(dtype))


def test_skew_is_the_orthogonal_projection(x, close):
    y = torch.randn_like(x)
    A = linalg.skew(x)
    assert torch.equal(A, -A.mH) and torch.equal(linalg.skew(A), A)
    close((A.conj() * y).real.sum(), (x.conj() * linalg.skew(y)).real.sum())


def test_packing_keeps_lengths_and_angles_and_loses_nothing(x, close):
    A, B = linalg.skew(x), linalg.skew(torch.randn_like(x))
    a, b = linalg.pack_skew(A), linalg.pack_skew(B)
    n = x.shape[-1]
    assert a.shape == (*x.shape[:-2], n * n if x.is_complex() else n * (n - 1) // 2) and not a.is_complex()
    close((a * b).sum(-1), (A.conj() * B).real.sum((-2, -1)))
    close(linalg.unpack_skew(a, A.dtype), A)
    close(linalg.pack_skew(x), a)


@pytest.mark.parametrize("function", [linalg.cayley, linalg.expm_skew], ids=lambda f: f.__name__)
def test_minus_the_argument_gives_the_inverse(function, x, close):
    W = function(x)
    close(W @ function(-x), naive.eye(x).expand_as(x))
    close(function(x.mH), W.mH)


def test_the_exponential_of_a_sum_of_commuting_matrices_is_the_product(x, close):
    close(linalg.expm_skew(0.3 * x) @ linalg.expm_skew(0.7 * x), linalg.expm_skew(x))


def test_the_logarithm_inverts_the_exponential_up_to_pi(x, close):
    A = linalg.skew(x)
    A = A * (3 / torch.linalg.matrix_norm(A, 2).clamp(min=3))[..., None, None]
    torch.testing.assert_close(linalg.logm_unitary(linalg.expm_skew(A)), A, atol=100 * atol(x.dtype), rtol=0)


@pytest.mark.parametrize("function", [linalg.qr, linalg.cholesky_qr], ids=lambda f: f.__name__)
def test_qr_factors(function, x, close):
    x = torch.cat([x, torch.eye(x.shape[-1], dtype=x.dtype).expand_as(x)], -2)
    Q, R = function(x)
    close(Q @ R, x)
    close(Q.mH @ Q, naive.eye(R).expand_as(R))
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    assert torch.equal(R, R.triu()) and bool((diagonal.real > 0).all())
    close(diagonal.imag if x.is_complex() else 0 * diagonal, torch.zeros_like(diagonal.real))


def test_polar_factors(x, close):
    x = torch.cat([x, torch.eye(x.shape[-1], dtype=x.dtype).expand_as(x)], -2)
    W = linalg.polar(x)
    H = W.mH @ x
    close(W.mH @ W, naive.eye(H).expand_as(H))
    close(H, H.mH)
    assert bool((torch.linalg.eigvalsh(H) > 0).all())


@pytest.mark.parametrize("function", [linalg.qr, linalg.cholesky_qr, linalg.polar], ids=lambda f: f.__name__)
@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
def test_ill_conditioned_columns_still_become_orthonormal(function, condition, dtype, generator):
    U, V = (torch.linalg.qr(torch.randn(30, 30, dtype=dtype, generator=generator))[0] for _ in range(2))
    s = torch.logspace(0, -float(torch.tensor(condition).log10()), 30, dtype=torch.float64).to(dtype)
    x = U * s @ V
    factor = function(x)
    assert linalg.defect(factor if isinstance(factor, torch.Tensor) else factor[0]) < 3 * atol(dtype)


@pytest.mark.parametrize("function", [linalg.qr, linalg.cholesky_qr, linalg.polar], ids=lambda f: f.__name__)
def test_a_singular_matrix_is_no_crash(function, dtype):
    for x in (torch.ones(3, 3, dtype=dtype), torch.zeros(2, 3, 3, dtype=dtype)):
        factor = function(x)
        assert bool((linalg.defect(factor if isinstance(factor, torch.Tensor) else factor[0]) < 1e-5).all())


def test_one_polish_squares_the_defect(dtype, generator):
    Q = linalg.qr(torch.randn(2, 6, 4, dtype=dtype, generator=generator))[0]
    x = Q + 1e-3 * torch.randn(Q.shape, dtype=dtype, generator=generator)
    assert bool((linalg.defect(linalg.polish(x)) <= linalg.defect(x).square() + atol(dtype)).all())


def test_defect_of_a_scaled_frame(x, close):
    Q = linalg.qr(torch.cat([x, naive.eye(x).expand_as(x)], -2))[0]
    close(linalg.defect(2 * Q), torch.full(x.shape[:-2], 3 * x.shape[-1] ** 0.5, dtype=x.real.dtype))


def test_beyond_the_reach_of_fixed_iterations_the_answer_is_nan_not_wrong(dtype, generator):
    A = naive.random_skew(5, dtype, 1e9, generator)
    with linalg.fixed_iterations():
        maps = {
            "exp": linalg.expm_skew(A),
            "polar": linalg.polar(naive.eye(A) + A),
            "qr": linalg.cholesky_qr(naive.eye(A) + A)[0],
        }
    for name, W in maps.items():
        right = (naive.wide(W) - naive.group_map(name, naive.wide(A))).abs().max() < 1e-3
        assert right or not bool(W.isfinite().all()), name


def test_fixed_iterations_end_with_their_context():
    x = torch.full((2, 2), torch.nan)
    with linalg.fixed_iterations():
        assert linalg.logm_unitary(x).isnan().all()  # checks need numbers from the device
    with pytest.raises(errors.ShapeError), linalg.fixed_iterations():
        linalg.cayley(x[0])
    with pytest.raises(errors.NonFiniteError):
        linalg.logm_unitary(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 2), (16, 16), (3, 17, 17), (2, 3, 33, 33), (0, 4, 4), (130, 130)], ids=str
)
def test_compiled_loops_pack_the_same_numbers(shape, dtype, generator):
    A = torch.randn(shape, dtype=dtype, generator=generator)
    A.flatten()[:1] = torch.inf  # the diagonal has no say
    c = linalg.pack_skew(A)
    B = linalg.unpack_skew(c)
    with torch.no_grad():  # who asks for no derivative has them
        assert torch.equal(linalg.pack_skew(A), c) and torch.equal(linalg.unpack_skew(c), B)
        assert torch.equal(linalg.pack_skew(A.mT), -c)
        assert torch.equal(torch.func.vmap(linalg.pack_skew)(A.expand(2, *shape))[1], c)


@pytest.mark.parametrize("factor", [0.0, 0.7, 2.0])
def test_a_matrix_that_is_far_from_orthogonal_has_no_logarithm(factor, generator):
    Q = linalg.expm_skew(linalg.skew(torch.randn(3, 4, 4, generator=generator)) / 4)
    Q[1] *= factor
    with pytest.raises(errors.OffManifoldError, match="needs an orthogonal or unitary matrix"):
        linalg.logm_unitary(Q)
    assert bool(linalg.logm_unitary(Q[::2] * 1.01).isfinite().all())  # after some drift


COLUMNS = {
    **{name: getattr(linalg, name) for name in ("polar", "qr", "cholesky_qr")},
    **{m.__name__: m().projx for m in (mr.Orthogonal, mr.SpecialOrthogonal, mr.Stiefel, mr.Grassmann)},
}
SINGULAR = {"zero": torch.zeros(3, 3), "rank 1": torch.ones(3, 3), "a column": torch.eye(3) - torch.eye(3)[2]}


@pytest.mark.parametrize("matrix", SINGULAR)
@pytest.mark.parametrize("name", COLUMNS)
def test_a_singular_matrix_has_orthonormal_columns_but_their_derivative_is_refused(name, matrix):
    regular = torch.eye(3) + 0.3 * SINGULAR[matrix]
    for x in (SINGULAR[matrix], torch.stack([regular, SINGULAR[matrix]])):
        x = x.double().clone().requires_grad_()
        y = COLUMNS[name](x)
        y = y[0] if isinstance(y, tuple) else y
        assert float(linalg.defect(y.detach()).max()) < 1e-12
        with pytest.raises(errors.NonFiniteError, match="no derivative at a matrix that is singular"):
            y.sum().backward()
    with pytest.raises(errors.NonFiniteError, match="no derivative"):
        torch.func.vmap(torch.func.grad(lambda x: COLUMNS[name](x)[0].sum()))(x.detach())


@pytest.mark.parametrize("x", [torch.eye(2), torch.zeros(2, 2), torch.ones(2, 2).triu()], ids=["I", "0", "Jordan"])
def test_the_condition_of_a_multiple_eigenvalue_has_no_derivative(x):
    x = x.double().clone().requires_grad_()
    with pytest.raises(errors.NonFiniteError, match="eigenvalue is a multiple one"):
        linalg.spectral_condition(x).backward()
    (slope,) = torch.autograd.grad(linalg.spectral_radius(x), x, create_graph=True)
    assert bool(slope.isfinite().all())
    with pytest.raises(errors.NonFiniteError, match="eigenvalue is a multiple one"):
        slope.sum().backward()


@pytest.mark.parametrize("f", [mr.linalg.qr, mr.linalg.cholesky_qr])
@pytest.mark.parametrize("size", [1e-7, 1e-12])
def test_the_scale_of_a_column_makes_no_matrix_singular(size, f, generator):
    x, g = (
        torch.randn(5, 3, generator=generator) * torch.tensor([1.0, size, 1.0]),
        torch.randn(5, 3, generator=generator),
    )
    slopes = []
    for dtype in (torch.float32, torch.float64):
        y = x.detach().clone().to(dtype).requires_grad_()
        (f(y)[0] * g.to(dtype)).sum().backward()
        slopes.append(y.grad.double())
    lengths = torch.linalg.vector_norm(slopes[1], dim=0)
    torch.testing.assert_close(slopes[0] / lengths, slopes[1] / lengths, atol=1e-5, rtol=0)
