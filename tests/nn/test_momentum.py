"""Momentum around any cell: what it adds to its host, and what it leaves alone."""

import math

import pytest
import torch
from support.cell_cases import make, parts
from torch import nn

import manifold_rnn as mr
from manifold_rnn.nn import Layer, cells
from manifold_rnn.nn.cells import GRU, LEM, LRU, LSTM, SBO, CoRNN, Elman, Euler, Lipschitz, Momentum

KINDS = ["momentum", "adam", "rmsprop", "restart"]
HOSTS = [Elman(), Elman("modrelu"), LSTM(), GRU(), LEM(), CoRNN(), Euler(gated=True), Lipschitz(), SBO(), LRU()]


def test_momentum_around_momentum_runs_step_by_step():
    cell = Momentum(Momentum(Elman("tanh"), momentum=0.3), momentum=0.5)
    quick, slow = make(cell), make(cell, backend="reference")
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    (y, h), (z, k) = quick(x), slow(x)
    assert len(h) == len(k) == 3
    torch.testing.assert_close((y, *h), (z, *k), atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("host", HOSTS, ids=repr)
@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"kind": "restart", "period": 1}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_without_momentum_it_is_its_host_bit_for_bit(host, options, dtype):
    plain, wrapped = make(host, dtype=dtype), make(Momentum(host, scale=1.0, **options), dtype=dtype)
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    assert wrapped.cell.gates == plain.cell.gates
    wrapped.load_state_dict(plain.state_dict())
    x = torch.randn(9, 2, 3)
    plain.backend = wrapped.backend = "reference"  # a faster way may round otherwise
    y, h = plain(x)
    z, k = wrapped(x)
    assert torch.equal(y, z)
    assert all(torch.equal(*pair) for pair in zip(parts(h), parts(k), strict=False))


@pytest.mark.parametrize("host", [Elman(), LSTM(), GRU(), LEM()], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_the_recurrent_bias_gathers_no_momentum(host, kind, wide):
    plain, wrapped = make(host, dtype=wide), make(Momentum(host, kind, scale=3.0), dtype=wide)
    for layer in (plain, wrapped):
        with torch.no_grad():
            layer.bias_ih_l0.zero_()
    x = torch.zeros(6, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(wrapped(x)[0], plain(x)[0], atol=1e-7, rtol=0)  # adam divides roundings by 1e-4


def drives(kind, g, **options):
    """What the host is given in the place of ``g``, (T, n)."""
    n = g.shape[-1]
    cell = Momentum(Elman(lambda z: z, bias=False), kind, **options).bind({"weight_ih": torch.eye(n, dtype=g.dtype)})
    y, _ = mr.nn.scan.reference(cell, g.unsqueeze(1), cell.initial_state(1), torch.zeros(n, n, dtype=g.dtype))
    return y.squeeze(1)


@pytest.mark.parametrize(("mu", "s"), [(0.6, 0.6), (0.6, 1.0), (0.3, 0.1)])
def test_a_constant_input_is_amplified(mu, s, wide):
    g = torch.randn(3, dtype=wide)
    out = drives("momentum", g.expand(200, 3), momentum=mu, scale=s)[-1]
    torch.testing.assert_close(out, s / (1 - mu) * g, atol=1e-14, rtol=1e-12)


def test_adam_and_rmsprop_divide_by_the_mean_square(wide):
    g = torch.randn(7, 3, dtype=wide)
    for kind, mu in (("adam", 0.4), ("rmsprop", 0.0)):
        results = drives(kind, g, momentum=0.4, scale=0.5, decay=0.7, eps=1e-6)
        v, m = torch.zeros(3, dtype=wide), torch.zeros(3, dtype=torch.float64)
        for g_t, out in zip(g, results, strict=True):
            v, m = mu * v + 0.5 * g_t, 0.7 * m + 0.3 * g_t.abs() ** 2
            torch.testing.assert_close(out, v / (m + 1e-6).sqrt(), atol=1e-14, rtol=1e-13)
    first = drives("adam", g, scale=0.1, decay=0.999)[0]
    torch.testing.assert_close(first, math.sqrt(10) * g[0].sgn(), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("period", "coefficients"), [(1, [0]), (2, [0, 1 / 4]), (3, [0, 1 / 4, 2 / 5])])
def test_restart_takes_up_its_coefficients_again(period, coefficients, wide):
    g = torch.randn(8, 2, dtype=wide)
    v = torch.zeros(2, dtype=wide)
    for t, out in enumerate(drives("restart", g, scale=0.9, period=period)):
        v = coefficients[t % period] * v + 0.9 * g[t]
        torch.testing.assert_close(out, v, atol=1e-14, rtol=0)


def test_momentum_changes_no_eigenvalue_of_a_linear_host():
    layer = make(Momentum(Elman("modrelu", bias=False), momentum=0.6), m=1)
    state = [torch.eye(8, dtype=torch.float64)[:, :4], torch.eye(8, dtype=torch.float64)[:, 4:]]
    _, after = layer(torch.zeros(1, 8, 1, dtype=torch.float64), tuple(s.unsqueeze(0) for s in state))
    joint = torch.linalg.eigvals(torch.cat([s[0] for s in after], 1))
    alone = torch.linalg.eigvals(layer.weight_hh_l0)
    expected = torch.cat([alone, torch.full((4,), 0.6)])
    assert (joint[:, None] - expected).abs().amin(0).max() < 1e-7 and (joint[:, None] - expected).abs().amin(
        1
    ).max() < 1e-7


def test_a_rotation_inside_stays_one():
    layer = make(Momentum(Elman("modrelu")), dtype=torch.float32, constraint=mr.Orthogonal())
    before = layer.weight_hh_l0.detach().clone()
    optimizer = mr.optim.RiemannianSGD(layer.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        layer(torch.randn(6, 3, 3))[0].square().sum().backward()
        optimizer.step()
    assert mr.linalg.defect(layer.weight_hh_l0) < 1e-5 and (layer.weight_hh_l0 - before).abs().max() > 1e-2


def test_a_module_inside_a_host_is_trained_and_saved():
    layer = Layer(cells.Momentum(cells.Elman(nn.Softplus(), bias=False)), 2, 3)
    assert isinstance(layer.nonlinearity, nn.Softplus)
    layer = Layer(cells.Momentum(cells.Elman(mr.nn.ModReLU(3))), 2, 3)
    assert "nonlinearity.bias" in layer.state_dict()
    layer(torch.randn(4, 1, 2))[0].sum().backward()
    assert layer.nonlinearity.bias.grad is not None
