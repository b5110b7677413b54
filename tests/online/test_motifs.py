"""Chains of motifs: short patterns learned by RFLO are played in an order that a linear map chooses."""

import math

import pytest
import torch
from support.seeds import seeded
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import NonFiniteError, OptionError, ShapeError
from manifold_rnn.online import RFLO, MotifChain

COUNT, LENGTH, UNITS = 3, 50, 50


def chain(length=LENGTH, n=UNITS, **options):
    generator = seeded()
    layer = mr.zoo.rflo(COUNT, n, 1, generator=generator).layer
    torch.manual_seed(0)
    return MotifChain(RFLO(layer, nn.Linear(n, 1), generator=generator), length, generator=generator, **options)


def targets(length=LENGTH):
    t = 2 * math.pi * torch.arange(length) / length
    return torch.stack([t.sin(), (2 * t).sin(), 0.5 * t.cos()]).unsqueeze(-1)


def optimizer_of(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.03)


def test_an_order_is_kept_for_a_hundred_motifs():
    model = chain(length=8)
    V = model.network.layer.weight_ih_l0.clone()
    losses = model.fit_motifs(targets(8), optimizer_of(model), 10)
    assert len(losses) == 10 and torch.equal(model.network.layer.weight_ih_l0, V)
    model.fit_order([0, 2, 1])
    outputs, order = model.play(2, 100)
    assert order == ([2, 1, 0] * 34)[:100]
    alone = model(torch.arange(COUNT))[0].detach()  # (motifs, steps, 1)
    torch.testing.assert_close(outputs.view(100, 8, 1), alone[order], atol=atol(torch.float32), rtol=0)


@pytest.mark.parametrize("order", [torch.tensor([2, 0]), (2, 0), range(2, -1, -2)], ids=repr)
def test_an_order_is_any_sequence_and_comes_back_from_a_file(order):
    model, other = chain(length=8), chain(length=8)
    model.fit_order(order)
    other.load_state_dict(model.state_dict())
    assert other.play(0, 4)[1] == [0, 2, 0, 2]
    with pytest.raises(OptionError, match=r"(?s)`first`.*one of \[0, 2\], got 1"):
        other.play(1, 4)


def test_training_forgets_the_order():
    model = chain(length=8)
    model.fit_order([0, 1, 2])
    model.fit_motifs(targets(8), optimizer_of(model), 1)
    with pytest.raises(OptionError, match="Call fit_order"):
        model.play(0, 4)


def test_targets_with_nan_change_no_weight():
    model, wrong = chain(length=8), targets(8)
    wrong[1, 2] = torch.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NonFiniteError, match="1 of 24"):
        model.fit_motifs(wrong, optimizer_of(model), 3)
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)


def test_a_part_of_the_motifs_may_be_chained():
    model = chain(length=8)
    model.fit_order([2, 0])
    assert model.play(0, 5)[1] == [0, 2, 0, 2, 0]


@pytest.mark.slow
def test_motifs_are_learned_and_played_in_order():
    model = chain()
    losses = model.fit_motifs(targets(), optimizer_of(model), 400)
    assert losses[-1] < 0.3 * losses[0]
    model.fit_order([0, 2, 1])
    outputs, order = model.play(0, 30)
    assert order == [0, 2, 1] * 10
    error = (outputs.view(30, LENGTH, 1) - targets()[order]).square().mean() / 2
    assert error < 0.3 * targets().square().mean() / 2


BAD = {
    "no length": (lambda: chain(length=0), OptionError, "`length`.*got 0"),
    "no readout": (
        lambda: MotifChain(RFLO(mr.nn.Layer(mr.nn.cells.LeakyElman(), 3, 4)), 5), OptionError, "RFLO network with a"),
    "time first": (
        lambda: MotifChain(RFLO(mr.nn.Layer(mr.nn.cells.LeakyElman(), 3, 4), nn.Linear(4, 1)), 5),
        OptionError, "batch_first=True, got batch_first=False"),
    "no scale": (lambda: chain(8, scale=0), OptionError, "`scale`.*positive.*got 0"),
    "an infinite scale": (lambda: chain(8, scale=math.inf), OptionError, "`scale`.*got inf"),
    "a start by a word": (lambda: chain(8, start="a"), OptionError, "`start`.*finite.*got 'a'"),
    "a start that is none": (lambda: chain(8, start=math.nan), OptionError, "`start`.*got nan"),
    "no ridge": (lambda: chain(8).fit_order([0, 1], ridge=0.0), OptionError, "`ridge`.*positive.*got 0.0"),
    "a play without an order": (lambda: chain(8).play(0, 3), OptionError, r"`first`.*one of \[\], got 0.*fit_order"),
    "targets of another length": (
        lambda: chain(8).fit_motifs(targets(9), None, 1), ShapeError, r"Expected \(3, 8, 1\).*got \(3, 9, 1\)"),
    "half a trial": (lambda: chain(8).fit_motifs(targets(8), None, 0.5), OptionError, "`trials`.*got 0.5"),
    "an unknown motif": (lambda: chain(8).fit_order([0, 3]), OptionError, "from 0 to 2, got 3"),
    "an empty order": (lambda: chain(8).fit_order([]), OptionError, r"got \(\)"),
    "a motif twice": (lambda: chain(8).fit_order([0, 1, 0]), OptionError, "one successor"),
    "equal states": (lambda: nulled(chain(8)).fit_order([0, 1, 2]), OptionError, "too similar"),
    "an unknown first": (lambda: chain(8).play(-1, 3), OptionError, "`first`.*got -1"),
    "nothing to play": (lambda: chain(8).play(0, 0), OptionError, "`motifs`.*got 0"),
}  # fmt: skip


def nulled(model):
    nn.init.zeros_(model.network.layer.weight_ih_l0)
    return model


@pytest.mark.parametrize(("act", "kind", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused_by_name(act, kind, message):
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        act()
    assert type(caught.value) is kind and len(str(caught.value)) <= 400
