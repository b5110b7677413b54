"""Doubly stochastic matrices: bad input is answered by name, and changes nothing."""

import pytest
import torch
from support.birkhoff_cases import KINDS, REAL, build, layer
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors


def poisoned(kind, value):
    module = build(kind)
    with torch.no_grad():
        for p in module.parameters():
            p.view(-1)[0] = value
    return module()


BAD = {
    "kind": (lambda: mr.Birkhoff("permutation"), errors.OptionError, "'permutations', 'sinkhorn', got 'permutation'"),
    "retraction": (lambda: mr.Birkhoff(retraction="caley"), errors.OptionError, "cayley"),
    "sweeps": (lambda: mr.Birkhoff("sinkhorn", sweeps=0), errors.OptionError, "at least 1, got 0"),
    "half a sweep": (lambda: mr.Birkhoff("sinkhorn", sweeps=0.5), errors.OptionError, "got 0.5"),
    "tall": (lambda: mr.Birkhoff().trivialize(torch.ones(4, 3)), errors.ShapeError, "square"),
    "six": (lambda: mr.Birkhoff("permutations").trivialize(torch.ones(6, 6)), errors.ShapeError, "up to 5, got 6"),
    "complex": (lambda: layer(dtype=torch.complex64), errors.DtypeError, "got torch.complex64"),
    "integers": (lambda: mr.Birkhoff().trivialize(torch.ones(2, 2).long()), errors.DtypeError, "int64"),
    "NaN": (lambda: mr.Birkhoff().trivialize(torch.full((2, 2), torch.nan)), errors.NonFiniteError, "4 of 4"),
    "view": (
        lambda: mr.constrain(nn.Linear(2, 2), "weight", mr.Birkhoff(), view="update"),
        errors.UnsupportedError,
        "trivialized",
    ),
    "NaN in Q": (lambda: poisoned("orthostochastic", torch.nan), errors.NonFiniteError, "finite"),
    "NaN of permutations": (lambda: poisoned("permutations", torch.nan), errors.NonFiniteError, "1 of 24"),
    "NaN of sinkhorn": (lambda: poisoned("sinkhorn", torch.nan), errors.NonFiniteError, "at most 1e"),
    "wide logits": (lambda: poisoned("sinkhorn", 1e30), errors.NonFiniteError, r"Got 1e\+30"),
    "assigned NaN": (
        lambda: layer().__setattr__("weight", torch.full((4, 4), torch.nan, dtype=REAL)),
        errors.NonFiniteError,
        "assigned",
    ),
    "assigned shape": (lambda: layer().__setattr__("weight", torch.ones(3, 3)), errors.OptionError, "keep its shape"),
}


@pytest.mark.parametrize(("make", "kind", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_answered_by_name(make, kind, words):
    with pytest.raises(kind, match=words) as raised:
        make()
    assert len(str(raised.value)) <= 400


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_not_loaded(kind):
    module = layer(kind)
    before = module.weight.detach().clone()
    for key in [k for k in module.state_dict() if k.startswith("constraints")]:
        state = module.state_dict()
        with pytest.raises(errors.NonFiniteError):
            module.load_state_dict({**state, key: torch.full_like(state[key], torch.nan)})
    assert torch.equal(module.weight, before)


def test_memory_without_a_matrix_is_refused():
    module = layer().to_empty(device="cpu")
    for value in (*module.parameters(), *module.buffers()):
        value.detach().zero_()
    with pytest.raises(errors.OffManifoldError, match="overwritten"):
        _ = module.weight
