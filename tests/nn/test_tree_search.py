"""Trees that are searched: which are built, how nodes choose, the losses on choices, and what becomes of the result."""

import dataclasses
import gc
import re
import weakref

import pytest
import torch
from support.cell_cases import make
from support.tree_cases import naive_distance, naive_search

import manifold_rnn as mr
from manifold_rnn.errors import OptionError, ShapeError
from manifold_rnn.nn import Layer, trees
from manifold_rnn.nn.cells import GRU, TreeSearch
from manifold_rnn.nn.cells.choices import candidates
from manifold_rnn.nn.cells.expressions import NAMED, leaves, parse
from manifold_rnn.nn.trees.losses import target_values

CHOICES = ["soft", "straight-through", "hard"]


class RandomScores(TreeSearch):
    """A search whose scores are drawn anew."""

    def _chosen(self, values, allowed):
        rows, slots = allowed[:, None, :, None], values[0].shape[2]
        scores = torch.rand(len(allowed), len(values), allowed.shape[1], slots).masked_fill(~rows, -1).flatten(1)
        return values[0][:, 0, 0], scores.argmax(-1), scores


def with_choice(layer, choice, **options):
    layer.cell = dataclasses.replace(layer.cell, choice=choice, **options)
    return layer


def chosen(layer, x, hx=None):
    """Outputs, choices and structures."""
    with trees.recording() as choices:
        y, _ = layer(x, hx)
    return y, choices, trees.structures(choices, layer.cell)


@pytest.mark.parametrize(("nodes", "slots"), [(1, 2), (2, 2), (5, 3), (9, 4)])
def test_random_scores_always_end_in_one_tree(nodes, slots):
    layer = make(RandomScores(nodes, slots), n=2, dtype=torch.float32)
    _, _, structures = chosen(layer, torch.zeros(1, 1000, 3))
    found = set(structures[0])
    for structure in found:
        assert len(parse(structure)) == nodes  # each node but the root is a child exactly once
        assert [node.slot for node in structure[:2]] == [0, min(1, slots - 2)][:nodes]
    used = [leaves(structure) & {"x", "h", "zero"} for structure in found]
    assert {"x", "zero"} in used and {"h", "zero"} in used and {"x", "h"} in used and len(found) > 30 * (nodes > 1)


@pytest.mark.parametrize(("nodes", "slots", "count"), [(5, 3, 920), (9, 4, 4125)])
def test_a_step_has_the_candidates_that_the_documentation_names(nodes, slots, count):
    cell = make(TreeSearch(nodes, slots), n=1).cell
    tables = candidates(nodes, slots, cell.ops, torch.device("cpu"))
    assert sum(5 * table.table.shape[1] * (table.slots[1] - table.slots[0]) for table in tables) == count
    assert str(count) in f"{TreeSearch.__doc__}".replace(",", "")


def test_every_pair_of_two_nodes_is_found():
    layer = make(RandomScores(2, 2, activations=["tanh"], ops=["add"]), n=2, dtype=torch.float32)
    found = set(chosen(layer, torch.zeros(1, 1000, 3))[2][0])
    assert len(found) == 3 * 3  # two leaves, and a leaf with what they became


@pytest.mark.parametrize("choice", ["soft", "hard"])
@pytest.mark.parametrize(
    "options",
    [{"nodes": 6, "slots": 3, "activations": ["tanh", "relu"]}, {"nodes": 4, "slots": 2, "ops": ["mul", "add"]}],
    ids=str,
)
def test_structures_and_margins_are_those_of_the_loops(choice, options, wide, generator):
    layer = make(TreeSearch(**options, choice=choice), dtype=wide)
    x, hx = (torch.randn(1, 20, k, dtype=wide, generator=generator) for k in (3, 4))
    y, (step,), (structures,) = chosen(layer, x, hx)
    w = {name: p.detach() for name, p in layer.weights("_l0").items()}
    for b in range(20):
        value, structure, margins = naive_search(layer.cell, w, x[0, b], hx[0, b])
        torch.testing.assert_close(y[0, b].detach(), value, atol=1e-13, rtol=0)
        torch.testing.assert_close(step.margins[:, b].detach(), margins, atol=1e-13, rtol=0)
        assert structures[b] == structure
    assert len(set(structures)) > 5  # one for each sample


