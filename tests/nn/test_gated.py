"""What holds for single gated cells: bounds of LSTM and GRU, the memory of NRU, the initialization of GORU."""

import pytest
import torch
from support.cell_cases import make, shaken
from support.seeds import seeded

import manifold_rnn as mr
from manifold_rnn.nn import GRU, LSTM, Layer
from manifold_rnn.nn.cells import GORU, NRU
from manifold_rnn.nn.cells.nru_heads import normalize_rows

WIDE = [torch.float64, torch.complex128]


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_every_output_of_lstm_and_gru_is_inside_the_unit_ball_whatever_the_input(kind, dtype):
    layer = kind(3, 5, dtype=dtype)
    y, _ = layer(1e6 * torch.randn(9, 2, 3, dtype=dtype, generator=seeded()))
    assert y.isfinite().all() and y.abs().max() < 1 + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, *WIDE], ids=str)
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e12])
def test_directions_have_norm_one_at_any_size_and_rows_of_zeros_stay(dtype, size):
    rows = size * torch.randn(3, 4, 16, dtype=dtype, generator=seeded())
    rows[0, 1] = 0
    rows.requires_grad_()
    directions = normalize_rows(rows)
    norms = torch.linalg.vector_norm(directions, 5, -1)
    assert norms[0, 1] == 0 and (norms[norms > 0] - 1).abs().max() < 10 * torch.finfo(dtype).eps
    (directions.abs() * torch.arange(16)).sum().backward()
    assert rows.grad.isfinite().all() and rows.grad[0, 1].abs().max() == 0
    radial = (rows.grad.conj() * rows.detach()).real.sum(-1)  # the length of a row changes nothing
    assert radial.abs().max() < 1e4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("rectify", [False, True])
def test_a_memory_without_strengths_stays_as_it_is(rectify):
    layer = shaken(make(NRU(9, 4, rectify=rectify), n=5))
    with torch.no_grad():
        layer.weight_hm_l0[:8] = 0
        layer.bias_hm_l0[:8] = 0
    start = torch.zeros(1, 2, 5, dtype=torch.float64), torch.randn(1, 2, 9, dtype=torch.float64)
    _, (_, c) = layer(torch.randn(6, 2, 3, dtype=torch.float64), start)
    assert torch.equal(c, start[1])


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_goru_starts_as_published_with_an_orthogonal_candidate(dtype):
    layer = Layer(GORU(), 3, 64, dtype=dtype)
    W, b = layer.weight_hh_l0.detach(), layer.bias_ih_l0.detach()
    assert mr.linalg.defect(W[128:]) < 1e-12 and 0.009 < W[:128].real.abs().max() <= 0.01
    assert (b[:64] == 2).all() and 0.1 < b[64:].abs().max() <= (3 / 64) ** 0.5 and (layer.bias_l0 == 0.01).all()
    assert b.dtype == layer.bias_l0.dtype == torch.float64


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("size", [1e10, 1e20, 1e30, 1e37])
def test_finite_inputs_of_an_nru_give_finite_outputs_and_gradients(size, dtype, rectify, backend):
    layer = Layer(NRU(memory_size=16, heads=4, rectify=rectify), 3, 8, dtype=dtype, backend=backend)
    y = layer(size * torch.randn(5, 2, 3, dtype=dtype, generator=seeded()))[0]
    y.real.sum().backward()
    assert bool(y.isfinite().all()) and all(bool(p.grad.isfinite().all()) for p in layer.parameters())
