"""Unit vectors at the ends of the range of numbers."""

import pytest
import torch
from support.tolerances import atol

from manifold_rnn.linalg.householder import unit

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def direction(dtype):
    return torch.tensor([0.6, -0.8j, 0.8 - 0.6j] if dtype.is_complex else [0.6, -0.8, 0.0], dtype=dtype)


def by_operations(v):
    """`unit` where a transform sees each operation."""
    return torch.func.vmap(unit)(v.unsqueeze(0))[0]


@pytest.mark.parametrize("function", [unit, by_operations])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_vector_of_any_length_has_the_direction_it_has_at_length_one(dtype, function):
    information = torch.finfo(dtype)
    expected = direction(dtype) / torch.linalg.vector_norm(direction(dtype))
    for scale in (information.tiny / 64, information.tiny, 1.0, information.max):
        # of a subnormal vector, as many digits are left as its entries have
        error = 64 * information.eps / min(1, scale / information.tiny)
        torch.testing.assert_close(function(direction(dtype) * scale), expected, rtol=0, atol=max(error, atol(dtype)))


@pytest.mark.parametrize("function", [unit, by_operations])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_smallest_and_the_largest_vectors_have_length_one_and_zero_stays_zero(dtype, function):
    information = torch.finfo(dtype)
    largest = torch.tensor(complex(1, -1) if dtype.is_complex else 1.0, dtype=dtype) * information.max
    for v in (largest, torch.tensor(information.smallest_normal * information.eps, dtype=dtype)):
        v = v.expand(4)
        assert abs(float(torch.linalg.vector_norm(function(v))) - 1) < atol(dtype)
    assert torch.equal(function(torch.zeros(4, dtype=dtype)), torch.zeros(4, dtype=dtype))
