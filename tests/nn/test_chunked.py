"""Blocks of time at the edges of their numbers: decays that underflow, and half precision."""

import pytest
import torch
from support.cell_cases import make
from support.scan_cases import choice
from support.seeds import seeded
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn.errors import UnsupportedError
from manifold_rnn.linalg.householder import unit
from manifold_rnn.nn import Layer
from manifold_rnn.nn.cells import DeltaProduct, HouseholderProduct, Rotating, rotating
from manifold_rnn.nn.cells.delta_blocks import Rules, delta_in_blocks

MEMORY = [(9, 2, 1, 4), (9, 2, 1, 1, 4), (9, 2, 1, 1, 4), (9, 2, 1, 1), (9, 2, 1)]  # (T, B, ...), as for Rules


@pytest.mark.parametrize("steps", [9, 3])
@pytest.mark.parametrize("size", [1e4, 1e17, 1e30, torch.inf])
def test_a_memory_that_decays_to_zero_keeps_what_it_reads_afterwards(size, steps):
    generator = seeded()
    q, K, V, beta, decay = (torch.randn(*s, dtype=torch.float64, generator=generator) for s in MEMORY)
    H = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=generator)
    q, K, decay = unit(q), unit(K), -decay.abs()
    decay[3] = -size
    expected, held = [], H
    for t in range(len(q)):
        held = held * decay[t].exp()[..., None, None]
        k, v = K[t, :, :, 0], V[t, :, :, 0]
        change = v - (k.unsqueeze(-2) @ held).squeeze(-2)
        held = held + (beta[t] * k).unsqueeze(-1) * change.unsqueeze(-2)
        expected.append((q[t].unsqueeze(-2) @ held).squeeze(-2))
    decay.requires_grad_()
    y, last = delta_in_blocks(Rules(*(z.unflatten(0, (-1, steps)).transpose(1, 2) for z in (q, K, V, beta, decay))), H)
    torch.testing.assert_close(y, torch.stack(expected))
    torch.testing.assert_close(last, held)
    (slope,) = torch.autograd.grad(y.sum(), decay)
    assert slope.isfinite().all() and (slope[3] == 0).all() and (slope[4] != 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", [HouseholderProduct(), DeltaProduct(decay=True), Rotating()], ids=repr)
def test_half_precision_runs_the_loop(cell, dtype, caplog):
    layer, x = Layer(cell, 3, 4, dtype=dtype), torch.randn(9, 2, 3).to(dtype)
    assert choice(layer, x, caplog).startswith("reference scan")
    layer(x)[0].square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    layer.backend = "chunked"
    with pytest.raises(UnsupportedError, match="half precision"):
        layer(x)
    bound = cell.bind(layer.weights("_l0"))
    with pytest.raises(UnsupportedError, match="half precision"):
        mr.nn.scan.chunked(bound, x, bound.initial_state(2))


@pytest.mark.parametrize("T", [1, 5, 6, 7, 13])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_rotations_that_are_summed_in_parts_of_time_equal_the_loop(dtype, T, monkeypatch):
    layer = make(Rotating(), n=5, dtype=dtype)
    monkeypatch.setattr(rotating, "PART_BYTES", 6 * 2 * 5 * dtype.itemsize)  # six steps of two sequences
    x, results = torch.randn(T, 2, 3, dtype=torch.float64, generator=seeded()), []
    for layer.backend in ("chunked", "reference"):
        leaves = [x.clone().requires_grad_(), torch.ones(1, 2, 5, dtype=dtype).requires_grad_()]
        y, h = layer(*leaves)
        loss = (y * torch.arange(1, T + 1)[:, None, None]).abs().square().sum() + h.abs().sum()
        results.append([y, h, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])])
    for ours, true in zip(*results, strict=True):
        torch.testing.assert_close(ours, true, rtol=0, atol=atol(dtype) * max(1, float(true.detach().abs().max())))


def test_a_part_has_four_steps_or_more(monkeypatch):
    monkeypatch.setattr(rotating, "PART_BYTES", 1)
    cell, lengths = Rotating(), []
    cell = cell.bind(make(cell).weights("_l0"))
    monkeypatch.setattr(Rotating, "_rotate_part", lambda self, x, state: (lengths.append(len(x)), (x, state))[1])
    mr.nn.scan.chunked(cell, torch.randn(9, 2, 3), cell.initial_state(2))
    assert lengths == [4, 4, 1]
