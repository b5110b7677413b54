"""Rotations, reflections and the unitary product: the published ones, and what they reach."""

import math

import pytest
import torch
from support.seeds import seeded
from support.structured_cases import COMPLEX, REAL, build, layer

import manifold_rnn as mr
from manifold_rnn import errors, linalg


@pytest.mark.parametrize("n", [4, 5])
def test_the_unitary_product_is_the_published_one(n):
    module = build(mr.UnitaryProduct(), n, COMPLEX)
    j = torch.arange(n, dtype=REAL)
    F = torch.polar(torch.full((n, n), n**-0.5, dtype=REAL), -2 * math.pi * j[:, None] * j / n)
    eye = torch.eye(n, dtype=COMPLEX)
    D1, D2, D3 = (torch.exp(1j * theta).diag() for theta in module.phases)
    R1, R2 = (eye - 2 * torch.outer(v, v.conj()) / v.abs().square().sum() for v in module.reflections)
    P = eye[module.permutation]
    torch.testing.assert_close(module(), D3 @ R2 @ F.mH @ D2 @ P @ R1 @ F @ D1, atol=1e-12, rtol=0)


def test_the_permutation_comes_from_the_generator_and_is_saved():
    module = mr.UnitaryProduct().trivialize(torch.empty(16, 16, dtype=COMPLEX))
    module.reset(seeded(1))
    first = module.permutation.clone()
    module.reset(seeded(2))
    assert not torch.equal(first, module.permutation) and torch.equal(first.sort().values, torch.arange(16))
    assert "permutation" in module.state_dict()


def test_a_permutation_that_is_none_is_not_loaded():
    module = layer(mr.UnitaryProduct(), dtype=COMPLEX)
    state = module.state_dict()
    state["constraints.weight.permutation"] = torch.tensor([0, 1, 1, 3])
    with pytest.raises(errors.OffManifoldError, match="permutation"):
        module.load_state_dict(state)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
@pytest.mark.parametrize(("layout", "n"), [("tunable", 6), ("tunable", 5), ("fft", 8)])
def test_rotations_are_the_published_layers(layout, n, dtype):
    module = build(mr.Rotations(layout), n, dtype)
    theta = iter(module.angles.detach())
    phi = iter(torch.zeros(module.angles.shape) if module.phases is None else module.phases.detach())
    W = torch.eye(n, dtype=COMPLEX)
    layers = n if layout == "tunable" else int(math.log2(n))
    for k in range(layers):
        if layout == "tunable":
            pairs = [(a, a + 1) for a in range(k % 2, n - 1, 2)]
        else:
            pairs = [(a, a + 2**k) for a in range(n) if not a & 2**k]
        G = torch.eye(n, dtype=COMPLEX)
        for a, b in pairs:
            c, s, turn = (t := next(theta)).cos(), t.sin(), torch.exp(1j * next(phi))
            G[a, a], G[a, b], G[b, a], G[b, b] = c, -turn * s, s, turn * c
        W = G @ W
    W = W.real if module.last_phases is None else torch.exp(1j * module.last_phases.detach()).diag() @ W
    torch.testing.assert_close(module().detach(), W.to(dtype), atol=1e-13, rtol=0)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
def test_all_layers_reach_any_rotation(dtype):
    module = layer(mr.Rotations(), 4, dtype)
    group = mr.Unitary() if dtype.is_complex else mr.SpecialOrthogonal()
    goal = group.random(4, 4, dtype=dtype, generator=seeded(7))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (module.weight - goal).abs().square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(module.weight.detach(), goal, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
@pytest.mark.parametrize("m", [1, 3, 5])
def test_reflections_are_the_published_product(m, dtype):
    n = 5
    module = build(mr.Reflections(m), n, dtype)
    i, j = torch.tril_indices(n, m)
    U = torch.zeros(n, m, dtype=dtype).index_put((i, j), module.vectors.detach())
    eye = torch.eye(n, dtype=dtype)
    W = eye
    for k in range(m):
        u = U[:, k]
        W = W @ (eye - 2 * torch.outer(u, u.conj()) / u.abs().square().sum())
        if k == n - 1:
            W = W @ (eye - 2 * torch.outer(u, u.conj()) / u.abs().square().sum())  # twice is not at all
            W[:, -1] *= U[-1, -1].sgn()
    torch.testing.assert_close(module().detach(), W, atol=1e-13, rtol=0)
    if m < n and dtype == REAL:
        torch.testing.assert_close(torch.det(module().detach()), torch.tensor((-1.0) ** m, dtype=REAL))


def test_all_reflections_reach_both_determinants():
    dets = []
    for sign in (1, -1):
        module = build(mr.Reflections(), 5)
        with torch.no_grad():
            module.vectors[-1] = 0.3 * sign
        dets.append(torch.det(module().detach()).round().item())
    assert sorted(dets) == [-1, 1]


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_lengths_of_vectors_do_not_matter(scale):
    module = build(mr.Reflections(6), 16, torch.float32)
    W = module()
    with torch.no_grad():
        module.vectors.mul_(scale)
    torch.testing.assert_close(module(), W, atol=1e-6, rtol=0)
    module().sin().sum().backward()
    assert module.vectors.grad.isfinite().all()


def test_vectors_of_zeros_are_left_out():
    module = build(mr.Reflections(2), 4)
    with torch.no_grad():
        module.vectors.zero_()
    torch.testing.assert_close(module(), torch.eye(4, dtype=REAL))
    module().sum().backward()
    assert module.vectors.grad.isfinite().all()


@pytest.mark.parametrize("rank", [1, 3])
def test_dependent_vectors_cost_no_accuracy(rank):
    module = mr.Reflections().trivialize(torch.empty(128, 128))
    i, j = torch.tril_indices(128, 128)
    low = torch.randn(128, rank, generator=seeded()) @ torch.randn(rank, 128, generator=seeded(1))
    with torch.no_grad():
        module.vectors.copy_(low[i, j])
    assert linalg.defect(module().detach().double()) < 2e-6
