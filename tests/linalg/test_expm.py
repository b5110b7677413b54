"""The exponential of any matrix: closed forms, one matrix and a batch, derivatives, where no number may be read."""

import math

import pytest
import torch
from support.tolerances import atol

from manifold_rnn import linalg
from manifold_rnn.linalg.expm import expm

NORMS = (0.0, 1e-300, 1e-9, 1e-3, 1e-2, 0.1, 0.59, 0.61, 1.0, 3.0, 30.0, 300.0)


def slack(dtype, norm):
    """Rounding of the entries of a matrix of this norm is what its exponential magnifies."""
    return atol(dtype) * (1 + norm)


@pytest.mark.parametrize("norm", NORMS)
def test_rotations_by_their_angle(norm, dtype):
    J = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=dtype)
    angle = float(torch.tensor(norm, dtype=dtype.to_real()))
    expected = math.cos(angle) * torch.eye(2, dtype=dtype) + math.sin(angle) * J
    for A in (norm * J, (norm * J).expand(3, 2, 2)):  # torch's differs between the two
        torch.testing.assert_close(expm(A), expected.expand(A.shape), atol=slack(dtype, norm) / 10, rtol=0)


@pytest.mark.parametrize("norm", NORMS[:-1])
@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_hermitian_matrices_by_their_eigenvalues(n, norm, dtype, generator):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    Q = torch.linalg.qr(torch.randn(n, n, dtype=wide, generator=generator)).Q
    w = -norm * torch.rand(n, dtype=torch.float64, generator=generator)
    A = (Q * w @ Q.mH).to(dtype)
    torch.testing.assert_close(expm(A), (Q * w.exp() @ Q.mH).to(dtype), atol=slack(dtype, norm), rtol=0)


def test_a_jordan_block_is_a_polynomial(dtype):
    n, t = 6, 0.5
    N = t * torch.diag(torch.ones(n - 1, dtype=dtype), 1)
    expected = sum(torch.linalg.matrix_power(N, k) / math.factorial(k) for k in range(n))
    torch.testing.assert_close(expm(N), expected, atol=atol(dtype) / 10, rtol=0)
    torch.testing.assert_close(
        expm(N - 2 * torch.eye(n, dtype=dtype)), math.exp(-2) * expected, atol=atol(dtype), rtol=0
    )


def test_a_batch_is_its_matrices_one_by_one_and_empty_ones_pass(dtype, generator):
    A = torch.randn(7, 3, 3, dtype=dtype, generator=generator) * torch.logspace(-3, 1.3, 7)[:, None, None]
    alone = torch.stack([expm(one) for one in A])
    torch.testing.assert_close(expm(A), alone, atol=0, rtol=atol(dtype) / 10)
    torch.testing.assert_close(torch.func.vmap(expm)(A), alone, atol=0, rtol=atol(dtype) / 10)
    assert expm(A[:0]).shape == (0, 3, 3)


def test_no_number_is_needed_from_the_device(dtype, generator):
    A = torch.randn(7, 3, 3, dtype=dtype, generator=generator) * torch.logspace(-3, 1.3, 7)[:, None, None]
    with linalg.fixed_iterations():
        fixed = expm(A)
        assert expm(1e5 * torch.eye(2, dtype=dtype)).real.isnan().any()
    torch.testing.assert_close(fixed, expm(A), atol=0, rtol=atol(dtype) / 10)


@pytest.mark.parametrize("scale", [0.0, 0.1, 2.0])
def test_derivatives_equal_finite_differences(scale, wide, generator):
    A = (scale * torch.randn(2, 3, 3, dtype=wide, generator=generator)).requires_grad_()
    assert torch.autograd.gradcheck(expm, A, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(expm, A)


def test_what_is_not_finite_stays_so():
    for value in (torch.nan, torch.inf):
        assert not expm(torch.full((2, 2), value)).isfinite().any()
