"""Schur forms, damped skew matrices and mixtures: their definitions and their eigenvalues."""

import math

import pytest
import torch
from support.seeds import seeded
from support.structured_cases import COMPLEX, REAL, build, disturb, entry, layer

import manifold_rnn as mr
from manifold_rnn import linalg


def eigenvalues_of(module, n):
    """The promised spectrum of a real Schur form."""
    pairs = torch.polar(module.moduli[: n // 2].abs(), module.angles) * module.moduli[: n // 2].sgn()
    return torch.cat([pairs, pairs.conj(), module.moduli[n // 2 :].to(COMPLEX)]).detach()


@pytest.mark.parametrize("n", [2, 6, 7])
def test_the_schur_form_has_the_eigenvalues_of_its_parameters(n):
    module = build(mr.SchurForm(), n)
    W, expected = module().detach(), eigenvalues_of(module, n)
    found = torch.linalg.eigvals(W)
    distances = (found[:, None] - expected).abs()
    assert distances.amin(0).max() < 1e-9 and distances.amin(1).max() < 1e-9
    assert n == 2 or linalg.defect(W) > 0.1


def test_the_complex_schur_form_has_the_eigenvalues_of_its_parameters():
    module = build(mr.SchurForm(), 5, COMPLEX)
    expected = (module.moduli * torch.exp(1j * module.angles)).detach()
    distances = (torch.linalg.eigvals(module().detach())[:, None] - expected).abs()
    assert distances.amin(0).max() < 1e-9


@pytest.mark.parametrize("retraction", mr.retractions.names())
def test_without_triangle_and_with_moduli_one_the_schur_form_is_orthogonal(retraction):
    module = mr.SchurForm(retraction).trivialize(torch.empty(6, 6, dtype=REAL))
    with torch.no_grad():
        module.frame.coordinates.normal_(generator=seeded())
    assert linalg.defect(module().detach()) < 1e-12 and module.penalty() == 0


@pytest.mark.parametrize(("t", "moduli"), [(0.1, (0.985, 0.985)), (0.5, (1.20, 0.71)), (2.0, (1.67, 0.25))])
def test_the_released_mask_moves_eigenvalues_out_of_the_disc(t, moduli):
    module = mr.SchurForm(legacy_mask=True).trivialize(torch.empty(2, 2, dtype=REAL))
    with torch.no_grad():
        module.angles.fill_(0.3)
        module.triangle.fill_(t)
    found = torch.linalg.eigvals(module().detach()).abs().sort(descending=True).values
    torch.testing.assert_close(found, torch.tensor(moduli, dtype=REAL), atol=6e-3, rtol=0)
    assert module.penalty() == 0


def test_the_penalty_pulls_moduli_to_one():
    module = build(mr.SchurForm(), 6)
    module.penalty().backward()
    torch.testing.assert_close(module.moduli.grad, 2 * (module.moduli.detach() - 1))


def test_the_frame_takes_another_retraction():
    module = layer(mr.SchurForm("exp"))
    disturb(entry(module))
    W = module.weight.detach().clone()
    mr.set_retraction(module, "weight", "cayley")
    torch.testing.assert_close(module.weight.detach(), W, atol=1e-12, rtol=0)


def transition(module):
    """The step map of a damped rotation by its definition."""
    options, K = module.constraint, module.skew().detach()
    eye = torch.eye(len(K), dtype=K.dtype)
    M = options.step_size * (K - options.damping * eye)
    steps = {"euler": lambda: eye + M, "exp": lambda: torch.matrix_exp(M)}
    return steps.get(options.method, lambda: torch.linalg.solve(eye - M / 2, eye + M / 2))()


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
@pytest.mark.parametrize("method", ["euler", "exp", "cayley"])
@pytest.mark.parametrize("residual", [False, True])
def test_damped_steps_are_their_definitions(method, residual, dtype):
    g, eps = 0.3, 0.2
    module = build(mr.DampedSkew(g, eps, method, residual), 5, dtype)
    W, step, eye = module().detach(), transition(module), torch.eye(5, dtype=dtype)
    torch.testing.assert_close(eye + eps * W if residual else W, step, atol=1e-13, rtol=0)
    radius = torch.linalg.eigvals(step).abs().max()
    torch.testing.assert_close(module.radius(), radius, atol=1e-12, rtol=0)
    if method == "euler" and residual:
        torch.testing.assert_close(W, module.skew() - g * eye, atol=1e-13, rtol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("method", ["exp", "cayley"])
@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
def test_exact_and_cayley_steps_stay_inside_the_disc(method, scale, dtype):
    module = build(mr.DampedSkew(0.01, 0.1, method), 8, dtype)
    with torch.no_grad():
        module.coordinates.mul_(scale)
    assert torch.linalg.eigvals(module().detach()).abs().max() < 1
    assert torch.linalg.matrix_norm(module().detach(), 2) < 1
    assert module.stable() and module.radius() < 1
    assert module.manifold.defect(module().detach()) == 0


@pytest.mark.parametrize(("eps", "g", "bound"), [(0.01, 0.01, 1.41), (0.1, 0.15, 1.73)])
def test_eulers_steps_are_flagged_where_they_grow(eps, g, bound):
    for frequency, stable in ((0.99 * bound, True), (1.01 * bound, False)):
        K = torch.tensor([[0.0, -frequency], [frequency, 0.0]], dtype=REAL)
        module = mr.DampedSkew(g, eps, residual=True).trivialize(K)
        assert module.stable() is stable
        assert (torch.linalg.eigvals(transition(module)).abs().max() <= 1).item() is stable


def test_an_exponent_starts_from_the_nearest_rotation():
    like = torch.randn(4, 4, dtype=REAL, generator=seeded())
    W = mr.DampedSkew(0.1, 1.0, "exp").trivialize(like)().detach()
    torch.testing.assert_close(W, math.exp(-0.1) * mr.SpecialOrthogonal().projx(like), atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", ["exp", "cayley"])
@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
def test_a_half_turn_to_start_from_is_turned_a_little(method, dtype):
    like = torch.tensor([1.0, -1.0, -0.2, 0.3]).diag().to(dtype)
    W = mr.DampedSkew(0.1, 1.0, method).trivialize(like)().detach()
    assert W.isfinite().all() and torch.linalg.eigvals(W).abs().max() < 1


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
def test_a_mixture_is_its_definition(beta, dtype):
    module = build(mr.LipschitzMixture(beta, 0.1), 4, dtype)
    B = module.matrix.detach()
    M = beta * (B - B.mH) + (1 - beta) * (B + B.mH) - 0.1 * torch.eye(4, dtype=dtype)
    torch.testing.assert_close(module().detach(), M, atol=1e-14, rtol=0)


def test_only_a_skew_mixture_has_the_promised_real_parts():
    B = 0.1 / 32 * torch.randn(32, 32, dtype=REAL, generator=seeded())
    largest = []
    for beta in (1.0, 0.75):
        module = mr.LipschitzMixture(beta).trivialize(torch.zeros_like(B))
        with torch.no_grad():
            module.matrix.copy_(B)
        largest.append(torch.linalg.eigvals(module().detach()).real.max().item())
    assert largest[0] == pytest.approx(-0.001) and largest[1] > 0
