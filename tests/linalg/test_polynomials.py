"""Coefficients of the polynomials of matrices, against rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch

from manifold_rnn import linalg
from manifold_rnn.linalg import exponential, polynomials, translation
from manifold_rnn.linalg.cayley import inverse_polynomial

EPS = [2.0**-23, 2.0**-52]
STEPS = [-240, -80, -40, -16, -8, -4, -1, 0, 1, 3, 5]  # radius 2^(step/8)
TERMS = 50  # of power series


def even_and_odd(taylor, y):
    """The real and the imaginary part of a power series at ``iy``."""
    parts = [Fraction(0), Fraction(0)]
    for n in range(TERMS):
        parts[n % 2] += (-1) ** (n // 2) * taylor(n) * y**n
    return parts


def distance(coefficients, taylor, radius):
    """The largest difference of a polynomial and a power series on the imaginary axis."""
    worst = 0.0
    for k in range(9):
        y = Fraction(radius) * Fraction(k, 8)
        exact = even_and_odd(taylor, y)
        got = even_and_odd(lambda n: Fraction(coefficients[n]) if n < len(coefficients) else Fraction(0), y)
        worst = max(worst, math.hypot(*(float(a - b) for a, b in zip(exact, got, strict=True))))
    return worst


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("eps", EPS)
def test_polynomials_are_off_by_one_rounding(eps, step):
    radius = 2.0 ** (step / 8)
    exp = exponential.exp_polynomial(step, eps)
    assert distance(exp, lambda n: Fraction(1, math.factorial(n)), radius) <= eps
    sinhc = [c for even in translation._sinhc_polynomial(step, eps) for c in (even, 0.0)]
    assert distance(sinhc, lambda n: Fraction((n + 1) % 2, 2**n * math.factorial(n + 1)), 2 * radius) <= 2 * eps
    if step <= -2:  # the norms that the adjoint of the exponential has
        phi = exponential._phi_polynomial(step, eps)
        assert distance(phi, lambda n: Fraction(1, math.factorial(n + 1)), 2 * radius) <= 3 * eps
    if step <= 0:
        inverse = inverse_polynomial(step, eps)
        for k in range(9):
            s = -Fraction(radius) * Fraction(k, 8)
            value = sum(Fraction(c) * s**j for j, c in enumerate(inverse))
            assert abs(float(value - 2 / (1 - s))) <= 2 * eps


@pytest.mark.parametrize("k", [0, 1, 2, 7, 30])
def test_chebyshev_polynomials_are_those_of_the_cosine(k):
    for numerator in range(-4, 5):
        t = Fraction(numerator, 4)
        value = sum(c * t**j for j, c in enumerate(polynomials.chebyshev(k)))
        assert float(value) == pytest.approx(math.cos(k * math.acos(t)), abs=1e-13)
        assert value == sum(c * (t - 1) ** j for j, c in enumerate(polynomials.chebyshev_at_one(k)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(3, 3), (100, 100), (2, 5, 5)])
def test_a_weight_with_coordinates_zero_is_its_base(shape, dtype, generator):
    x = linalg.qr(torch.randn(shape, dtype=dtype, generator=generator))[0]
    c = linalg.pack_skew(torch.zeros(shape, dtype=dtype)).requires_grad_()
    assert torch.equal(translation.cayley_coordinates(x, c), x)
    assert torch.equal(translation.expm_coordinates(x, c), x)
