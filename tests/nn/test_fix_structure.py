"""The layer of a tree that a search found: its weights, its constraint, and what it keeps of the search."""

import pytest
import torch
from support.cell_cases import make

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.nn import trees
from manifold_rnn.nn.cells import Tree, TreeSearch
from manifold_rnn.nn.cells.expressions import NAMED, leaves


def chosen(layer, x, hx):
    """Outputs and structures."""
    with trees.recording() as choices:
        y, _ = layer(x, hx)
    return y, trees.structures(choices, layer.cell)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_fixed_structure_computes_what_the_search_chose(levels, wide, generator):
    cell = TreeSearch(4, 3, "hard") if levels == 1 else TreeSearch(1, 2, "hard", ops=["add"], activations=["tanh"])
    layer = make(cell, dtype=wide, num_layers=levels, batch_first=True)
    x = torch.randn(60, 1, 3, dtype=wide, generator=generator)
    hx = torch.randn(levels, 60, 4, dtype=wide, generator=generator)
    y, structures = chosen(layer, x, hx)
    same = 0
    for b in range(60):
        if len({row[b] for row in structures}) > 1:
            continue  # the levels chose differently
        if not {"x", "h"} <= leaves(structures[0][b]):
            with pytest.raises(OptionError, match="does not use"):
                trees.fix_structure(layer, structures[0][b])
            continue
        fixed = trees.fix_structure(layer, structures[0][b])
        assert isinstance(fixed.cell, Tree) and fixed.batch_first and fixed.num_layers == levels
        torch.testing.assert_close(fixed(x[b : b + 1], hx[:, b : b + 1])[0], y[b : b + 1], atol=1e-12, rtol=0)
        same += 1
    assert same > (20 if levels == 1 else 0)


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_a_fixed_structure_keeps_an_orthogonal_slot(view):
    search = make(TreeSearch(5, 4), n=6, constraint={"R1": mr.Orthogonal()}, train_initial_state=True)
    with torch.no_grad():
        search.initial_state_l0.fill_(0.5)
    layer = trees.fix_structure(search, "gru", constraint={"R1": mr.Orthogonal()}, view=view)
    torch.testing.assert_close(layer.weight_hh_l0[6:12], search.weight_hh_l0[18:24], atol=1e-12, rtol=0)
    assert mr.linalg.defect(layer.weight_hh_l0[6:12]) < 1e-12 and layer.initial_state_l0[0] == 0.5
    layer(torch.zeros(2, 1, 3, dtype=torch.float64))[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters()) and search.weight_hh_l0.grad is None


@pytest.mark.parametrize("constraint", [None, {"R1": mr.Orthogonal()}], ids=str)
def test_a_fixed_structure_keeps_mode_and_frozen_weights_and_draws_nothing(constraint):
    search = make(TreeSearch(5, 4), n=6, constraint=constraint).eval()
    search.bias_l0.requires_grad_(False)
    before = torch.get_rng_state()
    layer = trees.fix_structure(search, "gru", constraint=constraint)
    assert torch.equal(torch.get_rng_state(), before) and not layer.training
    assert {name for name, p in layer.named_parameters() if not p.requires_grad} == {"bias_l0"}
    for parameter in search.parameters():
        parameter.requires_grad_(False)
    frozen = trees.fix_structure(search, "gru", constraint=constraint, view="trivialized")
    assert not any(p.requires_grad for p in frozen.parameters())


def test_a_tree_does_not_depend_on_the_order_of_children():
    exchanged = [[node.right, node.left, *node[2:]] for node in NAMED["gru"]]
    assert trees.canonical(exchanged) == trees.canonical("gru") != trees.canonical("mgu")
    other = [list(node) for node in NAMED["gru"]]
    other[4][2] = 1
    assert trees.canonical(other) != trees.canonical("gru")
