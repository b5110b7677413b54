"""Norms of matrices of any size."""

import math

import pytest
import torch
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import linalg
from manifold_rnn.linalg.norms import norm, unit_of

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
EXPONENTS = {torch.float32: (-120, -70, -20, 20, 70, 120), torch.float64: (-1000, -500, -200, 200, 500, 1000)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_norm_scales_with_its_matrix(dtype, generator):
    x = torch.randn(3, 4, 2, dtype=dtype, generator=generator)
    for exponent in EXPONENTS[dtype.to_real()]:
        factor = 2.0**exponent
        torch.testing.assert_close(norm(x * factor), norm(x) * factor, rtol=atol(dtype), atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_qr_scales_with_its_matrix_up_to_the_ends_of_the_range(dtype, generator):
    x = torch.randn(3, 4, 2, dtype=dtype, generator=generator)
    x = x / x.abs().max()
    for f in (linalg.qr, linalg.cholesky_qr):
        Q, R = linalg.qr(x)
        for factor in (torch.finfo(dtype).max / 4, torch.finfo(dtype).tiny):
            near, scaled = f(x * factor)
            torch.testing.assert_close(near, Q, rtol=0, atol=10 * atol(dtype))
            torch.testing.assert_close(scaled / factor, R, rtol=0, atol=10 * atol(dtype))
        subnormal = f(x * torch.finfo(dtype).tiny * 2.0**-8)[0]
        assert float(linalg.defect(subnormal).max()) < 20 * atol(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_defect_is_the_square_of_the_size_or_infinite(dtype, generator):
    x = torch.randn(3, 4, 2, dtype=dtype, generator=generator)
    half = math.sqrt(torch.finfo(dtype).max) / 16
    expected = torch.linalg.matrix_norm(x.mH @ x)
    torch.testing.assert_close(linalg.defect(half * x) / half**2, expected, rtol=10 * atol(dtype), atol=0)
    assert bool(linalg.defect(x / x.abs().max() * torch.finfo(dtype).max).isposinf().all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_skew_part_of_the_largest_numbers_is_itself(dtype):
    x = torch.finfo(dtype).max * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(linalg.skew(x.to(dtype)), x.to(dtype))


@pytest.mark.parametrize("exponent", [-1000, -500, -100])
def test_a_small_step_on_the_grassmann_manifold_is_as_long_as_its_vector(exponent, generator):
    Gr, x = mr.Grassmann(), torch.eye(5, 2, dtype=torch.float64)
    u = Gr.proju(x, torch.randn(5, 2, dtype=torch.float64, generator=generator)) * 2.0**exponent
    torch.testing.assert_close(Gr.dist(x, Gr.expmap(x, u)), Gr.norm(x, u), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_unit_divides_complex_numbers_of_any_size_without_loss(dtype):
    finfo = torch.finfo(dtype)
    for size in (finfo.smallest_normal * finfo.eps, finfo.tiny / 4, finfo.tiny, 1.0, 3.0, finfo.max):
        x = torch.full((1, 1), size, dtype=dtype).to(dtype.to_complex())
        unit = unit_of(x)
        assert finfo.tiny <= float(unit) and (float(unit) <= size or size < finfo.tiny)
        assert torch.equal(x / unit * unit, x)
