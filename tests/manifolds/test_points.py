"""Random points are Haar, and other points that a manifold makes."""

import pytest
import torch
from support.manifold_cases import GROUPS, ids

from manifold_rnn import manifolds

N = 4000
COARSE = 5 / N**0.5  # five standard deviations of a mean of numbers of size 1


@pytest.fixture(params=GROUPS, ids=ids)
def case(request):
    return request.param


def sample(case, generator):
    return case.make("cayley").random((N, *case.shape), dtype=case.dtype, generator=generator)


def matrices(case, x):
    """The matrices of the group itself: complex ones for the real form."""
    return torch.complex(x[..., :2, :2], x[..., 2:, :2]) if case.name == "UnitaryRealForm" else x


def test_entries_have_the_second_and_fourth_moment_of_the_invariant_measure(case, generator):
    w = matrices(case, sample(case, generator))
    n = w.shape[-1]
    fourth = 2 / (n * (n + 1)) if w.is_complex() else 3 / (n * (n + 2))
    for power, moment in ((2, 1 / n), (4, fourth)):
        torch.testing.assert_close(w.abs().pow(power).mean(0), torch.full((n, n), moment).double(), atol=COARSE, rtol=0)
    torch.testing.assert_close(w.mean(0), torch.zeros_like(w[0]), atol=COARSE, rtol=0)


def test_the_trace_has_second_moment_one(case, generator):
    w = matrices(case, sample(case, generator))
    second = w.diagonal(dim1=-2, dim2=-1).sum(-1).abs().square().mean()
    torch.testing.assert_close(second, torch.ones((), dtype=torch.float64), atol=3 * COARSE, rtol=0)


def test_determinants(case, generator):
    w = matrices(case, sample(case, generator))
    det = torch.linalg.det(w)
    torch.testing.assert_close(det.abs(), torch.ones(N, dtype=torch.float64))
    mean = 1.0 if case.name.startswith("Special") else 0.0
    torch.testing.assert_close(det.mean(), torch.full((), mean, dtype=det.dtype), atol=COARSE, rtol=0)


def test_eigenangles_of_unitary_matrices_are_uniform(generator):
    for w in (
        manifolds.Unitary().random(N, 4, 4, dtype=torch.complex128, generator=generator),
        matrices(GROUPS[-1], manifolds.UnitaryRealForm().random(N, 4, 4, dtype=torch.float64, generator=generator)),
    ):
        angles = torch.linalg.eigvals(w).angle().flatten()
        counts = torch.histc(angles, 8, -torch.pi, torch.pi) / angles.numel()
        torch.testing.assert_close(counts, torch.full((8,), 1 / 8).double(), atol=COARSE / 4, rtol=0)


def test_multiplying_by_a_fixed_point_changes_no_statistic(case, generator):
    m, x = case.make("cayley"), sample(case, generator)
    y = m.random(case.shape, dtype=case.dtype, generator=generator) @ x
    for f in (lambda w: w[:, 0, 0].real, lambda w: (w[:, 0, 0] * w[:, 1, 1]).real, lambda w: w[:, 0, 1].real.pow(3)):
        torch.testing.assert_close(f(x).mean(), f(y).mean(), atol=2 * COARSE, rtol=0)


def test_the_generator_alone_decides(case):
    m = case.make("cayley")
    state = torch.get_rng_state()
    a, b = (m.random(2, 4, 4, dtype=case.dtype, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(a[0], a[1])
    torch.manual_seed(3)
    assert torch.equal(m.random((2, 4, 4), dtype=case.dtype), a)


def test_defaults_and_single_precision(case, generator):
    m = case.make("cayley")
    x = m.random(4, 4, generator=generator)
    assert x.dtype == (torch.complex64 if case.dtype.is_complex else torch.float32) and m.defect(x) < 1e-5
    assert m.random(0, 4, 4).shape == (0, 4, 4)
    assert torch.equal(m.origin(3, 4, 4), torch.eye(4, dtype=x.dtype).expand(3, 4, 4))
    assert m.origin(4, 4, dtype=case.dtype).dtype == case.dtype
