"""Norms of resolvents of triangular matrices, against dense singular values, at every scale."""

import pytest
import scipy.linalg
import torch

from manifold_rnn.linalg.resolvent import inverse_pivots, smallest_singular_values, solve_shifted


def schur(W):
    return torch.from_numpy(scipy.linalg.schur(W.numpy(), output="complex")[0]).to(torch.complex128)


def chain(n, forward, backward=0.0):
    ones = torch.ones(n - 1, dtype=torch.float64)
    return forward * ones.diag(-1) + backward * ones.diag(1)


def matrices(n, generator):
    W = torch.randn(n, n, dtype=torch.float64, generator=generator) / n**0.5
    yield "random", W
    yield "complex", torch.randn(n, n, dtype=torch.complex128, generator=generator) / n**0.5
    yield "orthogonal", torch.linalg.qr(W).Q
    yield "nearly orthogonal", torch.linalg.qr(W.float()).Q.double()
    yield "chain", chain(n, 1.0)
    yield "feedback chain", chain(n, 0.99, 0.01)
    yield "Jordan block", 0.5 * torch.eye(n, dtype=torch.float64) + chain(n, 1.0).mT
    yield "identity", torch.eye(n, dtype=torch.float64)
    yield "zero", torch.zeros(n, n, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-280, 1.0, 1e280])
@pytest.mark.parametrize("n", [1, 2, 5, 40, 70])
def test_smallest_singular_values_are_the_dense_ones(n, scale, generator):
    side = torch.linspace(-1.6, 1.6, 9, dtype=torch.float64)
    z = torch.complex(*torch.meshgrid(side, side, indexing="xy"))
    for name, W in matrices(n, generator):
        T = schur(W)
        expected = torch.linalg.svdvals(z[..., None, None] * torch.eye(n, dtype=T.dtype) - T)[..., -1]
        sound = expected > 1e-13 * (1 + torch.linalg.matrix_norm(T))  # below it the dense ones are rounding errors
        for tol, allowed in ((1e-3, 2e-2), (1e-9, 1e-8)):
            got = smallest_singular_values(scale * T, scale * z, tol=tol) / scale
            assert got.shape == z.shape and bool(got.isfinite().all()), name
            torch.testing.assert_close(got[sound], expected[sound], atol=1e-13, rtol=allowed)
            assert bool((got[~sound] < 1e-11 * (1 + torch.linalg.matrix_norm(T))).all()), name


def test_what_has_not_converged_is_computed_directly(monkeypatch, generator):
    monkeypatch.setattr("manifold_rnn.linalg.resolvent._CHECKS", (1, 2))
    T = schur(torch.randn(20, 20, dtype=torch.float64, generator=generator))
    z = torch.randn(6, dtype=torch.complex128, generator=generator)
    expected = torch.linalg.svdvals(z[:, None, None] * torch.eye(20) - T)[:, -1]
    torch.testing.assert_close(smallest_singular_values(T, z, tol=1e-9), expected, atol=1e-12, rtol=1e-10)
    bound = smallest_singular_values(T, z, tol=1e-9, direct=False)
    assert bool((bound >= expected * (1 - 1e-12)).all()) and not torch.allclose(bound, expected)


def test_values_lost_to_rounding_are_at_the_floor():
    T = chain(300, 1.0).mT.to(torch.complex128)
    z = torch.tensor([0.0, 0.01, 0.3 + 0.1j], dtype=torch.complex128)  # whose resolvents have norms up to 1e600
    floor = 2**-52 * torch.linalg.matrix_norm(T)
    torch.testing.assert_close(smallest_singular_values(T, z), floor.expand(3))


@pytest.mark.parametrize("n", [1, 31, 33, 100])
def test_shifted_systems_are_solved_for_all_shifts(n, generator):
    T = torch.randn(n, n, dtype=torch.complex128, generator=generator).triu() / n + torch.eye(n)
    z, b = (torch.randn(*shape, dtype=torch.complex128, generator=generator) for shape in ((7,), (n, 7)))
    x = solve_shifted(T, inverse_pivots(T, z, torch.tensor(1e-16).double()), b.clone())
    for k in range(7):
        torch.testing.assert_close(z[k] * x[:, k] - T @ x[:, k], b[:, k], atol=1e-11, rtol=1e-11)


def test_the_global_random_numbers_are_not_used(generator):
    before = torch.random.get_rng_state()
    T = schur(torch.randn(9, 9, dtype=torch.float64, generator=generator))
    z = torch.randn(5, dtype=torch.complex128, generator=generator)
    assert torch.equal(smallest_singular_values(T, z), smallest_singular_values(T, z))
    assert torch.equal(before, torch.random.get_rng_state())