@pytest.mark.parametrize("choice", CHOICES)
def test_permuting_a_batch_permutes_its_structures(choice, generator):
    layer = make(TreeSearch(5, 3, choice), n=8)
    x, order = torch.randn(4, 30, 3, dtype=torch.float64, generator=generator), torch.randperm(30, generator=generator)
    (y, _, before), (z, _, after) = chosen(layer, x), chosen(layer, x[:, order])
    torch.testing.assert_close(z, y[:, order], atol=1e-14, rtol=0)
    assert after == [[row[k] for k in order.tolist()] for row in before] and len(set(before[0])) > 1


def test_a_batch_has_one_structure_if_it_is_asked_for(generator):
    layer = make(TreeSearch(5, 3, "hard", "batch"), n=8)
    x = torch.randn(6, 30, 3, dtype=torch.float64, generator=generator)
    structures = chosen(layer, x)[2]
    assert [len(set(row)) for row in structures] == [1] * 6
    alone = [row[0] for row in chosen(layer, x[:, :1])[2]]
    assert alone != [row[0] for row in structures]  # which depends on the others


def test_the_mixture_tends_to_the_best_candidate(generator):
    layer = make(TreeSearch(5, 3), n=8)
    x = torch.randn(1, 30, 3, dtype=torch.float64, generator=generator)
    hard = with_choice(layer, "hard")(x)[0]
    gaps = [(with_choice(layer, "soft", temperature=t)(x)[0] - hard).abs().max() for t in (1e-1, 1e-3, 1e-12)]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-12


def test_straight_through_has_the_best_candidate_and_the_gradient_of_the_mixture(generator):
    layer = make(TreeSearch(1, 3), n=8)
    x = torch.randn(1, 30, 3, dtype=torch.float64, generator=generator)
    results = {}
    for choice in CHOICES:
        torch.testing.assert_close(with_choice(layer, choice, fixed=True)(x)[0], with_choice(layer, "hard")(x)[0])
        y = with_choice(layer, choice, fixed=False)(x)[0]
        loss = (y * torch.linspace(-1, 1, 8, dtype=y.dtype)).sum()
        results[choice] = y, torch.autograd.grad(loss, list(layer.parameters()), allow_unused=True)
    torch.testing.assert_close(results["straight-through"][0], results["hard"][0], atol=1e-15, rtol=0)
    torch.testing.assert_close(results["straight-through"][1], results["soft"][1], atol=0, rtol=0)
    assert results["hard"][1][-1] is None  # the scorer


@pytest.mark.parametrize("choice", CHOICES)
def test_trains_orthogonal_slots(choice):
    layer = make(TreeSearch(3, 3, choice), n=6, dtype=torch.float32, constraint={"R1": mr.Orthogonal()})
    optimizer = mr.optim.RiemannianAdam(layer.parameters(), lr=1e-2)
    before = layer.weight_hh_l0.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(4, 8, 3))[0].square().sum().backward()
        optimizer.step()
    blocks = layer.weight_hh_l0.detach().unflatten(0, (4, 6))
    assert mr.linalg.defect(blocks[3]) < 1e-5 and (blocks[3] - before[18:]).abs().max() > 1e-3


def test_the_identity_is_no_weight():
    layer = make(TreeSearch(3, 2))
    assert list(layer.state_dict()) == ["weight_ih_l0", "weight_hh_l0", "bias_l0", "scorer_l0"]
    assert layer.weight_hh_l0.shape == (8, 4) and layer.cell.gates == ("L0", "R0")


# records


def test_a_record_lives_no_longer_than_its_context():
    layer = make(TreeSearch(2, 2))
    with trees.recording() as choices:
        layer(torch.zeros(2, 1, 3, dtype=torch.float64))
        with trees.recording() as inner:
            layer(torch.zeros(1, 1, 3, dtype=torch.float64))
    assert len(choices) == 2 and len(inner) == 1
    layer(torch.zeros(5, 1, 3, dtype=torch.float64))
    assert len(choices) == 2
    graph = weakref.ref(choices[0].values)
    del choices
    gc.collect()
    assert graph() is None


def test_a_record_changes_no_output():
    layer, x = make(TreeSearch(4, 3)), torch.randn(3, 5, 3, dtype=torch.float64)
    assert torch.equal(chosen(layer, x)[0], layer(x)[0])


# losses


