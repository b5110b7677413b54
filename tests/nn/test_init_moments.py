"""A start from moments: any layer, with and without constraints, and what it refuses."""

import pytest
import torch
from support.cell_cases import exported_cells
from support.moment_cases import data, system
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import DtypeError, OptionError, ShapeError, UnsupportedError
from manifold_rnn.nn import Layer, cells, init

X0, X1, Y = data(system(0), 20_000)
X = torch.stack([X0, X1], 1)


@pytest.mark.parametrize("complex_weights", [False, True])
@pytest.mark.parametrize("name", exported_cells())
def test_every_cell_gets_the_directions_in_each_block(name, complex_weights):
    dtype = torch.complex128 if complex_weights else torch.float64
    torch.manual_seed(0)
    layer = Layer(exported_cells()[name](), 4, 8, dtype=dtype, num_layers=2, bidirectional=True)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    fit = init.moments_(layer, (X, Y), 3, gain=0.5)
    after = layer.state_dict()
    for suffix in ("_l0", "_l0_reverse"):
        for block, old in zip(after["weight_ih" + suffix].split(8), before["weight_ih" + suffix].split(8), strict=True):
            assert torch.equal(block[:3], 0.5 * fit.A.to(dtype))
            expected = old[3:6] if name == "Quadratic" else -0.5 * fit.A.to(dtype)
            assert torch.equal(block[3:6], expected) and torch.equal(block[6:], old[6:])
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed <= {f"{w}_l0{d}" for w in ("weight_ih", "weight_hh", "bias_ih", "bias") for d in ("", "_reverse")}
    assert name == "Quadratic" or not {key for key in changed if key.startswith("weight_hh")}


def test_units_are_centred_by_a_bias_that_is_added_and_by_no_threshold():
    shifted = X + torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    for layer in (mr.nn.RNN(4, 8, dtype=torch.float64), mr.nn.GRU(4, 8, dtype=torch.float64)):
        init.moments_(layer, (shifted, Y), 3, strict=False)
        x = shifted[:, 1] @ layer.weight_ih_l0.T + layer.bias_ih_l0
        assert x[:, :6].mean(0).abs().max() < 0.02 and (x[:, :6].var(0) - 1).abs().max() < 0.03
    layer = Layer(cells.GORU(), 4, 8, dtype=torch.float64)
    init.moments_(layer, (shifted, Y), 3, strict=False)
    gates = shifted[:, 1] @ layer.weight_ih_l0[:16].T + layer.bias_ih_l0
    assert gates.unflatten(1, (2, 8))[..., :6].mean(0).abs().max() < 0.02
    layer = mr.nn.RNN(4, 8, nonlinearity="modrelu", dtype=torch.float64)
    before = layer.bias_l0.detach().clone()
    init.moments_(layer, (shifted, Y), 3, strict=False)
    assert torch.equal(layer.bias_l0, before)


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_a_quadratic_layer_computes_what_the_fit_predicts(gain):
    layer = Layer(cells.Quadratic(), 4, 5, batch_first=True, dtype=torch.float64)
    fit = init.moments_(layer, (X, Y), 3, gain=gain)
    h = layer(X)[0][:, -1]
    torch.testing.assert_close(h[:, :3] @ fit.C / gain**2 + fit.offset, fit.predict(X0, X1), atol=1e-10, rtol=1e-10)
    assert fit.r2 > 0.99


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_a_constrained_weight_becomes_the_nearest_of_its_set(view):
    layer = mr.nn.RNN(4, 3, dtype=torch.float64)
    mr.constrain(layer, "weight_ih_l0", mr.Stiefel(), view=view)
    fit = init.moments_(layer, (X, Y), 3)
    assert mr.linalg.defect(layer.weight_ih_l0.detach().mT) < 1e-12
    left, _, right = torch.linalg.svd(fit.A, full_matrices=False)
    torch.testing.assert_close(layer.weight_ih_l0.detach(), left @ right, atol=1e-10, rtol=0)
    quadratic = Layer(cells.Quadratic(), 4, 3, dtype=torch.float64, constraint=mr.Contraction(0.1), view=view)
    init.moments_(quadratic, (X, Y), 3)
    assert torch.linalg.matrix_norm(quadratic.weight_hh_l0.detach(), 2) < 0.1 + 1e-9


def test_a_constraint_without_inverse_leaves_the_layer_as_it_was():
    layer = Layer(cells.Quadratic(), 4, 8, dtype=torch.float64, constraint=mr.Rotations(), view="trivialized")
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(UnsupportedError):
        init.moments_(layer, (X, Y), 3)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_there_are_at_most_as_many_directions_as_units():
    layer = mr.nn.RNN(4, 2, dtype=torch.float64)
    assert len(init.moments_(layer, (X, Y)).A) == 2
    assert len(init.moments_(mr.nn.RNN(4, 8, dtype=torch.float64), (X, Y)).A) == 3


def test_inputs_that_are_not_gaussian_give_a_rough_start_if_that_is_enough():
    images, digits = mr.tasks.Digits(by="rows").splits().train.tensors
    layer = mr.nn.LSTM(8, 16, batch_first=True)
    before = layer.weight_ih_l0.detach().clone()
    with pytest.raises(UnsupportedError, match="inputs='gaussian' assumes"):
        init.moments_(layer, (images, digits))
    assert torch.equal(layer.weight_ih_l0, before)
    fit = init.moments_(layer, (images, digits), 2, strict=False)
    assert layer.weight_ih_l0.isfinite().all() and fit.C.shape == (2, 10)


REFUSED = {
    "a layer of torch": (OptionError, "got GRU", lambda: init.moments_(nn.GRU(4, 8), (X, Y))),
    "data of one": (OptionError, "two tensors", lambda: init.moments_(mr.nn.RNN(4, 8), X)),
    "a layer of another size": (ShapeError, "Expected 3 features", lambda: init.moments_(mr.nn.RNN(3, 8), (X, Y))),
    "more directions than units": (OptionError, "hidden size 2", lambda: init.moments_(mr.nn.RNN(4, 2), (X, Y), 3)),
    "no gain": (OptionError, "`gain`", lambda: init.moments_(mr.nn.RNN(4, 8), (X, Y), gain=0.0)),
    "symbols": (DtypeError, "Symbols", lambda: init.moments_(mr.nn.RNN(4, 8), (X.long(), Y))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_its_kind(name):
    kind, message, act = REFUSED[name]
    with pytest.raises(kind, match=message) as caught:
        act()
    assert len(str(caught.value)) <= 400
