"""Functions of eigenvalues, with their derivatives where these meet."""

import math

import pytest
import torch
from support.tolerances import atol

from manifold_rnn.linalg.hermitian import hermitian, log_gram, raised

VALUES = {
    "equal": [2.0, 2.0, 2.0],
    "two equal": [1.0, 1.0, 3.0],
    "nearly equal": [1.0, 1.0 + 1e-9, 1.0 + 1e-4],
    "near": [1.0, 1.04, 1.06],
    "far": [1e-3, 1.0, 1e3],
}
WIDE = [torch.float64, torch.complex128]


def with_values(kind, dtype, generator):
    U, V = torch.linalg.qr(torch.randn(2, 3, 3, dtype=dtype, generator=generator)).Q
    return (U * torch.tensor(VALUES[kind], dtype=dtype) @ V.mH).requires_grad_()


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("kind", VALUES)
def test_first_and_second_derivatives_of_every_mode(kind, dtype, generator):
    K = with_values(kind, dtype, generator)
    options = {"atol": 1e-4, "rtol": 1e-4} if kind == "far" else {}  # differences at a value of 1e-3 have fewer digits
    assert torch.autograd.gradcheck(log_gram, K, check_forward_ad=True, check_batched_grad=True, **options)
    assert torch.autograd.gradgradcheck(log_gram, K, check_fwd_over_rev=True, check_batched_grad=True, **options)


@pytest.mark.parametrize("kind", VALUES)
def test_the_second_derivative_of_a_diagonal_is_that_of_the_logarithm(kind):
    s = torch.tensor(VALUES[kind], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda s: log_gram(torch.diag(s)).trace(), s)
    torch.testing.assert_close(hessian, torch.diag(-2 / s.square()), rtol=1e-9, atol=1e-9)


def test_a_batch_is_its_matrices_one_by_one(generator):
    K = torch.stack([with_values(kind, torch.float64, generator).detach() for kind in ("equal", "near")])
    hessian = torch.func.hessian(lambda K: log_gram(K).square().sum())
    expected = torch.stack([hessian(one) for one in K])
    torch.testing.assert_close(torch.func.vmap(hessian)(K), expected, rtol=0, atol=math.sqrt(atol(K.dtype)))


SPECTRA = {
    "above": [1.0, 1.0, 2.0],
    "below": [-1.0, -1.0, -2.0],
    "both": [1.0, 1.0, -1.0, -1.0],
    "all": [2.0, 1.0, -1.0],
}


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("kind", SPECTRA)
def test_first_and_second_derivatives_of_raised_eigenvalues(kind, dtype, generator):
    w = torch.tensor(SPECTRA[kind], dtype=dtype)
    V = torch.linalg.qr(torch.randn(len(w), len(w), dtype=dtype, generator=generator)).Q
    x = (V * w @ V.mH).requires_grad_()

    def function(x):
        return raised(hermitian(x), 0.1)

    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, x, check_fwd_over_rev=True, check_batched_grad=True)