def test_the_margin_loss_is_what_margins_fall_short_of():
    layer, x = make(TreeSearch(3, 3)), torch.randn(4, 5, 3, dtype=torch.float64)
    _, choices, _ = chosen(layer, x)
    margins = torch.stack([step.margins for step in choices])  # (T, N, B)
    assert (margins >= 0).all()
    expected = (1 - margins / 2).clamp(min=0).sum(1).mean()
    torch.testing.assert_close(trees.margin_loss(choices, 2.0), expected, atol=1e-14, rtol=0)
    (gradient,) = torch.autograd.grad(trees.margin_loss(choices), layer.scorer_l0)
    assert gradient.abs().max() > 0
    assert trees.margin_loss(choices, float(margins.detach().max())) > 0


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_node_with_one_candidate_has_no_margin_loss(nodes):
    layer = make(TreeSearch(nodes, 2, ops=["mul"], activations=["tanh"]))
    _, choices, _ = chosen(layer, torch.randn(4, 5, 3, dtype=torch.float64))
    assert all((step.margins[0] == torch.inf).all() for step in choices) or nodes > 1
    loss = trees.margin_loss(choices) + trees.target_loss(choices, layer.cell, "elman")
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    found = mr.diagnostics.structures(layer, torch.randn(4, 5, 3, dtype=torch.float64))
    assert (found.margin == float("inf")) == (nodes == 1) and "margin" in found.table()


def test_steps_along_the_margin_loss_widen_margins():
    layer, x = make(TreeSearch(3, 3, activations=["sigmoid", "tanh"])), torch.randn(4, 5, 3, dtype=torch.float64)
    optimizer, losses = torch.optim.Adam(layer.parameters(), lr=0.03), []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(trees.margin_loss(chosen(layer, x)[1]))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


def test_the_distance_is_symmetric_and_zero_to_itself(generator):
    for first in NAMED.values():
        for second in NAMED.values():
            v, w = (torch.randn(len(t), 6, 3, dtype=torch.float64, generator=generator) for t in (first, second))
            d = trees.distance(first, v, second, w)
            assert d.shape == (6,)
            torch.testing.assert_close(trees.distance(second, w, first, v), d, atol=1e-12, rtol=0)
            torch.testing.assert_close(d[2], naive_distance(first, v[:, 2], second, w[:, 2]), atol=1e-12, rtol=0)
            if first is second:
                assert (trees.distance(first, v, first, v) == 0).all() and (d > 0).all()


def test_the_distance_of_two_trees_of_two_nodes_by_hand():
    left = [["x", "h", 0, "add", "tanh"], [0, "h", 1, "add", "tanh"]]
    right = [["x", "h", 0, "add", "tanh"], ["h", 0, 1, "add", "tanh"]]
    v, w = torch.tensor([[1.0, 0.0], [2.0, 2.0]]), torch.tensor([[0.0, 3.0], [1.0, 2.0]])
    assert trees.distance(left, v, left, w) == 1 + 9 + 1  # children at the same position
    assert trees.distance(left, v, right, w) == 1 + 9 + 1  # 1 + 9 alone at positions 2 and 3, 1 at the root
    assert trees.distance(left, v, "elman", w[1:]) == 1 + 1  # the child of the first, and the roots
    w[0, 0] = 5.0
    assert trees.distance(left, v, left, w) == 16 + 9 + 1 and trees.distance(left, v, right, w) == 1 + 34 + 1


@pytest.mark.parametrize("target", ["elman", "mgu", "gru", [["zero", "h", 1, "mul", "relu"]]], ids=str)
def test_the_target_loss_is_the_distance_to_the_nearest_chosen_nodes(target, wide, generator):
    layer = make(TreeSearch(5, 4, "hard"), dtype=wide)
    x, hx = (torch.randn(1, 6, k, dtype=wide, generator=generator) for k in (3, 4))
    _, choices, (structures,) = chosen(layer, x, hx)
    goals, nodes = torch.stack(target_values(choices[0], parse(target), 4)), parse(target)
    total = 0.0
    for b, structure in enumerate(structures):
        for m in range(len(nodes)):
            pairs = [
                naive_distance(structure[: r + 1], choices[0].values[:, b], nodes[: m + 1], goals[:, b])
                for r in range(5)
            ]
            total += min(pair.item() for pair in pairs) / len(nodes) / len(structures)
    assert trees.target_loss(choices, layer.cell, target).item() == pytest.approx(total, abs=1e-12)


