"""Clipping and division onto closed sets: the bound holds up to rounding for entries of every size."""

import copy

import pytest
import torch
from support import naive
from support.manifold_cases import ALL, ids
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import linalg

SCALES = (1e-38, 1e-20, 0.1, 1.0, 1e2, 1e4, 1e10, 1e20, 1e37)
SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3)])
def test_parts_that_vanish_beside_others_make_no_nan(shape, generator):
    for exponent in torch.arange(36, 38.5, 0.25).tolist():
        x = 0.05 * torch.randn((20, *shape), dtype=torch.complex64, generator=generator) + 10.0**exponent
        y = linalg.clip_singular_values(x)
        assert float((torch.linalg.matrix_norm(y, 2) - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("shape", [(32, 32), (6, 3), (2, 3, 6)], ids=str)
@pytest.mark.parametrize("bound", [0.5, 1.0, 7.0])
def test_clipped_singular_values_are_those_of_double_precision(shape, bound, generator):
    for dtype in (torch.float32, torch.complex64):
        for scale in SCALES:
            x = (scale * torch.randn(shape, dtype=dtype, generator=generator)).requires_grad_()
            U, s, Vh = torch.linalg.svd(naive.wide(x.detach()), full_matrices=False)
            expected = (U * s.clamp(max=bound).unsqueeze(-2)) @ Vh
            y = linalg.clip_singular_values(x, bound)
            torch.testing.assert_close(naive.wide(y.detach()), expected, atol=2e-5 * bound, rtol=0)
            assert float(torch.linalg.matrix_norm(naive.wide(y.detach()), 2).max()) <= bound * (1 + 1e-5)
            (g,) = torch.autograd.grad(y.real.sum(), x)
            assert bool(g.isfinite().all())


@pytest.mark.parametrize("exponent", [-120, -100, -40, 40, 100, 120])
def test_clipping_scales_with_the_matrix_and_its_bound(exponent, dtype, generator):
    factor = 2.0**exponent
    for shape in ((3, 3), (5, 2), (2, 3, 4)):
        x, g = torch.randn(2, *shape, dtype=dtype, generator=generator)
        results = []
        for scale in (1.0, factor):
            scaled = (x * scale).requires_grad_()
            y = linalg.clip_singular_values(scaled, scale)
            inner = linalg.clip_singular_values(scaled, 100 * scale)
            assert torch.equal(inner, scaled)
            results.append([y / scale, *torch.autograd.grad(y, scaled, g)])
            ball = mr.Contraction(scale)
            assert float(ball.defect(ball.projx(scaled.detach())).max()) < 1e-5
        torch.testing.assert_close(*results, rtol=0, atol=20 * atol(dtype))


@pytest.mark.parametrize("bound", [1e50, float("inf")])
def test_a_bound_above_every_number_clips_nothing(bound):
    for x in (torch.full((3, 3), 3e38), torch.eye(2)):
        assert torch.equal(linalg.clip_singular_values(x, bound), x)


def test_what_is_inside_is_returned_as_it_is(generator):
    x = torch.randn(2, 4, 4, generator=generator)
    x[0] *= 0.2 / torch.linalg.matrix_norm(x[0], 2)
    y = linalg.clip_singular_values(x, 0.5)
    assert torch.equal(y[0], x[0]) and not torch.equal(y[1], x[1])


@pytest.mark.parametrize("case", [c for c in ALL if c.solid and c.name != "Euclidean"], ids=ids)
def test_projections_of_regions_obey_their_bound_up_to_the_largest_number(case, generator):
    manifold = case.make("straight")
    for scale in (*SCALES, 1e38):
        x = torch.randn(case.shape, dtype=SINGLE[case.dtype], generator=generator)
        x = scale * x / x.abs().clamp(min=1)
        y = manifold.projx(x)
        assert bool(y.isfinite().all()) and float(manifold.defect(naive.wide(y))) < 1e-5, scale
        if scale > 1:
            assert bool(y.any())


@pytest.mark.parametrize("view", ["update", "trivialized"])
@pytest.mark.parametrize("rate", [0.1, 10.0, 1e6])
@pytest.mark.parametrize("constraint", [mr.Contraction(), mr.UnitDisc(), mr.StickyDisc(), mr.SchurDisc()], ids=str)
def test_a_trained_weight_can_be_loaded_again(constraint, view, rate, generator):
    if view == "update" and not isinstance(constraint, mr.manifolds.Manifold):
        pytest.skip("it has no update view")

    def made():
        return mr.constrain(torch.nn.Linear(16, 16, bias=False), "weight", constraint, view=view)

    layer, x = made(), 10 * torch.randn(64, 16, generator=generator)
    optimizer = (mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD)(layer.parameters(), lr=rate)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(x) - 10 * x).square().sum(-1).mean().backward()
        if all(p.grad.isfinite().all() for p in layer.parameters()):
            optimizer.step()
    again = made()
    again.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert torch.equal(again.weight, layer.weight)
    assert bool(again.weight.isfinite().all())


def test_a_jordan_block_is_brought_into_the_disc_in_both_views():
    J = 0.9 * torch.eye(20, dtype=torch.float64) + torch.ones(19, dtype=torch.float64).diag(-1)
    for view in ("update", "trivialized"):
        layer = torch.nn.Linear(20, 20, bias=False, dtype=torch.float64)
        mr.constrain(layer, "weight", mr.UnitDisc(0.5), view=view, init=lambda _: J)
        assert float(layer.weight.detach().diagonal().max()) <= 0.5 + 1e-12
