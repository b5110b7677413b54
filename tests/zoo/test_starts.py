"""How each published network starts: its spectrum and the sizes of its entries."""

import math

import pytest
import torch
from support.seeds import seeded
from support.zoo_cases import WIDE, signs

import manifold_rnn as mr
from manifold_rnn.nn import init
from manifold_rnn.zoo import enrnn, exprnn, full_urnn, scornn, scurnn


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("negatives", [0, 1, 3, 6])
@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_scornn_starts_in_its_component_with_the_published_spectrum(n, negatives, view):
    network = scornn(1, n, 10, negatives=negatives, view=view, dtype=WIDE, generator=seeded())
    W = network.layer.weight_hh_l0.detach()
    torch.testing.assert_close(torch.det(W), torch.tensor((-1.0) ** negatives, dtype=WIDE), atol=1e-12, rtol=0)
    A, eye = init.cayley_(torch.empty(n, n, dtype=WIDE), generator=seeded()), torch.eye(n, dtype=WIDE)
    Z = torch.linalg.solve(eye + A, eye - A)
    torch.testing.assert_close(W, Z * signs(n, negatives), atol=1e-12, rtol=0)
    t = 2 * torch.atan(A.diagonal(1)[::2])
    angles = torch.cat([t, -t, t.new_zeros(n % 2)]).sort().values
    torch.testing.assert_close(torch.linalg.eigvals(Z).angle().sort().values, angles, atol=1e-12, rtol=0)


@pytest.mark.parametrize("fill", [init.cayley_, init.henaff_, init.normal_diagonal_])
@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_exprnn_starts_as_the_exponential_of_its_initialiser(fill, view):
    network = exprnn(1, 7, 10, angles=fill, view=view, dtype=WIDE, generator=seeded())
    W = network.layer.weight_hh_l0.detach()
    A = fill(torch.empty(7, 7, dtype=WIDE), generator=seeded())
    torch.testing.assert_close(W, torch.matrix_exp(A), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.det(W), torch.ones((), dtype=WIDE), atol=1e-12, rtol=0)


def test_scornn_starts_as_published():
    network = scornn(3, 8, 10)
    assert network.layer.weight_ih_l0.abs().max() <= 0.01
    assert not network.layer.bias_l0.any()
    assert not network.readout.bias.any()
    assert network.readout.weight.abs().max() <= math.sqrt(6 / 18)
    assert torch.det(network.layer.weight_hh_l0).round() == 1  # n // 2 = 4 negatives


def test_exprnn_starts_as_published():
    network = exprnn(2, 500, 10)
    W = network.layer.weight_ih_l0
    assert abs(W.std() - 1) < 0.1  # sqrt(2 / inputs)
    assert 0 < network.layer.bias_l0.abs().max() <= 0.01


def test_scurnn_starts_as_published():
    network = scurnn(3, 64, 10, dtype=WIDE, generator=seeded())
    entry, layer = network.layer.constraints["weight_hh_l0"], network.layer
    Z = entry.manifold.retr_coordinates(entry.base, entry.coordinates).detach()
    angles = torch.linalg.eigvals(Z).angle()
    assert angles.abs().max() <= torch.pi / 2 and not Z.imag.any()
    assert entry.phases.min() >= 0 and entry.phases.max() > 5 and entry.phases.max() <= 2 * torch.pi
    bound = math.sqrt(6 / (3 + 128))
    for part in (layer.weight_ih_l0.real, layer.weight_ih_l0.imag):
        assert 0.8 * bound < part.abs().max() <= bound
    assert 0 < torch.view_as_real(layer.initial_state_l0.detach()).abs().max() <= 0.01
    assert mr.linalg.defect(layer.weight_hh_l0) < 1e-12


def test_full_urnn_starts_as_published():
    network = full_urnn(3, 64, 10, dtype=WIDE, generator=seeded())
    layer = network.layer
    assert mr.linalg.defect(layer.weight_hh_l0) < 1e-12 and layer.weight_hh_l0.dtype == torch.complex128
    start = torch.view_as_real(layer.initial_state_l0.detach())
    assert start.abs().max() <= math.sqrt(3 / 128) and abs(start.square().sum() - 1) < 0.3
    assert torch.linalg.eigvals(layer.weight_hh_l0.detach()).angle().std() > 1.4  # all around the circle


@pytest.mark.parametrize(("n", "short"), [(9, 4), (9, 3), (6, 1)])
def test_enrnn_starts_with_the_published_spectrum_and_a_triangle(n, short):
    network = enrnn(2, n, 3, short_size=short, negatives=1, dtype=WIDE, generator=seeded())
    W, long = network.layer.weight_hh_l0.detach(), n - short
    assert not W[long:, :long].any() and W[:long, long:].any()
    torch.testing.assert_close(torch.det(W[:long, :long]), -torch.ones((), dtype=WIDE), atol=1e-12, rtol=0)
    M = W[long:, long:]
    assert mr.linalg.spectral_radius(M) < 1
    # a product of a Cayley transform in 2 x 2 blocks with one number a block: M M^T is diagonal with equal pairs
    gram = M @ M.T
    torch.testing.assert_close(gram, gram.diagonal().diag(), atol=1e-14, rtol=0)
    pairs = gram.diagonal()[: 2 * (short // 2)]
    torch.testing.assert_close(pairs[::2], pairs[1::2])
    assert not network.layer.constraints["weight_hh_l0"].members.bottom.active
