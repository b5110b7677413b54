"""Weights that are moved between devices and precisions: by ``to_empty`` and a load, and from half precision."""

import pytest
import torch
from support import naive
from support.constraint_cases import CONSTRAINTS, VIEWS, constrained, supported
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import ManifoldError, OffManifoldError

ROWS = supported(torch.float64, torch.complex128)


def emptied(module):
    """The module with numbers that are nobody's, as ``to_empty`` may leave them."""
    module = module.to("meta").to_empty(device="cpu")
    with torch.no_grad():
        for t in module.state_dict().values():
            t.fill_(True) if t.dtype == torch.bool else t.fill_(123)
    return module


@pytest.mark.parametrize(("name", "view", "dtype"), ROWS)
def test_a_load_after_to_empty_gives_back_the_weight(name, view, dtype):
    source = constrained(name, view, dtype)
    if view == "trivialized":
        with torch.no_grad():
            for p in source.parameters():
                p.add_(torch.randn_like(p), alpha=0.1)
    target = emptied(constrained(name, view, dtype))
    if not getattr(CONSTRAINTS[name], "save_base", True):
        target.constraints["weight"].base.fill_(123)  # else it may be in the memory of the first
        with pytest.raises(OffManifoldError, match="frozen weight"):
            target.load_state_dict(source.state_dict())
        return
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.weight, source.weight)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("manifold", [mr.Orthogonal(), mr.UnitDisc(), mr.UnitaryRealForm()], ids=repr)
def test_a_forward_without_that_load_says_so(manifold, view):
    module = mr.constrain(nn.Linear(4, 4), "weight", manifold, view=view)
    assert module(torch.ones(4)).isfinite().all()
    with pytest.raises(OffManifoldError, match="off its manifold"):
        emptied(module)(torch.ones(4))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
@pytest.mark.parametrize("manifold", [mr.Orthogonal(), mr.Stiefel(), mr.UnitaryRealForm(), mr.UnitDisc()], ids=repr)
def test_a_weight_that_leaves_half_precision_gets_its_digits(manifold, view, half, wide):
    torch.manual_seed(0)
    module = mr.constrain(nn.Linear(6, 6), "weight", manifold, view=view)
    before = naive.wide(module.weight.detach())
    optimizer = mr.optim.RiemannianSGD(module.parameters(), lr=0.1)
    module.to(half).to(wide)
    assert module.weight.dtype == wide
    assert float(manifold.defect(naive.wide(module.weight.detach()))) < atol(wide)
    torch.testing.assert_close(naive.wide(module.weight.detach()), before, atol=2e-2, rtol=0)
    module(torch.ones(2, 6, dtype=wide)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("view", VIEWS)
def test_a_weight_that_is_lost_is_converted_as_it_is(view):
    module = mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal(), view=view).half()
    with torch.no_grad():
        for t in module.state_dict().values():
            t.fill_(float("nan"))
    module.float()
    with pytest.raises(ManifoldError):
        module(torch.ones(4))


def test_every_constraint_is_tested():
    assert {name for name, _, _ in ROWS} == set(CONSTRAINTS)
