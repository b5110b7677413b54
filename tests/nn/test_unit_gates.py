"""Hard-concrete gates: their distribution, their range, and the units that stay open."""

import copy
import math

import pytest
import torch
from support.tolerances import atol

from manifold_rnn.errors import OptionError
from manifold_rnn.nn import UnitGates

REAL = [torch.float32, torch.float64]


def gates(log_alpha, **options):
    module = UnitGates(len(log_alpha), **options)
    with torch.no_grad():
        module.log_alpha.copy_(torch.as_tensor(log_alpha))
    return module


@pytest.mark.parametrize("dtype", REAL)
def test_the_numbers_of_the_usual_start(dtype):
    module = gates([1.0] * 3, dtype=dtype).eval()
    torch.testing.assert_close(module(), torch.full((3,), 1.2 / (1 + math.exp(-1)) - 0.1, dtype=dtype))
    expected = 1 / (1 + math.exp(-(1 + 2 / 3 * math.log(11))))
    torch.testing.assert_close(module.open_probability(), torch.full((3,), expected, dtype=dtype))
    assert expected == pytest.approx(0.931, abs=1e-3) and module()[0].item() == pytest.approx(0.777, abs=1e-3)


def test_gates_are_exactly_0_below_and_exactly_1_above_a_bound():
    bound = math.log(11)
    module = gates([-bound - 1e-3, -bound + 1e-3, bound + 1e-3, 0.0]).eval()
    assert module()[0] == 0 < module()[1] < 1e-3 and module()[2] == 1 and module()[3] == 0.5
    assert module.open().tolist() == [1, 2, 3]


def test_a_gate_is_open_as_often_as_it_says():
    torch.manual_seed(0)
    module = gates(torch.linspace(-3, 3, 7).repeat(20_000), dtype=torch.float64)
    module.sample()
    share = (module() > 0).double().view(-1, 7).mean(0)
    torch.testing.assert_close(share, module.open_probability()[:7], atol=0.02, rtol=0)  # 5 standard errors


@pytest.mark.parametrize("dtype", REAL)
def test_a_sample_is_the_formula_and_its_gradient(dtype):
    torch.manual_seed(0)
    module = gates(torch.randn(50), dtype=dtype)
    module.sample()
    free = module.log_alpha.detach().requires_grad_()
    z = torch.sigmoid((module.noise + free) * 1.5)
    naive = (1.2 * z - 0.1).clamp(0, 1)
    torch.testing.assert_close(module(), naive, atol=atol(dtype), rtol=0)
    module().sin().sum().backward()
    naive.sin().sum().backward()
    torch.testing.assert_close(module.log_alpha.grad, free.grad, atol=atol(dtype), rtol=0)


def test_all_readers_see_one_sample_until_the_next_and_evaluation_sees_none():
    module = UnitGates(40)
    module.sample()
    first = module()
    assert torch.equal(module(), first)
    module.sample()
    assert not torch.equal(module(), first)
    module.eval()
    assert torch.equal(module(), module())


def test_the_range_is_kept_and_its_edge_has_a_gradient():
    module = gates([-50.0, 50.0, 0.0], minimum=1)
    module.sample()
    torch.testing.assert_close(module.log_alpha.detach(), torch.tensor([math.log(0.01), math.log(100), 0.0]))
    module.open_probability().sum().backward()
    assert (module.log_alpha.grad > 0).all()


@pytest.mark.parametrize("minimum", [1, 3])
def test_the_largest_stay_open(minimum):
    module = gates([-4.0, -3.0, -9.0, -3.5, -8.0], minimum=minimum).eval()
    assert module.open().tolist() == sorted([1, 3, 0][:minimum])
    assert int((module() > 0).sum()) == minimum and module().max() == 0.5


def test_a_copy_after_a_sample_is_independent():
    module = UnitGates(4)
    module.sample()
    module().sum().backward()
    twin = copy.deepcopy(module)
    assert torch.equal(twin(), module()) and list(module.state_dict()) == ["log_alpha"]


@pytest.mark.parametrize("options", [{"minimum": 0}, {"minimum": 5}, {"minimum": 1.5}, {"start": math.inf}], ids=str)
def test_bad_options_are_named(options):
    with pytest.raises(OptionError, match=next(iter(options))) as caught:
        UnitGates(4, **options)
    assert len(str(caught.value)) <= 400
