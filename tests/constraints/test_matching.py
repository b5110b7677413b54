"""Many weights at once, and counting what is free."""

import pytest
import torch
from support.counting import evaluations
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import DtypeError, OptionError, ShapeError

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


@pytest.mark.parametrize(
    ("patterns", "error", "words"),
    [
        ({}, OptionError, "at least one pattern"),
        (["*.weight"], OptionError, "mapping"),
        ({3: mr.Orthogonal()}, OptionError, "patterns"),
        ({"*.q_projj.weight": mr.Orthogonal()}, OptionError, "0.q_proj.weight"),
        ({"*" + "x" * 900: mr.Orthogonal()}, OptionError, "none of 4"),
        ({"*proj.weight": mr.Orthogonal(), "*.q_proj.weight": mr.Stiefel()}, OptionError, "narrower"),
        ({"*.weight": mr.Orthogonal()}, ShapeError, r"'1.weight' matches the pattern '\*.weight'"),
        ({"*.q_proj.*": mr.Orthogonal()}, ShapeError, "0.q_proj.bias"),
        ({"*.q_proj.weight": "Orthogonal"}, OptionError, "0.q_proj.weight"),
        ({"*.q_proj.weight": mr.Unitary()}, DtypeError, "0.q_proj.weight"),
    ],
    ids=str,
)
@VIEWS
def test_bad_patterns_are_answered_by_name(view, patterns, error, words):
    model = nn.Sequential(nn.ModuleDict({"q_proj": nn.Linear(N, N)}), nn.LayerNorm(N))
    with pytest.raises(error, match=words) as caught:
        mr.constrain_matching(model, patterns, view=view)
    assert len(str(caught.value)) <= 400
    assert all(type(p) is nn.Parameter for p in model.parameters()) and not model._forward_pre_hooks


@VIEWS
def test_stacked_projections_of_attention_are_blocks(view):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    heads = mr.manifolds.Blocks(mr.Stiefel(), blocks=6, transpose=True)  # (4, 8) each
    table = {"*.in_proj_weight": heads, "*.out_proj.weight": mr.Orthogonal(), "linear?.weight": mr.Stiefel()}
    mr.constrain_matching(layer, table, view=view)
    assert all(mr.linalg.defect(head.mT) < 1e-5 for head in layer.self_attn.in_proj_weight.chunk(6))
    layer(torch.randn(2, 3, 8)).sum().backward()
    assert len([p for p in layer.parameters() if p.grad is not None]) == len(list(layer.parameters()))


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
def test_one_parameter_has_one_constraint(view):
    model = nn.Sequential(nn.Linear(N, N), nn.Linear(N, N))
    model[1].weight = model[0].weight
    with pytest.raises(OptionError, match=r"'0.weight' and '1.weight' are the same parameter"):
        mr.constrain_matching(model, {"0.weight": mr.Orthogonal(), "1.weight": mr.SPD()}, view=view)
    assert type(model[0].weight) is nn.Parameter and not model[0]._forward_pre_hooks
    mr.constrain_matching(model, {"0.weight": mr.Orthogonal(), "1.weight": mr.Orthogonal()}, view=view)
    assert torch.equal(model[0].weight, model[1].weight) and mr.linalg.defect(model[0].weight) < 1e-5


@pytest.mark.parametrize(
    ("constraint", "view"),
    [(mr.SPD(), "update"), (mr.Orthogonal(), "trivialized"), (mr.Rotations(), None)],
    ids=str,
)
def test_a_second_constraint_on_a_tied_weight_is_refused(constraint, view):
    a, b = nn.Linear(N, N), nn.Linear(N, N)
    b.weight = a.weight
    mr.constrain(a, "weight", mr.Orthogonal())
    before = a.weight.detach().clone()
    for constrain in (
        lambda: mr.constrain(b, "weight", constraint, view=view),
        lambda: mr.constrain_matching(b, {"weight": constraint}, view=view),
    ):
        with pytest.raises(OptionError, match="already constrained to Orthogonal"):
            constrain()
    assert torch.equal(a.weight, before) and a.weight is b.weight and not hasattr(b, "constraints")
    mr.constrain(b, "weight", mr.Orthogonal())
    mr.release(a, "weight")
    mr.release(b, "weight")
    mr.constrain(b, "weight", constraint, view=view)


def test_coordinates_are_no_weights_under_any_name_of_their_module():
    shared = mr.constrain(nn.Linear(N, N), "weight", mr.Orthogonal(), view="trivialized")
    with pytest.raises(OptionError, match="matches none of 2"):
        mr.constrain_matching(nn.Sequential(shared, shared), {"*.coordinates": mr.Sphere()})


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


def test_a_structured_constraint_has_the_trivialized_view_by_default():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    mr.constrain_matching(model, {"0.*weight": mr.FixedBase(mr.Orthogonal()), "1.weight": mr.Orthogonal()})
    assert set(dict(model.named_parameters())) == {"0.bias", "0.constraints.weight.coordinates", "1.weight", "1.bias"}
    layer = mr.nn.RNN(2, 4, constraint=mr.FixedBase(mr.Orthogonal()))
    assert layer.constraints["weight_hh_l0"].coordinates.shape == (6,)
