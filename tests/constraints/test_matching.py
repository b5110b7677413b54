"""Many weights at once, and counting what is free."""

import pytest
import torch
from support.counting import evaluations
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import OptionError, ShapeError

N = 4
VIEWS = pytest.mark.parametrize("view", ["update", "trivialized"])


@VIEWS
def test_every_match_is_constrained_and_nothing_else(view):
    model = nn.Sequential(nn.RNN(2, N, 2, bidirectional=True), nn.Linear(2 * N, 1))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert mr.constrain_matching(model, {"*.weight_hh_l*": mr.Orthogonal()}, view=view) is model
    for name, old in before.items():
        path, leaf = name.split(".")
        new = getattr(model.get_submodule(path), leaf)
        assert mr.linalg.defect(new) < 1e-5 if "weight_hh" in name else torch.equal(new, old)


def test_the_first_pattern_counts_and_top_level_names_match():
    rnn = mr.constrain_matching(nn.RNN(N, N), {"*.weight_hh_l0": mr.Orthogonal("qr"), "*weight_?h_l0": mr.Orthogonal()})
    assert rnn.weight_hh_l0.manifold.retraction.name == "qr"
    assert rnn.weight_ih_l0.manifold.retraction.name == "cayley"


@VIEWS
def test_a_pattern_without_a_match_changes_nothing(view):
    model = nn.Sequential(nn.RNN(N, N))
    with pytest.raises(OptionError, match="weight_hx"):
        mr.constrain_matching(model, {"*.weight_hh_l0": mr.Orthogonal(), "*.weight_hx*": mr.Orthogonal()}, view=view)
    with pytest.raises(ShapeError):
        mr.constrain_matching(model, {"*.weight_hh_l0": mr.Orthogonal(), "*bias*": mr.Orthogonal()}, view=view)
    assert all(type(p) is nn.Parameter for p in model.parameters())
    assert not model._forward_pre_hooks


@VIEWS
def test_ties_stay_tied(view):
    model = nn.Sequential(nn.Linear(N, N), nn.Linear(N, N))
    model[1].weight = model[0].weight
    mr.constrain_matching(model, {"*.weight": mr.Orthogonal()}, view=view)
    with evaluations(model) as counts:
        model(torch.randn(2, N)).sum().backward()
    assert counts == ({"weight": 1} if view == "trivialized" else {})
    torch.testing.assert_close(model[0].weight, model[1].weight)
    assert mr.degrees_of_freedom(model) == N * (N - 1) // 2 + 2 * N


@VIEWS
def test_degrees_of_freedom(view):
    lstm = nn.LSTM(2, N)
    plain = mr.degrees_of_freedom(lstm)
    assert plain == sum(p.numel() for p in lstm.parameters())
    mr.constrain(lstm, "weight_hh_l0", mr.Orthogonal(), blocks=4, which=(1, 3), view=view)
    assert mr.degrees_of_freedom(lstm) == plain - 2 * (N * N - N * (N - 1) // 2)
    lstm.bias_hh_l0.requires_grad_(False)
    assert mr.degrees_of_freedom(lstm) == plain - 2 * (N * N - N * (N - 1) // 2) - 4 * N


@VIEWS
def test_complex_numbers_count_twice(view):
    layer = nn.Linear(N, N, dtype=torch.complex64)
    assert mr.degrees_of_freedom(layer) == 2 * (N * N + N)
    mr.constrain(layer, "weight", mr.Unitary(), view=view)
    assert mr.degrees_of_freedom(layer) == N * N + 2 * N
