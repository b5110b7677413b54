"""Norms of matrices of any size."""

import pytest
import torch
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn.linalg.norms import norm

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
EXPONENTS = {torch.float32: (-120, -70, -20, 20, 70, 120), torch.float64: (-1000, -500, -200, 200, 500, 1000)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_norm_scales_with_its_matrix(dtype, generator):
    x = torch.randn(3, 4, 2, dtype=dtype, generator=generator)
    for exponent in EXPONENTS[dtype.to_real()]:
        factor = 2.0**exponent
        torch.testing.assert_close(norm(x * factor), norm(x) * factor, rtol=atol(dtype), atol=0)


@pytest.mark.parametrize("exponent", [-1000, -500, -100])
def test_a_small_step_on_the_grassmann_manifold_is_as_long_as_its_vector(exponent, generator):
    Gr, x = mr.Grassmann(), torch.eye(5, 2, dtype=torch.float64)
    u = Gr.proju(x, torch.randn(5, 2, dtype=torch.float64, generator=generator)) * 2.0**exponent
    torch.testing.assert_close(Gr.dist(x, Gr.expmap(x, u)), Gr.norm(x, u), rtol=1e-12, atol=0)
