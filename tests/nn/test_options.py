"""The options that all layers share: stated once, visible in every signature, and refused by name if unknown."""

import inspect
import typing

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.nn import GRU, LSTM, RNN, Layer, cells
from manifold_rnn.nn.options import LayerOptions
from manifold_rnn.nn.scan.backends import BackendName

LAYERS = {"Layer": Layer, "RNN": RNN, "LSTM": LSTM, "GRU": GRU}
THEIRS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


def keyword_only(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize("name", LAYERS)
def test_the_signature_shows_every_option_and_its_default(name):
    options = keyword_only(LAYERS[name])
    assert list(options) == list(typing.get_type_hints(LayerOptions))
    assert options == keyword_only(Layer)
    assert inspect.signature(LAYERS[name]).parameters["backend"].annotation == BackendName
    assert "options" not in inspect.signature(LAYERS[name]).parameters


def test_the_layer_documents_every_option_and_the_others_point_there():
    for option in keyword_only(Layer):
        assert f"\n    {option} : " in Layer.__doc__
    for name in THEIRS:
        assert all(f"``{option}``" in LAYERS[name].__doc__ for option in keyword_only(Layer))
        assert "See `Layer`" in LAYERS[name].__doc__


@pytest.mark.parametrize("name", THEIRS)
def test_positional_arguments_have_torchs_order(name):
    theirs, ours = THEIRS[name](3, 4), inspect.signature(LAYERS[name]).parameters
    order = ["input_size", "hidden_size", "num_layers", "nonlinearity", "bias", "batch_first", "dropout"]
    order += ["bidirectional", "proj_size", "device", "dtype"]
    known = [option for option in order if option in ours]
    assert [p.name for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD] == known
    assert ("nonlinearity" in known) == (name == "RNN") and ("proj_size" in known) == (name == "LSTM")
    own = ["tanh"] if name == "RNN" else []
    last = [0] if name == "LSTM" else []
    both = [kind(3, 4, 2, *own, False, True, 0.5, True, *last) for kind in (THEIRS[name], LAYERS[name])]
    assert [*both[0].state_dict()] == [*both[1].state_dict()] and both[1].batch_first and both[1].bidirectional
    assert type(theirs).__name__ == LAYERS[name].__name__


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("wrong", "right"), [("constrain", "constraint"), ("num_layer", "num_layers"), ("qq", None)])
def test_an_unknown_option_is_refused_with_the_right_names(name, wrong, right):
    first = [cells.Elman()] if name == "Layer" else []
    with pytest.raises(mr.errors.OptionError, match=f"{name} has no option '{wrong}'") as caught:
        LAYERS[name](*first, 3, 4, **{wrong: 1})
    message = str(caught.value)
    assert len(message) <= 400 and all(option in message for option in keyword_only(Layer))
    assert right is None or f"Did you mean '{right}'?" in message


def test_options_reach_the_layer_and_its_constraint():
    for name in THEIRS:
        options = {"train_initial_state": True, "backend": "reference", "recompute": True, "view": "trivialized"}
        layer = LAYERS[name](3, 4, constraint=mr.Orthogonal(), **options)
        assert layer.backend == "reference" and layer.recompute and layer.train_initial_state
        assert "weight_hh_l0" not in dict(layer.named_parameters()) and "initial_state_l0" in layer.state_dict()


def test_a_subclass_has_the_signature_of_its_own_constructor():
    class Narrow(Layer):
        def __init__(self, size):
            super().__init__(cells.LEM(), size, size)

    class Wide(Layer):
        def __init__(self, size, **options: typing.Unpack[LayerOptions]):
            super().__init__(cells.LEM(), size, size, **options)

    assert list(inspect.signature(Narrow).parameters) == ["size"]
    assert list(inspect.signature(Wide).parameters) == ["size", *keyword_only(Layer)]
    assert Wide(3, backend="reference")(torch.zeros(2, 1, 3))[0].shape == (2, 1, 3)
