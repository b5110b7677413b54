"""Counts of the trees that a search chose."""

import re

import pytest
import torch
from torch.utils.data import TensorDataset

import manifold_rnn as mr
from manifold_rnn.diagnostics import structures
from manifold_rnn.errors import NonFiniteError, OptionError, ShapeError
from manifold_rnn.nn import Layer, cells, trees
from manifold_rnn.nn.cells import TreeSearch


@pytest.fixture
def network():
    torch.manual_seed(0)
    return mr.zoo.Network(Layer(TreeSearch(4, 3), 2, 5, batch_first=True), 3)


def test_counts_are_those_of_the_record(network, generator):
    x = torch.randn(9, 6, 2, generator=generator)
    found = structures(network, x)
    with trees.recording() as choices, torch.no_grad():
        network(x)
    plain = [trees.canonical(s) for row in trees.structures(choices, network.layer.cell) for s in row]
    assert dict(zip(found.expressions, found.counts, strict=True)) == {text: plain.count(text) for text in set(plain)}
    assert list(found.counts) == sorted(found.counts, reverse=True) and sum(found.counts) == 54
    assert sum(found.shares) == pytest.approx(1) and len(found.by_step) == 6 and len(found.margins) == 4
    assert [trees.canonical(example) for example in found.examples] == list(found.expressions)
    margins = torch.stack([step.margins for step in choices]).mean((0, 2))
    assert found.margins == pytest.approx(margins.tolist(), rel=1e-5)
    assert found.margin == pytest.approx(float(margins.mean()), rel=1e-5)
    for number, share in found.by_step:
        assert 0 <= number < len(found.counts) and 0 < share <= 1


@pytest.mark.parametrize("form", ["pair", "dataset", "many"])
def test_data_come_in_every_form(network, form, generator):
    x = torch.randn(9, 6, 2, generator=generator)
    data = {"pair": (x, x), "dataset": TensorDataset(x, x), "many": x.repeat(40, 1, 1)}[form]
    assert structures(network, data).shares == pytest.approx(structures(network, x).shares)


def test_a_level_and_a_direction_are_counted_alone(generator):
    torch.manual_seed(0)
    layer = Layer(TreeSearch(3, 3), 2, 4, num_layers=2, bidirectional=True)
    x = torch.randn(7, 5, 2, generator=generator)
    found = {suffix: structures(layer, x, suffix=suffix) for suffix in layer.suffixes}
    assert all(sum(each.counts) == 35 and len(each.by_step) == 7 for each in found.values())
    one = Layer(TreeSearch(3, 3), 2, 4)
    one.load_state_dict({f"{name}_l0": w for name, w in layer.weights("_l0_reverse").items()})
    assert structures(one, x.flip(0)).by_step == found["_l0_reverse"].by_step[::-1]


def test_trees_are_drawn_and_listed(network):
    pytest.importorskip("matplotlib")
    found = structures(network, torch.randn(9, 6, 2))
    axes = found.plot()
    assert len([text for text in axes.texts if "slot" in text.get_text()]) == 4 and len(axes.lines) == 8
    assert found.expressions[0] in found.table() and "mean margin" in found.table()


def test_nothing_is_changed(network):
    network.train()
    before = torch.get_rng_state()
    structures(network, torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0)))
    assert network.training and torch.equal(torch.get_rng_state(), before)


BAD = {
    "layer of TreeSearch.*got one of LSTM": (OptionError, lambda n, x: structures(mr.nn.LSTM(2, 3), x)),
    "layer of TreeSearch.*Tree": (OptionError, lambda n, x: structures(Layer(cells.Tree(), 2, 3), x)),
    "layer of TreeSearch.*Linear": (OptionError, lambda n, x: structures(torch.nn.Linear(2, 3), x)),
    "torch module": (OptionError, lambda n, x: structures(3, x)),
    "'_l0', got suffix='_l1'": (OptionError, lambda n, x: structures(n, x, suffix="_l1")),
    "pair of tensors": (OptionError, lambda n, x: structures(n, [x])),
    "at least one sequence": (ShapeError, lambda n, x: structures(n, x[:0])),
    "finite": (NonFiniteError, lambda n, x: structures(n, x / 0)),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_named(network, name):
    kind, call = BAD[name]
    with pytest.raises(kind, match=re.compile(name, re.DOTALL | re.IGNORECASE)) as caught:
        call(network, torch.zeros(3, 4, 2))
    assert len(str(caught.value)) <= 400
