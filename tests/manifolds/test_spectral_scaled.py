"""Scaling by the radius or the norm: the limit from bad starts, in both views, and what the class does not promise."""

import pytest
import torch
from support import naive
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn import linalg

MEASURES = {"radius": naive.spectral_radius, "norm": lambda x: torch.linalg.svdvals(x).amax(-1)}


def bad_starts(dtype):
    """Matrices at which an iteration from one vector fails: complex pairs, equal moduli, huge and tiny, defective."""
    c, s = torch.tensor(0.3).cos(), torch.tensor(0.3).sin()
    rotation = torch.tensor([[c, -s], [s, c]])
    rows = [
        torch.block_diag(3 * rotation, -3 * rotation),
        torch.diag(torch.tensor([0.0, 0.0, 0.0, 7.0])),
        torch.diag(torch.tensor([5.0, -5.0, 5.0, -5.0])),
        3 * torch.eye(4).roll(1, 0),
        torch.full((4, 4), 1e30),
        torch.tensor([[1e-20, 1e20, 0, 0], [0, 2.0, 0, 0], [0, 0, -2.0, 0], [0, 0, 0, 1.0]]),
        torch.zeros(4, 4),
    ]
    return torch.stack(rows).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("limit", [0.5, 1.0, 20.0])
def test_the_limit_holds_from_any_start(measure, limit, dtype):
    x = bad_starts(dtype)
    y = mr.SpectralScaled(measure, limit).projx(x)
    measured = MEASURES[measure](y.to(torch.complex128))
    assert bool((measured <= limit * (1 + atol(dtype))).all())
    for before, after in zip(x, y, strict=True):  # a multiple of what it was, and the same where it was inside
        if MEASURES[measure](before.to(torch.complex128)) <= limit:
            assert torch.equal(before, after)
        else:
            factor = MEASURES[measure](before.to(torch.complex128)) / limit
            torch.testing.assert_close(after.abs().double() * factor, before.abs().double(), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(
    "kind", [lambda: mr.SpectralScaled("norm"), mr.Contraction], ids=["SpectralScaled", "Contraction"]
)
@pytest.mark.parametrize("largest", [3.0, 1.7e38])
@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (4, 4)])
def test_parts_that_vanish_beside_others_do_not_hide_a_norm(shape, largest, kind, generator):
    x = torch.randn(50, *shape, dtype=torch.complex64, generator=generator)
    vanishing = torch.rand(50, 1, shape[1], generator=generator) < 0.5
    x = torch.where(vanishing, 1e-39 * x, x / x.abs().amax() * largest / 2)
    x[:, 0, 0] = largest
    y = kind().projx(x)
    assert bool((naive.wide(y).norm(dim=(-2, -1)) > 0.5).all())
    torch.testing.assert_close(torch.linalg.svdvals(naive.wide(y)).amax(-1), torch.ones(50).double(), atol=1e-5, rtol=0)
    assert bool((kind().defect(y) < 1e-5).all())  # NaN is not
    torch.testing.assert_close(kind().defect(3 * y), torch.full((50,), 2.0), atol=1e-4, rtol=0)


def test_the_division_is_the_one_of_the_unit_disc(generator):
    x = torch.randn(3, 5, 5, dtype=torch.float64, generator=generator)
    assert torch.equal(mr.SpectralScaled(limit=0.9).projx(x), mr.UnitDisc(0.9).projx(x))


def test_the_norm_scales_the_whole_matrix_where_the_projection_clips():
    x = torch.diag(torch.tensor([4.0, 0.5], dtype=torch.float64))
    scaled, clipped = mr.SpectralScaled("norm").projx(x), mr.Contraction().projx(x)
    torch.testing.assert_close(scaled.diagonal(), torch.tensor([1.0, 0.125], dtype=torch.float64))
    torch.testing.assert_close(clipped.diagonal(), torch.tensor([1.0, 0.5], dtype=torch.float64))


def test_a_radius_of_one_does_not_bound_powers():
    x = mr.SpectralScaled().projx(torch.tensor([[0.5, 10.0], [0.0, 0.4]], dtype=torch.float64))
    assert linalg.spectral_radius(x) < 1 and torch.linalg.matrix_norm(x, 2) > 10


@pytest.mark.parametrize("measure", MEASURES)
def test_the_update_view_is_a_plain_step_and_then_the_scaling(measure, generator):
    layer = nn.RNN(3, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    constraint = mr.SpectralScaled(measure)
    mr.constrain(layer, "weight_hh_l0", constraint)
    by_hand = nn.RNN(3, 6, dtype=torch.float64)
    by_hand.load_state_dict({key: value.detach().clone() for key, value in layer.state_dict().items()})
    optimizers = mr.optim.RiemannianAdam(layer.parameters(), lr=0.05), torch.optim.Adam(by_hand.parameters(), lr=0.05)
    x, scaled = torch.randn(5, 4, 3, dtype=torch.float64, generator=generator), 0
    for _ in range(8):
        for module, optimizer in zip((layer, by_hand), optimizers, strict=True):
            optimizer.zero_grad()
            (module(x)[0] - 2).square().sum().backward()
            optimizer.step()
        with torch.no_grad():
            W = by_hand.weight_hh_l0
            size = MEASURES[measure](W).clamp(min=1)
            W /= size
        scaled += int(size > 1)
        torch.testing.assert_close(layer.weight_hh_l0, W, rtol=1e-9, atol=1e-11)
    assert scaled


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("measure", MEASURES)
def test_the_trivialized_gradient_beyond_the_limit_is_orthogonal_to_the_matrix(measure, dtype, generator):
    V = 3 * torch.randn(5, 5, dtype=dtype, generator=generator)
    V.requires_grad_()
    g = torch.randn(5, 5, dtype=dtype, generator=generator)
    W = mr.SpectralScaled(measure).projx(V)
    (slope,) = torch.autograd.grad((W.conj() * g).real.sum(), V)
    assert (slope.conj() * V.detach()).real.sum().abs() < 1e-10
    assert torch.autograd.gradcheck(mr.SpectralScaled(measure).projx, V)


@pytest.mark.parametrize("view", ["update", "trivialized"])
@pytest.mark.parametrize("measure", MEASURES)
def test_gates_of_a_layer_are_scaled_one_by_one(measure, view):
    torch.manual_seed(0)
    lstm = mr.nn.LSTM(2, 4, constraint=mr.SpectralScaled(measure, 0.1), view=view)
    blocks = lstm.weight_hh_l0.detach().double().split(4)
    assert all(MEASURES[measure](block) <= 0.1 + 1e-6 for block in blocks)