def test_a_search_that_finds_its_target_has_no_target_loss():
    layer = make(TreeSearch(1, 2, "hard", ops=["add"], activations=["tanh"]), dtype=torch.float64)
    x, hx = torch.randn(1, 200, 3, dtype=torch.float64), torch.randn(1, 200, 4, dtype=torch.float64)
    _, (step,), (structures,) = chosen(layer, x, hx)
    is_elman = [b for b, structure in enumerate(structures) if structure == NAMED["elman"]]
    parts = dataclasses.replace(step, **{
        name: getattr(step, name).index_select(axis, torch.tensor(is_elman))
        for name, axis in {"structure": 0, "values": 1, "margins": 1, "inputs": 0, "state": 0}.items()
    })  # fmt: skip
    assert is_elman and trees.target_loss([parts], layer.cell, "elman").item() == pytest.approx(0, abs=1e-28)
    assert trees.target_loss([step], layer.cell, "elman") > 0


BAD = {
    "nodes.*from 1 to 64.*got 0": lambda: TreeSearch(0),
    "nodes.*got True": lambda: TreeSearch(True),
    "slots.*from 2 to 64.*got 1": lambda: TreeSearch(slots=1),
    "slots.*got 100": lambda: TreeSearch(slots=100),
    "choice.*'straight-through', 'hard', got 'sof'": lambda: TreeSearch(choice="sof"),
    "fixed.*False, True, got 'yes'": lambda: TreeSearch(fixed="yes"),
    "per.*got 'step'": lambda: TreeSearch(per="step"),
    "temperature.*above 0.*got 0": lambda: TreeSearch(temperature=0),
    "ops.*different, known names.*got \\('add', 'sub'\\)": lambda: TreeSearch(ops=("add", "sub")),
    "ops.*got \\[\\]": lambda: TreeSearch(ops=[]),
    "ops.*got 'add'": lambda: TreeSearch(ops="add"),
    "activations.*got \\['tanh', 'tanh'\\]": lambda: TreeSearch(activations=["tanh", "tanh"]),
    "not a gate of the cell.*got 'R2'": lambda: Layer(TreeSearch(3, 3), 2, 4, constraint={"R2": mr.Orthogonal()}),
    "margin.*out of range.*got 0": lambda: trees.margin_loss(chosen(make(TreeSearch(1, 2)), torch.zeros(
        1, 1, 3, dtype=torch.float64))[1], 0),
    "values of distance need to be tensors.*got list": lambda: trees.distance("elman", [1], "elman", torch.zeros(1, 1)),
    "Expected the steps.*got int": lambda: trees.structures([1], TreeSearch()),
    "at least one recorded step.*none": lambda: trees.margin_loss([]),
    "loss needs at least one recorded step.*int": lambda: trees.target_loss([3], TreeSearch()),
    "slot.*at least 4.*got 3": lambda: trees.target_loss(chosen(make(TreeSearch(1, 3)), torch.zeros(
        1, 1, 3, dtype=torch.float64))[1], TreeSearch(1, 3), "gru"),
    "fix_structure.*layer of GRU": lambda: trees.fix_structure(Layer(GRU(), 2, 3), "gru"),
    "at least 4 slots of TreeSearch.*got 3": lambda: trees.fix_structure(Layer(TreeSearch(3, 3), 2, 3), "gru"),
    "structure of Tree is unknown.*'ggru'": lambda: trees.fix_structure(Layer(TreeSearch(), 2, 3), "ggru"),
    "distance is unknown": lambda: trees.distance("a", torch.zeros(1, 1), "b", torch.zeros(1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_option_is_named(name):
    with pytest.raises(OptionError, match=re.compile(name, re.DOTALL)) as caught:
        BAD[name]()
    assert len(str(caught.value)) <= 400


@pytest.mark.parametrize("shapes", [((2, 3), (1, 3)), ((1, 3), (1, 4)), ((1,), (1,))], ids=str)
def test_values_that_do_not_fit_a_structure_are_named(shapes):
    with pytest.raises(ShapeError, match=re.escape(str(shapes[0]))):
        trees.distance("elman", torch.zeros(shapes[0]), "elman", torch.zeros(shapes[1]))
