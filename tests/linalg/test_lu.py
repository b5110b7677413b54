"""Batches of large matrices with several threads, for which torch's own LU factorization fails on some processors."""

import ast

import pytest
import torch
from support import ROOT
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import linalg
from manifold_rnn.linalg import lu

N, DTYPES = 160, [torch.float64, torch.complex64]
FAILING = {"inv", "inv_ex", "solve", "solve_ex", "det", "slogdet", "lu", "lu_factor", "lu_factor_ex", "lu_solve"}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def matrices(generator):
    def draw(dtype, *batch, requires_grad=False):
        A = torch.randn(*batch, N, N, dtype=dtype, generator=generator) / N**0.5 + 3 * torch.eye(N)
        return A.to(dtype).requires_grad_(requires_grad)

    return draw


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(2,), (2, 1, 2)])
def test_every_function_agrees_with_one_matrix_after_the_other(batch, dtype, threads, matrices):
    A, B = matrices(dtype, *batch), matrices(dtype, batch[-1])
    close = {"atol": 10 * atol(dtype), "rtol": 10 * atol(dtype)}
    eye = torch.eye(N, dtype=dtype).expand(A.shape)
    torch.testing.assert_close(A @ lu.inverse(A), eye, **close)
    torch.testing.assert_close(A @ lu.solve(A, B), B.expand(A.shape), **close)
    torch.testing.assert_close(lu.solve(A, B, left=False) @ A, B.expand(A.shape), **close)
    LU, pivots = lu.lu_factor(A)
    torch.testing.assert_close(A @ lu.lu_solve(LU, pivots, B), B.expand(A.shape), **close)
    torch.testing.assert_close(A.mH @ lu.lu_solve(LU, pivots, B, adjoint=True), B.expand(A.shape), **close)
    flat = A.reshape(-1, N, N)
    signs, logs = (torch.stack(parts) for parts in zip(*map(torch.linalg.slogdet, flat), strict=True))
    sign, log = lu.slogdet(A)
    torch.testing.assert_close(sign, signs.reshape(batch), **close)
    torch.testing.assert_close(log, logs.reshape(batch), **close)
    assert sign.shape == log.shape == batch and lu.inverse_ex(A)[1].shape == batch


def test_gradients_agree_with_one_matrix_after_the_other(threads, matrices):
    A, B = matrices(torch.float64, 2, requires_grad=True), matrices(torch.float64, 2, requires_grad=True)
    weights = matrices(torch.float64, 2)
    loss = ((lu.inverse(A) + lu.solve(A, B)) * weights).sum() + lu.slogdet(A)[1].sum()
    found = torch.autograd.grad(loss, (A, B))
    for k in range(2):
        a, b = A[k].detach().requires_grad_(), B[k].detach().requires_grad_()
        own = ((torch.linalg.inv(a) + torch.linalg.solve(a, b)) * weights[k]).sum() + torch.linalg.slogdet(a)[1]
        for g, h in zip(found, torch.autograd.grad(own, (a, b)), strict=True):
            torch.testing.assert_close(g[k], h)


def test_mapped_inverses_and_solutions_and_their_derivatives_agree_with_those_of_each_matrix(threads, matrices):
    A, B, along = (matrices(torch.float64, 2) for _ in range(3))

    def f(a, b):
        return (lu.inverse(a) * b).sum() + lu.solve(a, b).square().sum()

    def plain(a, b):
        return (torch.linalg.inv(a) * b).sum() + torch.linalg.solve(a, b).square().sum()

    def slopes(g, a, b, d):
        return torch.func.grad(g)(a, b), torch.func.jvp(lambda a: g(a, b), (a,), (d,))[1]

    found = torch.vmap(lambda a, b, d: slopes(f, a, b, d))(A, B, along)
    for k in range(2):
        for one, other in zip(found, slopes(plain, A[k], B[k], along[k]), strict=True):
            torch.testing.assert_close(one[k], other)
    twice = torch.vmap(torch.vmap(lu.inverse))(torch.stack([A, B]))
    torch.testing.assert_close(twice @ torch.stack([A, B]), torch.eye(N, dtype=A.dtype).expand(2, 2, N, N))


MAPPED = {
    "inverse": lambda A: lu.inverse(A),
    "inverse_ex": lambda A: lu.inverse_ex(A)[0],
    "solve": lambda A: lu.solve(A, A.mH),
    "slogdet": lambda A: lu.slogdet(A)[1],
    "SpecialOrthogonal": lambda A: mr.SpecialOrthogonal().projx(A.real),
    "SpecialUnitary": lambda A: mr.SpecialUnitary().retr(torch.eye(N, dtype=A.dtype), 0.1 * linalg.skew(A)),
    "spectral_radius": lambda A: torch.func.grad(linalg.spectral_radius)(A.real),
}


@pytest.mark.parametrize("name", MAPPED)
def test_inside_vmap_no_function_that_fails_sees_a_hidden_batch(name, threads, matrices, monkeypatch):
    hidden = []

    def spied(torch_function):
        def spy(A, *args, **options):
            hidden.append(torch._C._functorch.is_batchedtensor(A) or A.shape[:-2].numel() > 1)
            return torch_function(A, *args, **options)

        return spy

    for each in FAILING:
        monkeypatch.setattr(torch.linalg, each, spied(getattr(torch.linalg, each)))
    A = matrices(torch.complex64, 2)
    mapped = torch.vmap(MAPPED[name])(A)
    assert hidden and not any(hidden)
    monkeypatch.undo()
    torch.testing.assert_close(mapped, torch.stack([MAPPED[name](a) for a in A]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("double", [torch.float64, torch.complex128], ids=str)
def test_mapped_determinants_have_the_derivatives_of_each_matrix(double, threads, matrices):
    A, along = matrices(double, 2), matrices(double, 2)

    def slopes(slogdet, a, d):
        def f(a):
            sign, logarithm = slogdet(a)
            return ((sign * (2 - 1j)).real if a.is_complex() else sign) * logarithm

        return torch.func.grad(f)(a), torch.func.jvp(f, (a,), (d,))[1]

    found = torch.vmap(lambda a, d: slopes(lu.slogdet, a, d))(A, along)
    for k in range(2):
        for one, other in zip(found, slopes(torch.linalg.slogdet, A[k], along[k]), strict=True):
            torch.testing.assert_close(one[k], other)


@pytest.mark.parametrize("retraction", mr.retractions.names())
@pytest.mark.parametrize("manifold", [mr.SpecialOrthogonal, mr.SpecialUnitary, mr.Stiefel])
def test_long_steps_of_large_batches_stay_on_the_manifold(manifold, retraction, threads, generator):
    M = manifold(retraction)
    size = (3, 2 * N, N) if manifold is mr.Stiefel else (3, N, N)
    x = M.random(*size, dtype=torch.complex128 if M.is_complex else torch.float64, generator=generator)
    u = M.proju(x, torch.randn(size, dtype=x.dtype, generator=generator))
    assert float(M.defect(M.retr(x, u)).max()) < 1e-10


def test_nothing_else_calls_what_fails():
    nodes = (
        (path, node) for path in (ROOT / "manifold_rnn").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    )
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in nodes
        if isinstance(node, ast.Attribute) and node.attr in FAILING and ast.unparse(node.value) == "torch.linalg"
    ]
    alone = ("online/motifs.py", "moments/decomposition.py")  # one matrix at a time
    assert all("linalg/lu.py" in call or any(name in call for name in alone) for call in calls), calls
