import math

import pytest
import torch

from manifold_rnn import linalg
from manifold_rnn.nn import init

FILLS = [getattr(init, name) for name in init.__all__]
BLOCKS = [fill for fill in FILLS if fill is not init.haar_]
SHAPES = [(1, 1), (6, 6), (7, 7), (0, 4, 4), (2, 3, 5, 5)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def angles(W):
    return torch.linalg.eigvals(W).angle().sort(-1).values


def paired(s, n):
    """Angles of 2 x 2 rotation blocks, the sign of each both ways, and 0 if n is odd."""
    rest = s.new_zeros(*s.shape[:-1], n % 2)
    return torch.remainder(torch.cat([s, -s, rest], -1) + math.pi, 2 * math.pi).sub(math.pi).sort(-1).values


def block_entries(A):
    return A.diagonal(1, -2, -1)[..., ::2]


@pytest.mark.parametrize("fill", FILLS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_fills_a_parameter_in_place_with_a_skew_hermitian_matrix(fill, shape, dtype):
    A = torch.nn.Parameter(torch.full(shape, torch.nan, dtype=dtype))
    assert fill(A, generator=seeded()) is A
    torch.testing.assert_close(A.mH, -A, atol=1e-5, rtol=0)
    assert A.requires_grad
    assert A.is_leaf


@pytest.mark.parametrize("fill", FILLS, ids=lambda f: f.__name__)
def test_draws_from_the_generator_and_from_nothing_else(fill):
    before = torch.get_rng_state()
    first, again, other = (fill(torch.empty(6, 6), generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fill", BLOCKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("n", [6, 7])
def test_only_the_blocks_are_filled(fill, n):
    A = fill(torch.empty(n, n), generator=seeded())
    blocks = torch.zeros(n, n, dtype=torch.bool)
    for i in range(0, n - 1, 2):
        blocks[i, i + 1] = blocks[i + 1, i] = True
    assert not A[~blocks].any()


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("largest", [math.pi / 2, 3.0])
def test_cayley_angles_come_out_of_the_cayley_transform(n, largest):
    A = init.cayley_(torch.empty(50, n, n, dtype=torch.float64), largest, generator=seeded())
    eye = torch.eye(n, dtype=torch.float64)
    W = torch.linalg.solve(eye + A, eye - A)
    t = 2 * torch.atan(block_entries(A))
    assert t.min() >= 0
    assert 0.9 * largest < t.max() <= largest
    torch.testing.assert_close(angles(W), paired(t, n), atol=1e-12, rtol=0)
    torch.testing.assert_close(linalg.cayley(-2 * A), W, atol=1e-12, rtol=0)


@pytest.mark.parametrize("fill", BLOCKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("n", [6, 7])
def test_exponentials_have_the_angles_of_the_blocks(fill, n):
    A = fill(torch.empty(50, n, n, dtype=torch.float64), generator=seeded())
    W = torch.matrix_exp(A)
    torch.testing.assert_close(angles(W), paired(block_entries(A), n), atol=1e-12, rtol=0)


def test_henaff_angles_cover_the_circle():
    s = block_entries(init.henaff_(torch.empty(2000, 2, 2), generator=seeded()))
    assert s.abs().max() <= math.pi
    assert s.min() < -3
    assert s.max() > 3
    assert abs(s.mean()) < 0.2


@pytest.mark.parametrize("bound", [math.pi, math.pi / 8])
def test_normal_angles_stay_below_the_bound(bound):
    s = block_entries(init.normal_diagonal_(torch.empty(2000, 2, 2), bound, generator=seeded()))
    assert s.min() >= 0
    assert 0.9 * bound < s.max() < bound


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_haar_rotations_have_the_moments_of_the_haar_measure(dtype):
    A = init.haar_(torch.empty(4000, 5, 5, dtype=dtype), generator=seeded())
    W = torch.matrix_exp(A)
    trace = W.diagonal(0, -2, -1).sum(-1)
    assert linalg.defect(W).max() < 1e-12
    assert torch.linalg.eigvals(A).abs().max() <= math.pi + 1e-12
    assert trace.mean().abs() < 0.06  # 0 and 1, with a standard error of about 0.016 and 0.022
    assert abs(trace.abs().square().mean() - 1) < 0.1
    if not dtype.is_complex:
        torch.testing.assert_close(torch.det(W), torch.ones(4000, dtype=dtype), atol=1e-12, rtol=0)


def test_haar_diagonal_has_the_spectrum_of_a_haar_rotation():
    W = torch.matrix_exp(init.haar_diagonal_(torch.empty(4000, 5, 5, dtype=torch.float64), generator=seeded()))
    trace = W.diagonal(0, -2, -1).sum(-1)
    assert trace.mean().abs() < 0.06
    assert abs(trace.square().mean() - 1) < 0.1
