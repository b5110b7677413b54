"""The certified bound: sharp for one linear unit, above every change that is found, and refused where there is none."""

import math

import pytest
import torch
from support.seeds import seeded
from torch import nn

import manifold_rnn as mr
from manifold_rnn.diagnostics import lipschitz_bound
from manifold_rnn.errors import NonFiniteError, OptionError

DOUBLE = torch.float64
T = 9


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 1.5])
def test_one_linear_unit_attains_it(w):
    layer = mr.nn.RNN(1, 1, nonlinearity="modrelu", bias=False, batch_first=True, dtype=DOUBLE)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(w)
        layer.weight_ih_l0.fill_(0.7)
    bound = lipschitz_bound(layer, T).value
    assert bound == pytest.approx(0.7 * math.sqrt(sum(w ** (2 * k) for k in range(T))), rel=1e-14)
    d = torch.tensor([w ** (T - 1 - t) for t in range(T)], dtype=DOUBLE).reshape(1, T, 1)
    change = layer(d)[0][0, -1].detach().norm() / d.norm()
    assert float(change) == pytest.approx(bound, rel=1e-12)


def layers():
    options = {"batch_first": True, "dtype": DOUBLE}
    return {
        "tanh": mr.nn.RNN(3, 5, **options),
        "relu": mr.nn.RNN(3, 5, nonlinearity="relu", **options),
        "two levels": mr.nn.RNN(3, 5, num_layers=2, **options),
        "torch": nn.RNN(3, 5, **options),
        "torch, relu, two levels": nn.RNN(3, 5, num_layers=2, nonlinearity="relu", **options),
        "orthogonal": mr.nn.RNN(3, 5, constraint=mr.Orthogonal(), **options),
        "trivialized": mr.nn.RNN(3, 5, constraint=mr.SchurDisc(), view="trivialized", **options),
        "complex": mr.nn.RNN(3, 5, nonlinearity="modrelu", bias=False, batch_first=True, dtype=torch.complex128),
        "lru": mr.nn.Layer(mr.nn.cells.LRU(), 3, 5, batch_first=True, dtype=torch.complex128),
    }


@pytest.mark.parametrize("name", layers())
def test_no_change_of_states_is_above_it(name):
    torch.manual_seed(0)
    layer, g = layers()[name], seeded(1)
    dtype = DOUBLE if name not in ("complex", "lru") else torch.complex128
    x, d = (torch.randn(200, T, 3, dtype=dtype, generator=g) for _ in range(2))
    d = d * torch.logspace(-3, 1, 200, dtype=DOUBLE)[:, None, None]
    with torch.no_grad():
        moved = torch.linalg.vector_norm(layer(x + d)[0] - layer(x)[0], dim=-1)
    ratios = moved / torch.linalg.vector_norm(d.flatten(1), dim=1)[:, None]
    assert float(ratios.max()) <= lipschitz_bound(layer, T).value * (1 + 1e-12)


def modrelu(bias):
    layer = mr.nn.RNN(3, 5, nonlinearity="modrelu", batch_first=True)
    nn.init.constant_(layer.get_parameter("bias_l0"), bias)
    return layer


def test_modrelu_has_a_bound_without_a_positive_bias():
    assert lipschitz_bound(modrelu(-0.1), T).value is not None
    assert lipschitz_bound(modrelu(0.1), T).value is None


NONE = {
    "gates": (lambda: mr.nn.LSTM(2, 3), "LSTM"),
    "gates of torch": (lambda: nn.GRU(2, 3), "gates of GRU"),
    "a momentum": (lambda: mr.nn.Layer(mr.nn.cells.Momentum(mr.nn.cells.Elman()), 2, 3), "Momentum"),
    "a function of the user": (lambda: mr.nn.RNN(2, 3, nonlinearity=torch.sin), "known nonlinearity"),
    "two directions": (lambda: mr.nn.RNN(2, 3, bidirectional=True), "two directions"),
    "a jump": (lambda: modrelu(1.0), "positive bias"),
}


@pytest.mark.parametrize("name", NONE)
def test_where_there_is_none_the_reason_is_given(name):
    make, reason = NONE[name]
    bound = lipschitz_bound(make(), T)
    assert bound.value is None and reason in bound.reason


def test_a_bound_too_large_for_a_float_is_infinite_and_a_zero_one_is_zero():
    layer = mr.nn.RNN(1, 1)
    nn.init.constant_(layer.weight_hh_l0, 1e3)
    assert lipschitz_bound(layer, 1000).value == math.inf
    nn.init.zeros_(layer.weight_ih_l0)
    assert lipschitz_bound(layer, 1000).value == 0


def test_bad_input_is_named():
    with pytest.raises(OptionError, match="recurrent"):
        lipschitz_bound(nn.Linear(2, 2), 3)
    for length in (0, -1, 1.5, True):
        with pytest.raises(OptionError, match="at least 1"):
            lipschitz_bound(mr.nn.RNN(1, 2), length)


def test_weights_of_nan_are_named():
    layer = torch.nn.RNN(2, 3)
    torch.nn.init.constant_(layer.weight_hh_l0, torch.nan)
    with pytest.raises(NonFiniteError, match="finite weights"):
        mr.diagnostics.lipschitz_bound(layer, 3)
