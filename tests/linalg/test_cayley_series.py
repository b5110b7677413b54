"""The truncated series of the Cayley map, and the closed form of its distance from orthogonal."""

import pytest
import torch
from support.tolerances import atol

from manifold_rnn import errors, linalg

THETA = torch.tensor([0.0, 1e-30, 0.01, 0.3, 0.9, 1.0, 1.1, 1.5, 30.0], dtype=torch.float64)


@pytest.mark.parametrize("terms", [2, 3, 4, 5, 6, 7, 12])
def test_singular_values_have_the_closed_form(terms):
    Q = torch.zeros(len(THETA), 2, 2, dtype=torch.float64)
    Q[:, 0, 1], Q[:, 1, 0] = -THETA, THETA
    values = torch.linalg.svdvals(linalg.cayley_series(2 * Q, terms))
    expected = linalg.cayley_series_defect(THETA, terms)
    torch.testing.assert_close((values[:, 0] - 1).abs(), expected, atol=1e-14, rtol=1e-12)
    assert linalg.cayley_series_defect(0.5, terms).ndim == 0


def test_five_terms_are_singular_at_90_degrees():
    A = torch.tensor([[0.0, -2.0], [2.0, 0.0]])
    assert linalg.cayley_series(A).abs().max() == 0 and linalg.cayley_series_defect(1.0) == 1
    torch.testing.assert_close(linalg.cayley(A), torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6, rtol=0)


def test_is_the_sum_of_powers_and_tends_to_the_map(dtype, generator):
    A = linalg.skew(torch.randn(3, 5, 5, dtype=dtype, generator=generator))
    A = A / torch.linalg.matrix_norm(A, 2)[:, None, None]
    Q, eye = A / 2, torch.eye(5, dtype=dtype)
    powers = [torch.linalg.matrix_power(Q, k) for k in range(6)]
    for terms in range(2, 7):
        total = eye + 2 * sum(powers[1 : terms - 1]) + powers[terms - 1]
        torch.testing.assert_close(linalg.cayley_series(A, terms), total, atol=10 * atol(dtype), rtol=0)
    torch.testing.assert_close(linalg.cayley_series(A, 60), linalg.cayley(A), atol=10 * atol(dtype), rtol=0)


def test_gradients_of_both_orders(wide, generator):
    A = torch.randn(2, 3, 3, dtype=wide, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(linalg.cayley_series, A) and torch.autograd.gradgradcheck(linalg.cayley_series, A)


@pytest.mark.parametrize("terms", [1, 0, -3, 2.0, True, None, "5"])
def test_a_wrong_number_of_terms_is_named(terms):
    for function, argument in ((linalg.cayley_series, torch.zeros(2, 2)), (linalg.cayley_series_defect, 0.1)):
        with pytest.raises(errors.OptionError, match="at least 2") as raised:
            function(argument, terms)
        assert len(str(raised.value)) <= 400
    with pytest.raises(errors.ShapeError, match="square"):
        linalg.cayley_series(torch.zeros(2, 3))


@pytest.mark.parametrize("theta", ["a", None, 1j, True, [1, None]])
def test_an_angle_is_a_real_number(theta):
    with pytest.raises(errors.DtypeError, match="real numbers"):
        linalg.cayley_series_defect(theta)
