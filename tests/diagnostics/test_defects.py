"""What `diagnostics` says of the weights of a network."""

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn import diagnostics
from manifold_rnn.errors import OptionError


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_the_defect_of_a_constrained_weight_is_rounding_and_free_weights_have_none(view):
    model = nn.Sequential(mr.constrain(nn.Linear(6, 6), "weight", mr.Orthogonal(), view=view), nn.Linear(6, 2))
    measured = diagnostics.defects(model)
    assert list(measured.by_weight) == ["0.weight"] and measured.largest < 1e-5
    unconstrained = diagnostics.defects(nn.Linear(2, 2))
    assert unconstrained.largest is None and unconstrained.table() == "no constrained weights"


def test_the_defect_grows_with_the_distance():
    layer = mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal())
    with torch.no_grad():
        layer.weight.mul_(1.1)
    assert diagnostics.defects(layer).largest > 0.1


def test_the_defect_of_one_gate_is_that_of_its_block():
    lstm = mr.nn.LSTM(2, 4, constraint={"g": mr.Orthogonal()}, batch_first=True)
    (measured,) = diagnostics.defects(lstm).by_weight.values()
    assert measured < 1e-5


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_the_constrained_parameters_are_those_of_the_constraint(view):
    model = nn.Sequential(mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal(), view=view), nn.Linear(4, 1))
    held = {id(p) for p in diagnostics.constrained_parameters(model)}
    others = {id(p) for p in (model[0].bias, *model[1].parameters())}
    assert len(held) == 1 and held.isdisjoint(others) and held | others == set(map(id, model.parameters()))


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_torchs_lstm_has_the_matrix_of_its_candidate(view):
    lstm = nn.LSTM(1, 3)
    mr.constrain(lstm, "weight_hh_l0", mr.Orthogonal(), blocks=4, which=(2,), view=view)
    name, weight = diagnostics.recurrent_matrix(nn.Sequential(nn.Linear(1, 1), lstm))
    assert name == "W_hh of g" and torch.equal(weight, lstm.weight_hh_l0[6:9])
    assert diagnostics.spectrum(lstm).radius == pytest.approx(1, abs=1e-5)


def test_a_network_without_recurrent_matrix_is_refused():
    with pytest.raises(OptionError, match="Linear has no recurrent matrix"):
        diagnostics.recurrent_matrix(nn.Linear(2, 2))


def test_tables_and_pictures_show_every_number():
    pytest.importorskip("matplotlib")
    measured = diagnostics.defects(mr.zoo.scornn(1, 5, 2))
    assert len(measured.plot().patches) == 1
    assert measured.table().startswith("defect of layer.weight_hh_l0: ")


@pytest.mark.parametrize("measured", [{}, {"weight": 0.0}, {"weight": 0.0, "other": 1e-7}], ids=str)
def test_a_plot_needs_no_positive_defect(measured):
    mr.diagnostics.Defects(measured).plot().figure.canvas.draw()
