"""The matrix sign against the singular value decomposition, at every rank, condition and size."""

import itertools

import pytest
import torch
from support.tolerances import atol

from manifold_rnn import errors, linalg

SHAPES = [(5, 5), (12, 5), (5, 12), (1, 4), (2, 40, 30)]


def reference(x, rank=None):
    U, _, Vh = torch.linalg.svd(x, full_matrices=False)
    return U[..., :rank] @ Vh[..., :rank, :]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_has_the_singular_vectors_and_ones(shape, dtype, generator):
    x = torch.randn(shape, dtype=dtype, generator=generator)
    torch.testing.assert_close(linalg.msign(x), reference(x), rtol=0, atol=20 * atol(dtype))


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-8])
def test_small_singular_values_converge(smallest, generator):
    n = 20
    U, V = (linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0] for _ in range(2))
    x = U * torch.logspace(0, torch.tensor(smallest).log10(), n, dtype=torch.float64) @ V
    torch.testing.assert_close(linalg.msign(x), U @ V, rtol=0, atol=1e-14 / smallest)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_at_lower_rank_it_is_a_partial_isometry(rank, generator):
    x = torch.randn(7, rank, dtype=torch.float64, generator=generator) @ torch.randn(rank, 5, dtype=torch.float64)
    torch.testing.assert_close(linalg.msign(x), reference(x, rank), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e20, 1e37])
def test_the_size_does_not_matter(scale, dtype, generator):
    x = torch.randn(6, 4, dtype=dtype, generator=generator)
    torch.testing.assert_close(linalg.msign(scale * x), linalg.msign(x), rtol=0, atol=20 * atol(dtype))


def test_a_skew_hermitian_matrix_has_a_skew_hermitian_sign(dtype, generator):
    y = linalg.msign(linalg.skew(torch.randn(7, 7, dtype=dtype, generator=generator)))
    torch.testing.assert_close(y, -y.mH, rtol=0, atol=20 * atol(dtype))
    torch.testing.assert_close(y @ y @ y, -y, rtol=0, atol=1e-3 if dtype.to_real() == torch.float32 else 1e-10)


@pytest.mark.parametrize("smallest", [1e-3, 1e-5, 1e-8])
def test_a_result_does_not_depend_on_the_batch(smallest, generator):
    Q = [linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))[0] for _ in range(2)]
    x = Q[0] * torch.tensor([1, 0.9, 0.5, smallest], dtype=torch.float64) @ Q[1]
    alone = linalg.msign(x)
    for other in (torch.eye(4, dtype=torch.float64), x * torch.nan, torch.zeros(4, 4, dtype=torch.float64)):
        torch.testing.assert_close(linalg.msign(torch.stack([x, other]))[0], alone, rtol=0, atol=1e-14)
    with linalg.fixed_iterations():
        assert torch.equal(linalg.msign(x), alone)


def test_singular_values_become_one_from_the_documented_size_on(dtype):
    unit = torch.finfo(dtype).eps
    for size, least, most in ((1.1 * unit**0.6, 0.99, 1.01), (unit, 0.0, 1e-5)):
        y = linalg.msign(torch.diag(torch.tensor([1.0, size], dtype=torch.float64)).to(dtype))
        assert least <= float(y[1, 1].abs()) <= most


def test_between_them_singular_vectors_stay_and_values_are_between_0_and_1(dtype, generator):
    unit, slack = torch.finfo(dtype).eps, 100 * torch.finfo(dtype).eps
    U, V = (linalg.qr(torch.randn(2, 2, dtype=dtype, generator=generator))[0] for _ in range(2))
    found = []
    for power in torch.linspace(0.3, 1.0, 60).tolist():
        s = torch.tensor([1.0, unit**power], dtype=torch.float64)
        inner = linalg.msign(torch.diag(s).to(dtype))
        found.append(float(inner[1, 1].abs()))
        assert float((inner - torch.diag(inner.diagonal())).abs().max()) == 0
        values = torch.linalg.svdvals(linalg.msign(U * s.to(dtype) @ V.mH))
        assert float(values.max()) <= 1 + slack
    assert max(found) <= 1 + slack and found[-1] <= 1e-5
    assert all(later <= earlier + slack for earlier, later in itertools.pairwise(found))


def test_the_adjoint_is_that_of_the_polar_factor(generator):
    for dtype in (torch.float64, torch.complex128):
        x = torch.randn(6, 4, dtype=dtype, generator=generator, requires_grad=True)
        g = torch.randn(6, 4, dtype=dtype, generator=generator)
        (ours,) = torch.autograd.grad(linalg.msign(x), x, g)
        (polar,) = torch.autograd.grad(linalg.polar(x), x, g)
        torch.testing.assert_close(ours, polar, rtol=0, atol=1e-10)


def test_at_lower_rank_the_adjoint_is_that_along_matrices_of_this_rank(generator):
    a, b = (torch.randn(s, dtype=torch.float64, generator=generator, requires_grad=True) for s in ((6, 2), (2, 4)))
    assert torch.autograd.gradcheck(lambda a, b: linalg.msign(a @ b), (a, b), atol=1e-5)


def test_a_vector_is_answered_by_name():
    with pytest.raises(errors.ShapeError, match="msign"):
        linalg.msign(torch.ones(3))
    with pytest.raises(errors.DtypeError):
        linalg.msign(torch.ones(3, 3, dtype=torch.int64))
