import math

import pytest
import torch
from support.seeds import seeded

from manifold_rnn import errors, linalg
from manifold_rnn.nn import init

FILLS = [getattr(init, name) for name in init.skew.__all__]
BLOCKS = [fill for fill in FILLS if fill is not init.haar_]
SHAPES = [(1, 1), (6, 6), (7, 7), (0, 4, 4), (2, 3, 5, 5)]


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


NONNORMAL = [init.chain_, init.feedback_chain_, init.ramp_, init.scaled_identity_, init.scaled_orthogonal_]


def test_every_fill_is_tested():
    assert {fill.__name__ for fill in (*FILLS, *NONNORMAL, init.source_, init.moments_)} == set(init.__all__)


@pytest.mark.parametrize("fill", NONNORMAL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
def test_fills_a_parameter_in_place_with_finite_numbers(fill, shape, dtype):
    W = torch.nn.Parameter(torch.full(shape, torch.nan, dtype=dtype))
    assert fill(W) is W
    assert W.isfinite().all()
    assert W.requires_grad
    assert W.is_leaf


def test_a_chain_leads_onwards_from_its_source():
    W, V = init.chain_(torch.empty(5, 5), 2.0), init.source_(torch.empty(5, 2))
    state = V[:, 1]
    for step in range(5):
        expected = torch.zeros(5)
        expected[min(step + 1, 4)] = 0.9 * 2.0**step if step < 4 else 0
        torch.testing.assert_close(state, expected)
        state = W @ state
    assert torch.equal(W.matrix_power(5), torch.zeros(5, 5))


def test_a_feedback_chain_has_its_two_bands_and_the_known_spectrum():
    W = init.feedback_chain_(torch.empty(6, 6, dtype=torch.float64), 0.9, 0.4)
    assert (W.diagonal(-1) == 0.9).all() and (W.diagonal(1) == 0.4).all() and W.count_nonzero() == 10
    k = torch.arange(1, 7, dtype=torch.float64)
    expected = 2 * math.sqrt(0.36) * torch.cos(math.pi * k / 7)
    torch.testing.assert_close(torch.linalg.eigvals(W).real.sort().values, expected.sort().values, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("gain", "total"), [(0.9, 2.434), (0.99, 4.391), (1.0, 5.187), (1.02, 7.606), (1.05, 12.087)])
def test_a_chain_has_the_published_memory_and_its_transpose_has_none(gain, total):
    n, W = 100, init.chain_(torch.empty(100, 100, dtype=torch.float64), gain)
    k = torch.arange(n, dtype=torch.float64)
    noise = torch.cumsum(gain ** (2 * k), 0)  # covariance of the states that noise of size 1 leaves, diagonal
    state, memory = init.source_(torch.empty(n, 1, dtype=torch.float64), 1.0)[:, 0], 0.0
    for _ in range(n):
        memory += (state.square() / noise).sum().item()
        state = W @ state
    assert memory == pytest.approx(total, abs=1e-3)
    assert 1 / noise[-1].item() < total / 10  # of the transpose, whose source is the noisiest unit and the last


def test_a_ramp_is_skew_and_linear():
    W = init.ramp_(torch.empty(5, 5), 0.01)
    torch.testing.assert_close(W, -W.T)
    torch.testing.assert_close(W[4], torch.tensor([0.01, 0.0075, 0.005, 0.0025, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_scaled_orthogonal_matrices_are_drawn_from_the_generator(dtype):
    first, again, other = (
        init.scaled_orthogonal_(torch.empty(6, 6, dtype=dtype), 0.5, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert linalg.defect(2 * first) < 1e-13
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("fill", [*FILLS, init.scaled_orthogonal_], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gets_rounded_numbers(fill, dtype):
    A = fill(torch.full((5, 5), torch.nan, dtype=dtype), generator=seeded())
    torch.testing.assert_close(A.double(), fill(torch.empty(5, 5), generator=seeded()).double(), atol=0.05, rtol=0.05)


WRONG = [
    *((name, torch.full(shape, 7.0), {}) for name in init.__all__ if name != "moments_" for shape in [(4,), ()]),
    *((fill.__name__, torch.full((2, 3), 7.0), {}) for fill in (*FILLS, *NONNORMAL)),
    *((name, torch.full((3, 3), 7), {}) for name in init.__all__ if name != "moments_"),
    *(
        (name, torch.full((3, 3), 7.0), {option: value})
        for name, options in {
            "cayley_": ("max_angle",),
            "normal_diagonal_": ("bound",),
            "chain_": ("gain",),
            "feedback_chain_": ("gain", "feedback"),
            "ramp_": ("size",),
            "scaled_identity_": ("gain",),
            "scaled_orthogonal_": ("gain",),
            "source_": ("gain",),
        }.items()
        for option in options
        for value in (math.nan, math.inf, 1e39, "x", None, True)
    ),
    ("cayley_", torch.full((3, 3), 7.0), {"max_angle": 4.0}),
    ("normal_diagonal_", torch.full((3, 3), 7.0), {"bound": 0.0}),
]


@pytest.mark.parametrize(("name", "A", "options"), WRONG, ids=str)
def test_what_cannot_be_filled_is_refused_by_name_and_kept(name, A, options):
    before = A.clone()
    with pytest.raises(errors.ManifoldError, match=name):
        getattr(init, name)(A, **options)
    assert torch.equal(A, before)
