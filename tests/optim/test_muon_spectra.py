"""Muon along gradients whose singular values are spread so widely that the sign takes some to neither 0 nor 1."""

import contextlib
import math

import pytest
import torch
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import linalg
from manifold_rnn.manifolds.steepest import steepest


def spread(shape, decades, dtype, generator):
    """A gradient whose singular values fall by so many decades; of a square one, those of its skew part."""
    n, p = shape
    s = torch.logspace(0, -decades, p, dtype=torch.float64)
    U, V = (linalg.qr(torch.randn(k, p, dtype=dtype, generator=generator))[0] for k in shape)
    if n > p:
        return U * s @ V.mH
    J = torch.zeros(n, n, dtype=torch.float64)
    for k in range(0, n - 1, 2):
        J[k, k + 1], J[k + 1, k] = s[k], -s[k]
    return U @ J.to(dtype) @ U.mH


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("angle", [0.02, 0.3, 1.0, 3.14159, 40.0, "tensor"])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (mr.Orthogonal, (6, 6)),
        (mr.Unitary, (6, 6)),
        (mr.SpecialUnitary, (6, 6)),
        (mr.Stiefel, (7, 5)),
        (mr.Stiefel, (12, 5)),
        (mr.Grassmann, (7, 5)),
        (mr.Grassmann, (12, 5)),
    ],
)
def test_a_step_ends_on_the_manifold_whatever_the_spread_of_singular_values(kind, shape, angle, fixed, generator):
    m = kind()
    angle = torch.tensor(1.0) if angle == "tensor" else angle
    for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        if m.is_complex not in (None, dtype.is_complex):
            continue
        double = torch.complex128 if dtype.is_complex else torch.float64
        steps = torch.arange(3.0, 17.0, 0.5)
        g = torch.stack([spread(shape, float(decades), double, generator) for decades in steps])
        x = m.random(len(steps), *shape, dtype=double, generator=generator)
        if shape[0] == shape[1]:
            g = x @ g
        x, g = m.polish(x.to(dtype)), g.to(dtype)
        with linalg.fixed_iterations() if fixed else contextlib.nullcontext():
            y = m.spectral_step(x, g, angle)
        assert float(m.defect(y.to(double)).max()) < atol(dtype)
        turned = torch.linalg.matrix_norm(y - x, 2)  # no plane rotates by more than the angle
        half = math.asin(abs(math.sin(0.5 * float(angle))))
        slack = 2 if kind is mr.SpecialUnitary else 1  # a rotation and a phase
        assert float(turned.max()) <= 2 * math.sin(min(slack * half, 0.5 * math.pi)) + 20 * atol(dtype)


def test_a_gradient_of_one_entry_after_a_small_one_ends_on_the_manifold():
    """Momentum leaves a singular value 3e-10 of the largest, which the sign takes to neither 0 nor 1."""
    for ratio in torch.logspace(-11, -8, 13, dtype=torch.float64).tolist():
        p = torch.nn.Parameter(torch.eye(4, dtype=torch.float64))
        p.manifold = mr.Stiefel()
        optimizer = mr.optim.RiemannianMuon([p], lr=1.0)
        first, second = torch.zeros(2, 4, 4, dtype=torch.float64)
        first[2, 3], second[0, 1] = ratio, 1.0
        for g in (first, second):
            p.grad = g
            optimizer.step()
            assert float(linalg.defect(p.detach())) < 1e-13


def test_a_small_singular_value_costs_none_of_the_gain(generator):
    m = mr.Stiefel()
    for shape in ((6, 6), (12, 5)):
        for decades in (8, 9, 10, 11):
            x = m.random(*shape, dtype=torch.float64, generator=generator)
            g = spread(shape, decades, x.dtype, generator)
            g = x @ g if shape == (6, 6) else g
            nuclear = torch.linalg.svdvals(0.5 * (g @ x.mH - x @ g.mH)).sum(-1)
            torch.testing.assert_close(steepest(x, g).gain[0, 0], nuclear, rtol=1e-8, atol=0)


def test_a_transformed_step_is_the_same(generator):
    m = mr.Stiefel()
    x = m.random(3, 6, 6, dtype=torch.float64, generator=generator)
    g = torch.stack([x[k] @ spread((6, 6), 5 + 6 * k, x.dtype, generator) for k in range(3)])
    each = torch.func.vmap(lambda x, g: m.spectral_step(x, g, 1.0))(x, g)
    torch.testing.assert_close(each, m.spectral_step(x, g, 1.0), rtol=0, atol=1e-8)
