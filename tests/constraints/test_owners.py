"""Owners of constrained weights that torch treats in a special way: containers, lists, and parametrized modules."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import manifold_rnn as mr
from manifold_rnn.errors import OptionError, UnsupportedError

VIEW = pytest.mark.parametrize("view", ["update", "trivialized"])


def undo(module, name):
    if parametrize.is_parametrized(module, name):
        parametrize.remove_parametrizations(module, name)
    else:
        mr.release(module, name)


STEPS = {
    "constrain": lambda m: mr.constrain(m, "weight_hh_l0", mr.Orthogonal(), view="trivialized"),
    "constrain another": lambda m: mr.constrain(m, "weight_ih_l0", mr.Stiefel(), view="trivialized"),
    "parametrize": lambda m: parametrizations.weight_norm(m, "bias_ih_l0", dim=None),
}


@pytest.mark.parametrize("steps", list(itertools.permutations(STEPS)), ids=" ".join)
def test_parametrizations_of_other_weights_come_and_go_in_any_order(steps):
    names, x = ("weight_hh_l0", "weight_ih_l0", "bias_ih_l0"), torch.randn(5, 2, 3)
    for undone in itertools.permutations(names):
        module = nn.RNN(3, 4)
        for step in steps:
            STEPS[step](module)
        expected = module(x)[0]
        torch.testing.assert_close(copy.deepcopy(module)(x)[0], expected)
        for name in undone:
            undo(module, name)
            torch.testing.assert_close(module(x)[0], expected)
            module(x)[0].sum().backward()
        assert type(module) is nn.RNN and set(dict(module.named_parameters())) == {*names, "bias_hh_l0"}


@VIEW
@pytest.mark.parametrize("kind", [nn.Sequential, nn.ModuleList, nn.ModuleDict])
def test_a_container_of_modules_cannot_own_a_constrained_weight(kind, view):
    class Owner(kind):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

    owner = Owner()
    with pytest.raises(UnsupportedError, match="member of Owner"):
        mr.constrain(owner, "w", mr.Orthogonal(), view=view)
    assert len(owner) == 0 and type(owner) is Owner and type(owner.w) is nn.Parameter


@VIEW
def test_lists_of_parameters_train_their_weights_or_refuse_to_be_sliced(view):
    weights = nn.ParameterList([torch.randn(4, 4), torch.randn(4, 4)])
    mr.constrain(weights, "0", mr.Orthogonal(), view=view)
    assert len(weights) == 2 and len(list(weights)) == 2
    sum(w.square().sum() + w[0, 0] for w in weights).backward()
    assert all(p.grad is not None for p in weights.parameters())
    if view == "update":
        assert weights[:1][0] is weights[0]
    else:
        with pytest.raises(UnsupportedError, match="slice"):
            weights[:1]
    assert type(mr.release(weights, "0")[:1]) is nn.ParameterList


@VIEW
def test_a_method_that_makes_a_module_of_its_class_makes_a_plain_one(view):
    class Layer(nn.Linear):
        def another(self):
            return type(self)(self.in_features, out_features=self.out_features)

    module = mr.constrain(Layer(3, 3), "weight", mr.Orthogonal(), view=view)
    another = module.another()
    assert type(another) is Layer and type(another.weight) is nn.Parameter
    assert type(copy.deepcopy(module)) is type(module)


TAKING = {
    "assign a parameter": lambda m: setattr(m, "weight", nn.Parameter(torch.eye(4))),
    "register_parameter": lambda m: m.register_parameter("weight", nn.Parameter(torch.eye(4))),
    "update": lambda m: m.update({"weight": nn.Parameter(torch.eye(4))}),
    "prune": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "prune all": lambda m: prune.global_unstructured([(m, "weight")], prune.L1Unstructured, amount=0.5),
}


@pytest.mark.parametrize("name", TAKING)
def test_a_parameter_in_the_place_of_a_computed_weight_is_refused_by_name(name):
    module = nn.ParameterDict({"weight": torch.randn(4, 4)})
    mr.constrain(module, "weight", mr.Orthogonal(), view="trivialized")
    before = module["weight"].detach().clone()
    with pytest.raises(OptionError, match="constrained weight 'weight'"):
        TAKING[name](module)
    assert torch.equal(module["weight"], before) and len(list(module.parameters())) == 1
