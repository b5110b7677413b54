"""Fixed trees as cells: their formulas, how their weights are shared, and structures that are none."""

import re

import pytest
import torch
from support.cell_cases import BRANCHES, make
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.nn import Layer, cells
from manifold_rnn.nn.cells import Tree, expressions

ELMAN = ["x", "h", 0, "add", "tanh"]


def gates_of(layer, x, h, slot):
    """L x + R h + b of a slot, from the weights of "gru" and "mgu"."""
    n, w = layer.hidden_size, layer.weights("_l0")
    rows = slice(slot * n, (slot + 1) * n)
    return x @ w["weight_ih"][rows].mT + h @ w["weight_hh"][rows].mT + w["bias"][rows]


def gru(layer, x, h):
    z, r = (gates_of(layer, x, h, slot).sigmoid() for slot in (0, 1))
    c = gates_of(layer, x, r * h, 2).tanh()
    return z * h + (1 - z) * c


def mgu(layer, x, h):
    f = gates_of(layer, x, h, 0).sigmoid()
    return (1 - f) * h + f * gates_of(layer, x, f * h, 1).tanh()


@pytest.mark.parametrize(("name", "formula"), [("gru", gru), ("mgu", mgu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_named_tree_is_its_formula_with_all_gradients(name, formula, dtype, generator):
    layer = make(Tree(name), m=5, n=7, dtype=dtype)
    with torch.no_grad():
        layer.bias_l0.normal_(generator=generator)
    x = torch.randn(6, 3, 5, dtype=dtype, generator=generator).requires_grad_()
    y, _ = layer(x)
    h, outputs = torch.zeros(3, 7, dtype=dtype), []
    for x_t in x:
        h = formula(layer, x_t, h)
        outputs.append(h)
    expected = torch.stack(outputs)
    torch.testing.assert_close(y, expected, atol=min(1e-6, 100 * atol(dtype)), rtol=0)
    ours, theirs = (torch.autograd.grad(out.square().mean(), [x, *layer.parameters()]) for out in (y, expected))
    torch.testing.assert_close(ours, theirs, atol=min(1e-6, 100 * atol(dtype)), rtol=0)


def test_an_elman_tree_is_the_elman_cell(wide):
    tree, elman = make(Tree("elman"), dtype=wide), make(cells.Elman(), dtype=wide)
    with torch.no_grad():
        elman.bias_hh_l0.zero_()
        for name, theirs in (("weight_ih", "weight_ih"), ("weight_hh", "weight_hh"), ("bias", "bias_ih")):
            getattr(tree, name + "_l0").copy_(getattr(elman, theirs + "_l0"))
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(tree(x)[0], elman(x)[0], atol=1e-14, rtol=0)
    second_bias = 4 * (2 if wide.is_complex else 1)
    assert mr.degrees_of_freedom(tree) == mr.degrees_of_freedom(elman) - second_bias


def test_it_has_as_many_weights_as_the_gru_with_one_bias():
    tree, gru = Layer(Tree("gru"), 5, 8), Layer(cells.GRU(), 5, 8)
    assert mr.degrees_of_freedom(tree) == mr.degrees_of_freedom(gru) - gru.bias_hh_l0.numel()


def test_matrices_of_the_state_come_first_and_slots_are_shared():
    assert Tree("gru").gates == ("R0", "R1", "R2") and Tree("gru").inputs == ("L0", "L1", "L2")
    cell = Tree(BRANCHES)
    assert cell.gates == ("R0", "R2", "L1", "R1") and cell.inputs == ("L0", "identity")
    again = Tree([list(node) for node in Tree("mgu").nodes])
    assert again.nodes == Tree("mgu").nodes and again.gates == ("R0", "R1")


def test_equal_nodes_are_computed_once(monkeypatch):
    calls = []
    monkeypatch.setitem(expressions.ACTIVATIONS, "sigmoid", lambda z: calls.append(z) or z.sigmoid())
    make(Tree("mgu"), dtype=torch.float32)(torch.zeros(1, 2, 3))
    assert len(calls) == 1


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_a_matrix_of_one_slot_is_constrained_by_its_name(view):
    layer = make(Tree(BRANCHES), n=6, constraint={"R1": mr.Orthogonal()}, view=view)
    defects = mr.linalg.defect(layer.weight_hh_l0.detach().unflatten(0, (4, 6)))
    assert defects[3] < 1e-12 and (defects[:3] > 0.1).all()


def test_activations_without_bound_clip_what_exceeds_1():
    cell = [["x", "h", "identity", "add", "identity"], [0, "h", 0, "add", "one_minus"]]
    layer = Layer(Tree(cell), 1, 1)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(5.0)
        layer.weight_hh_l0.fill_(1.0)
    y, _ = layer(torch.tensor([[[1.0]], [[-1.0]]]), torch.zeros(1, 1, 1))
    assert y.flatten().tolist() == [0.0, 2.0]


def test_zero_is_a_leaf():
    layer = Layer(Tree([["x", "h", 0, "add", "tanh"], [0, "zero", 1, "mul", "identity"]]), 1, 2)
    with torch.no_grad():
        layer.bias_l0[2:].fill_(0.25)
    assert torch.equal(layer(torch.ones(3, 1, 1))[0], torch.full((3, 1, 2), 0.25))


BAD = {
    "unknown.*'lstm'": "lstm",
    "not a list of nodes.*got 0 nodes": [],
    "not a list of nodes.*got 3": 3,
    "Node 0 .*not a node": [["x", "h", 0, "add"]],
    "Node 0 .*not a node.*got 'xh0at'": ["xh0at"],
    "Node 0 .*unknown child.*got 0": [["x", 0, 0, "add", "tanh"]],
    "Node 0 .*unknown child.*got 'y'": [["x", "y", 0, "add", "tanh"]],
    "Node 0 .*unknown child.*got True": [["x", True, 0, "add", "tanh"]],
    "Node 1 .*unknown child.*got 1": [ELMAN, [0, 1, 0, "add", "tanh"]],
    "unknown slot.*got -1": [["x", "h", -1, "add", "tanh"]],
    "unknown slot.*got 'I'": [["x", "h", "I", "add", "tanh"]],
    "unknown op.*got 'sub'": [["x", "h", 0, "sub", "tanh"]],
    "unknown activation.*got 'elu'": [["x", "h", 0, "add", "elu"]],
    "unknown activation.*got 1": [["x", "h", 0, "add", 1]],
    "Node 0 .*a child 0 times": [ELMAN, ELMAN],
    "Node 0 .*a child 2 times": [ELMAN, [0, 0, 0, "add", "tanh"]],
    "does not use 'h'": [["x", "zero", 0, "add", "tanh"]],
    "does not use 'x'": [["h", "zero", 0, "add", "tanh"]],
    "no recurrent matrix": [["x", "h", "identity", "add", "tanh"]],
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_structure_is_named(name):
    with pytest.raises(OptionError, match=re.compile(name, re.DOTALL)) as caught:
        Tree(BAD[name])
    assert len(str(caught.value)) <= 400


def test_an_unknown_matrix_is_named():
    with pytest.raises(OptionError, match="'R0', 'R1', 'R2', got 'R3'"):
        Layer(Tree("gru"), 2, 4, constraint={"R3": mr.Orthogonal()})
