"""Blocks of one weight, each under a constraint of its own."""

import copy
import pickle

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.linalg import defect, spectral_radius

MIXED = {0: mr.Orthogonal(), 2: mr.SchurDisc(), 3: mr.FixedBase(mr.Orthogonal(), negatives=1)}


def mixed(**options):
    return mr.constrain(nn.LSTM(2, 4), "weight_hh_l0", MIXED, blocks=4, view="trivialized", **options)


def train(module, steps=20):
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    x = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        module(x)[0].square().sum().backward()
        optimizer.step()
    return x


def test_each_block_keeps_its_own_constraint_while_training():
    lstm = mixed()
    before = lstm.weight_hh_l0.detach().clone()
    train(lstm)
    after = lstm.weight_hh_l0.detach()
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(after.split(4), before.split(4), strict=True))
    assert defect(after[:4]) < 1e-5 and defect(after[12:]) < 1e-5
    assert spectral_radius(after[8:12]) < 1
    torch.testing.assert_close(torch.det(after[12:]), torch.tensor(-1.0))


def test_counts_saves_copies_assigns_and_releases():
    lstm, other = mixed(), mixed()
    x = train(lstm)
    # free: 32 inputs, 32 biases, 16 of the block "f"; 6 and 6 of rotations; 16 of the Schur form
    assert mr.degrees_of_freedom(lstm) == 32 + 32 + 16 + 6 + 6 + 16
    other.load_state_dict(lstm.state_dict())
    for same in (other, copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert torch.equal(same(x)[0], lstm(x)[0])
    fresh = mixed()
    fresh.weight_hh_l0 = lstm.weight_hh_l0.detach()
    torch.testing.assert_close(fresh.weight_hh_l0, lstm.weight_hh_l0, atol=1e-5, rtol=0)
    weight = lstm.weight_hh_l0.detach().clone()
    mr.release(lstm, "weight_hh_l0")
    assert type(lstm) is nn.LSTM and torch.equal(lstm.weight_hh_l0, weight)


def test_a_damaged_block_is_not_loaded():
    lstm, other = mixed(), mixed()
    state = other.state_dict()
    state["constraints.weight_hh_l0.members.0.base"] += 1
    with pytest.raises(mr.errors.OffManifoldError, match=r"members\.0\.base"):
        mr.load_checked(lstm, state)


def test_one_manifold_for_several_blocks_has_both_views():
    parts = {2: mr.Orthogonal(), 0: mr.Orthogonal()}
    lstm = mr.constrain(nn.LSTM(2, 4), "weight_hh_l0", parts, blocks=4)
    assert isinstance(lstm.weight_hh_l0, nn.Parameter)
    assert defect(lstm.weight_hh_l0[:4]) < 1e-5 and defect(lstm.weight_hh_l0[8:12]) < 1e-5


def test_a_structured_constraint_takes_blocks():
    square = mr.FixedBase(mr.Orthogonal(), negatives=1)
    gru = mr.constrain(nn.GRU(2, 4), "weight_hh_l0", square, blocks=3, which=(1,), view="trivialized")
    torch.testing.assert_close(torch.det(gru.weight_hh_l0[4:8]), torch.tensor(-1.0))


def test_different_manifolds_are_rebased_together():
    parts = {0: mr.Orthogonal("exp"), 1: mr.SpecialOrthogonal("cayley")}
    lstm = mr.constrain(nn.LSTM(2, 4), "weight_hh_l0", parts, blocks=4, view="trivialized", rebase_every=1)
    train(lstm, steps=3)
    moved = [part for part in lstm.constraints["weight_hh_l0"].parts().values() if part.retraction is not None]
    assert len(moved) == 2 and not any(part.coordinates.any() for part in moved)
    mr.set_retraction(lstm, "weight_hh_l0", "polar")
    assert {part.retraction.name for part in moved} == {"polar"}


@pytest.mark.parametrize("parts", [{}, {4: mr.Orthogonal()}, {"g": mr.Orthogonal()}, {0: "orthogonal"}, {0: nn.Linear}])
def test_parts_that_make_no_sense_are_named(parts):
    lstm = nn.LSTM(2, 4)
    before = lstm.weight_hh_l0.detach().clone()
    with pytest.raises(mr.errors.OptionError, match="constraint"):
        mr.constrain(lstm, "weight_hh_l0", parts, blocks=4, view="trivialized")
    assert type(lstm) is nn.LSTM and torch.equal(lstm.weight_hh_l0, before)


def test_what_has_no_update_view_says_so():
    with pytest.raises(mr.errors.UnsupportedError, match="trivialized"):
        mr.constrain(nn.LSTM(2, 4), "weight_hh_l0", MIXED, blocks=4, view="update")
    with pytest.raises(mr.errors.ShapeError, match="5 equal blocks"):
        mr.constrain(nn.LSTM(2, 4), "weight_hh_l0", {0: MIXED[3]}, blocks=5, view="trivialized")


class Two(mr.nn.cells.Elman):
    """A cell with two recurrent matrices, for the layer to name."""

    gates = ("plus", "minus")

    def allocate(self, input_size, hidden_size, **kwargs):
        weights = super().allocate(input_size, hidden_size, **kwargs)
        return weights | {"weight_hh": weights["weight_hh"].new_empty(2 * hidden_size, hidden_size)}

    def step(self, u, state, W):
        plus, minus = W.chunk(2)
        return super().step(u, state, plus - minus)


def test_a_layer_knows_the_gates_of_its_cell_by_name():
    both = mr.nn.Layer(Two(), 2, 4, constraint=mr.Orthogonal())
    assert defect(both.weight_hh_l0[:4]) < 1e-5 and defect(both.weight_hh_l0[4:]) < 1e-5
    one = mr.nn.Layer(Two(), 2, 4, constraint={"minus": mr.Orthogonal()}, bidirectional=True)
    for W in (one.weight_hh_l0, one.weight_hh_l0_reverse):
        assert defect(W[:4]) > 0.1 and defect(W[4:]) < 1e-5
    with pytest.raises(mr.errors.OptionError, match="'plus', 'minus'"):
        mr.nn.Layer(Two(), 2, 4, constraint={"i": mr.Orthogonal()})
