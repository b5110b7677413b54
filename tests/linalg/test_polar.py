"""The polar factor and its derivative: they scale with the matrix, at every distance from orthonormal columns."""

import contextlib

import pytest
import torch
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import linalg

EXPONENTS = {torch.float32: (-126, -100, -33, -4, 4, 33, 100, 126), torch.float64: (-1000, -100, 4, 100, 1000)}
FACTORS = [linalg.polar, linalg.msign]


def factor_and_slope(f, x, g):
    x = x.detach().requires_grad_()
    y = f(x)
    return y.detach(), torch.autograd.grad(y, x, g)[0]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (2, 4, 4)], ids=str)
@pytest.mark.parametrize("f", FACTORS, ids=lambda f: f.__name__)
def test_the_factor_of_a_multiple_is_the_same_and_its_slope_is_divided(f, shape, fixed, dtype, generator):
    x = torch.eye(*shape[-2:]) + 0.3 * torch.randn(shape, dtype=dtype, generator=generator)
    g = torch.randn(shape, dtype=dtype, generator=generator)
    with linalg.fixed_iterations() if fixed else contextlib.nullcontext():
        factor, slope = factor_and_slope(f, x, g)
        for exponent in EXPONENTS[dtype.to_real()]:
            again, divided = factor_and_slope(f, x * 2.0**exponent, g)
            torch.testing.assert_close(again, factor, rtol=0, atol=20 * atol(dtype))
            torch.testing.assert_close(divided * 2.0**exponent, slope, rtol=0, atol=100 * atol(dtype))


@pytest.mark.parametrize("f", FACTORS, ids=lambda f: f.__name__)
def test_subnormal_numbers_have_a_factor_and_a_slope_that_overflows(f, generator):
    for dtype in (torch.float32, torch.complex64):
        x, g = torch.randn(2, 4, 4, dtype=dtype, generator=generator)
        factor, slope = factor_and_slope(f, 1e-40 * x, g)
        torch.testing.assert_close(factor, f(x), rtol=0, atol=1e-3)
        assert not bool(slope.isnan().any()) and float(slope.abs().max()) > 1e38


@pytest.mark.parametrize("double", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0, 1e5])
def test_its_derivatives_of_both_orders_at_every_distance(scale, double, generator):
    noise = torch.randn(3, 4, 3, dtype=double, generator=generator)
    x = (scale * (torch.eye(4, 3) + 0.1 * noise)).requires_grad_()
    along = scale * torch.randn(x.shape, dtype=double, generator=generator)  # so that a step is large enough
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: linalg.polar(x.detach() + t * along), t)
    assert torch.autograd.gradgradcheck(lambda t: linalg.polar(x.detach() + t * along), t)
    mixed = (noise * torch.tensor([0.05, 1.0, 20.0], dtype=torch.float64)[:, None, None]).requires_grad_()
    assert torch.autograd.gradcheck(linalg.polar, mixed, fast_mode=True)


@pytest.mark.parametrize("length", [0.5, 5.0, 20.0, 1e3])
def test_the_angle_of_a_long_polar_step_has_the_slope_of_its_arc_tangent(length):
    c = torch.tensor([length * 2**0.5], dtype=torch.float64, requires_grad=True)
    W = mr.Orthogonal("polar").retr_coordinates(torch.eye(2, dtype=torch.float64), c)
    (slope,) = torch.autograd.grad(torch.atan2(W[1, 0], W[0, 0]), c)
    assert float(slope) == pytest.approx(1 / (1 + length**2) / 2**0.5, rel=1e-10)
