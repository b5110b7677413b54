"""The unit disc and the sticky rule: beyond the disc, after it has been left, and started again."""

import pytest
import torch
from support import naive
from support.disc_cases import N, entry, plain, start
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors, linalg


def cell(constraint, n=N, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = nn.RNNCell(2, n, dtype=dtype)
    return mr.constrain(layer, "weight_hh", constraint, view="trivialized", **options)


@pytest.mark.parametrize("name", ["unit disc", "sticky", "sticky, complex"])
def test_beyond_the_disc_the_gradient_is_orthogonal_to_the_matrix(name, generator):
    for n in (2, 5, 12):
        constraint, x = start(name, n, generator)
        layer = plain(constraint, x)
        free = entry(layer)
        M = x + 2 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        free.coordinates.data.copy_(free.manifold.to_coordinates(x, M - free.base))
        g = torch.randn(M.shape, dtype=M.dtype, generator=generator)
        torch.testing.assert_close(linalg.spectral_radius(layer.weight).item(), 0.9, atol=1e-12, rtol=0)
        (layer.weight.conj() * g).real.sum().backward()
        grad = free.manifold._vector(M, free.coordinates.grad)
        assert (grad.conj() * M).real.sum().abs() < 1e-10


def sticky(generator, **options):
    layer = cell(mr.StickyDisc(1.0), init=lambda w: 0.5 * torch.eye(N, dtype=w.dtype))
    return layer, entry(layer), torch.optim.SGD(layer.parameters(), lr=1.0, **options)


def move(free, optimizer, scale):
    """One step after which ``M = scale * base``."""
    optimizer.zero_grad()
    free.coordinates.grad = free.coordinates.detach() - (scale - 1) * free.base
    optimizer.step()


def test_the_flag_goes_up_when_the_disc_is_left_and_stays_up(generator):
    layer, free, optimizer = sticky(generator)
    eye = torch.eye(N, dtype=torch.float64)
    for scale, active, value in ((1.5, False, 0.75), (0.5, False, 0.25), (4.0, True, 1.0), (0.5, True, 1.0)):
        move(free, optimizer, scale)
        assert bool(free.active) is active
        torch.testing.assert_close(layer.weight_hh.detach(), value * eye)
    again = cell(mr.StickyDisc(1.0))
    again.load_state_dict(layer.state_dict())
    assert bool(entry(again).active)
    torch.testing.assert_close(again.weight_hh.detach(), eye)


def test_a_forward_alone_remembers_nothing(generator):
    layer, free, _ = sticky(generator)
    free.coordinates.data.copy_(3 * free.base)
    assert linalg.spectral_radius(layer.weight_hh) <= 1 + 1e-12 and not bool(free.active)
    free.coordinates.data.zero_()
    torch.testing.assert_close(linalg.spectral_radius(layer.weight_hh).item(), 0.5)


def test_assigning_starts_again(generator):
    layer, free, optimizer = sticky(generator)
    move(free, optimizer, 4.0)
    half = 0.5 * torch.eye(N, dtype=torch.float64)
    layer.weight_hh = half
    torch.testing.assert_close(layer.weight_hh.detach(), half)
    assert not bool(free.active)


def test_each_matrix_of_a_batch_has_its_own_flag(generator):
    x = 0.5 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    layer = plain(mr.StickyDisc(), x)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    free = entry(layer)
    free.coordinates.grad = torch.stack([-3 * x[0], 0 * x[1]])
    optimizer.step()
    assert free.active.tolist() == [True, False]


def test_the_stateless_rule_lets_the_radius_shrink_again(generator):
    layer = cell(mr.UnitDisc(), init=lambda w: 0.5 * torch.eye(N, dtype=w.dtype))
    free = entry(layer)
    for scale, value in ((4.0, 1.0), (0.5, 0.25)):
        free.coordinates.data.copy_((scale - 1) * free.base)
        torch.testing.assert_close(linalg.spectral_radius(layer.weight_hh).item(), value)


def test_rebasing_a_weight_in_the_unit_disc_keeps_it(generator):
    layer = cell(mr.UnitDisc(), rebase_every=1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(30):
        optimizer.zero_grad()
        (layer(torch.ones(1, 2).double(), torch.ones(1, N).double()) - 1).square().sum().backward()
        optimizer.step()
        assert entry(layer).coordinates.abs().max() == 0
        assert naive.spectral_radius(layer.weight_hh) <= 1 + 1e-12


def test_sticky_refuses_a_rebase_and_another_retraction():
    layer = cell(mr.StickyDisc())
    with pytest.raises(errors.UnsupportedError, match="rebase_every=None"):
        entry(layer).rebase()
    with pytest.raises(errors.UnsupportedError, match="its own retraction"):
        mr.set_retraction(layer, "weight_hh", "qr")
    with pytest.raises(errors.UnsupportedError, match="structured"):
        cell(mr.StickyDisc(), rebase_every=2)
    with pytest.raises(errors.OptionError, match="positive"):
        mr.StickyDisc(0)
