"""What the hooks on optimizers do: refuse, advise, count and rebase."""

import copy
import warnings

import geoopt
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import manifold_rnn as mr
from manifold_rnn.errors import OptimizerError, OptionError, UnsupportedError

N = 4


def layer(dtype=torch.float64, manifold=None, **options):
    torch.manual_seed(0)
    return mr.constrain(nn.Linear(N, N, dtype=dtype), "weight", manifold or mr.Orthogonal(), **options)


def train(module, optimizer, steps, dtype=torch.float64):
    torch.manual_seed(1)
    x, y = torch.randn(2, 8, N, dtype=dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        (module(x) - y).square().mean().backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS], ids=lambda k: k.__name__)
def test_a_plain_optimizer_on_an_update_view_weight_is_refused(kind):
    module = layer()
    before = copy.deepcopy(module).state_dict()
    optimizer = kind(module.parameters(), lr=0.1)

    def closure():
        loss = module(torch.randn(2, N, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    closure()
    with pytest.raises(OptimizerError, match=rf"{kind.__name__}.*'weight'") as caught:
        optimizer.step(closure)
    assert len(str(caught.value)) <= 400
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_named_parameter_is_named_exactly():
    model = nn.Sequential(layer(), layer(), nn.Linear(N, N).double())
    optimizer = torch.optim.SGD(list(model.named_parameters())[2:], 0.1)
    with pytest.raises(OptimizerError, match=r"1\.weight"):
        optimizer.step()


def test_a_frozen_weight_may_be_held():
    module = layer()
    module.weight.requires_grad_(False)
    before = module.weight.clone()
    train(module, torch.optim.SGD(module.parameters(), 0.1), 1)
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}], ids=str)
def test_a_weight_that_was_frozen_after_a_backward_pass_is_still_moved_by_its_gradient(options):
    module = layer()
    module(torch.ones(2, N, dtype=torch.float64)).sum().backward()
    module.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, **options)
    optimizer.zero_grad(set_to_none=False)
    before = module.weight.clone()
    with pytest.raises(OptimizerError, match="'weight'"):
        optimizer.step()
    assert torch.equal(module.weight, before)


def test_riemannian_optimizers_may_hold_it():
    class Mine(torch.optim.SGD):
        moves_on_manifolds = True

    own = type("Own", (geoopt.optim.RiemannianSGD,), {})
    kinds = (
        geoopt.optim.RiemannianSGD,
        geoopt.optim.RiemannianAdam,
        own,
        mr.optim.RiemannianSGD,
        mr.optim.RiemannianAdam,
    )
    for kind in kinds:
        module = layer()
        train(module, kind(module.parameters(), 0.1), 5)
        assert mr.linalg.defect(module.weight) < 1e-9
    module = layer()
    train(module, Mine(module.parameters(), 0.1), 1)


def _edited(optimizer, weight):
    optimizer.param_groups[0]["params"][0] = weight


def _refilled(optimizer, weight):
    optimizer.param_groups[0]["params"] = []  # the parameter there dies, and its identity may be given to another
    optimizer.param_groups[0]["params"] = [weight]


def _regrouped(optimizer, weight):
    optimizer.param_groups.clear()
    optimizer.add_param_group({"params": [weight]})


@pytest.mark.parametrize("put", [_edited, _refilled, _regrouped], ids=lambda f: f.__name__)
def test_a_weight_is_noticed_however_it_came_into_an_optimizer(put):
    for _ in range(5):
        module = layer()
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(N, N))], 0.1)
        optimizer.step()
        put(optimizer, module.weight)
        with pytest.raises(OptimizerError):
            optimizer.step()
        free = layer(view="trivialized", rebase_every=1)
        entry = free.constraints["weight"]
        put(optimizer, entry.coordinates)
        train(free, optimizer, 2)
        assert entry.steps == 2


def test_an_optimizer_of_other_tensors_than_the_present_coordinates_counts_no_step():
    module = layer(view="trivialized", rebase_every=1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    train(module, optimizer, 1)
    module.load_state_dict({key: value.clone() for key, value in module.state_dict().items()}, assign=True)
    optimizer.step()
    assert module.constraints["weight"].steps == 1


def _fail_to_constrain():
    class Broken(mr.Orthogonal):
        def coordinate_shape(self, shape, dtype=None):
            raise MemoryError

    with pytest.raises(MemoryError) as caught:
        mr.constrain(nn.Linear(N, N), "weight", Broken(), view="trivialized")
    return caught  # which holds the frames, and what was being made in them


def _constrain_and_delete():
    module = layer()
    del module.weight
    return module


def _constrain_and_prune():
    return prune.l1_unstructured(layer(), "weight", 1)


@pytest.mark.parametrize("leave", [_fail_to_constrain, _constrain_and_delete, _constrain_and_prune])
def test_what_went_wrong_elsewhere_concerns_no_other_optimizer(leave):
    held = leave()
    module = nn.Linear(N, N).double()
    train(module, torch.optim.SGD(module.parameters(), 0.1), 1)
    del held


@pytest.mark.parametrize("leave", [_constrain_and_delete, _constrain_and_prune])
def test_a_weight_that_another_tool_took_is_missed_by_name_and_may_be_released(leave):
    module = leave()
    with pytest.raises(OptionError, match="'weight' is no longer a parameter of its module"):
        module(torch.ones(N, dtype=torch.float64))
    assert mr.degrees_of_freedom(module) >= N
    module.load_state_dict({"bias": torch.zeros(N)}, strict=False)
    mr.release(module, "weight")
    assert not list(mr.constraints.parametrizations(module))


def test_an_optimizer_that_was_refused_takes_the_weight_once_it_is_released():
    module = layer()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with pytest.raises(OptimizerError):
        train(module, optimizer, 1)
    mr.release(module, "weight")
    train(module, optimizer, 1)


def test_released_weights_are_free():
    module = mr.release(layer(), "weight")
    train(module, torch.optim.SGD(module.parameters(), 0.1), 1)


@pytest.mark.parametrize("every", [None, 1, 3])
def test_the_base_moves_every_so_many_steps(every):
    module = layer(view="trivialized", rebase_every=every)
    entry = module.constraints["weight"]
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for step in range(1, 8):
        base, weight = entry.base.clone(), None
        train(module, optimizer, 1)
        weight = module.weight.detach()
        moves = every is not None and step % every == 0
        assert torch.equal(entry.base, base) is not moves
        assert bool(entry.coordinates.any()) is not moves
        if moves:
            torch.testing.assert_close(entry.base, weight)


def test_rebasing_leaves_the_weight_where_it_is():
    module = layer(view="trivialized")
    train(module, torch.optim.Adam(module.parameters(), 0.1), 5)
    before = module.weight.detach()
    module.constraints["weight"].rebase()
    torch.testing.assert_close(module.weight.detach(), before, atol=1e-14, rtol=0)


def test_stepwise_rebasing_under_sgd_is_riemannian_descent():
    """K = 1 and SGD: W <- W phi(-lr A), with A the skew part of W^T G, because the coordinates are isometric."""
    module = layer(view="trivialized", rebase_every=1)
    dense, manifold = nn.Linear(N, N, dtype=torch.float64), mr.Orthogonal()
    with torch.no_grad():
        dense.weight.copy_(module.weight)
        dense.bias.copy_(module.bias)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(50):
        train(module, optimizer, 1)
        train(dense, torch.optim.SGD([dense.bias], 0.1), 0)
        torch.manual_seed(1)
        x, y = torch.randn(2, 8, N, dtype=torch.float64)
        gW, gb = torch.autograd.grad((dense(x) - y).square().mean(), [dense.weight, dense.bias])
        with torch.no_grad():
            dense.weight.copy_(manifold.retr(dense.weight, -0.1 * manifold.egrad2rgrad(dense.weight, gW)))
            dense.bias.sub_(0.1 * gb)
    torch.testing.assert_close(module.weight, dense.weight, atol=1e-12, rtol=0)


def test_only_an_optimizer_that_holds_it_with_a_gradient_counts():
    module = layer(view="trivialized", rebase_every=1)
    entry = module.constraints["weight"]
    other = torch.optim.SGD([module.bias], 0.1)
    train(module, other, 3)
    assert entry.steps == 0
    holder = torch.optim.SGD(module.parameters(), 0.1)
    holder.zero_grad()
    holder.step()
    assert entry.steps == 0
    train(module, holder, 2)
    assert entry.steps == 2


def test_copies_count_for_themselves():
    module = layer(view="trivialized", rebase_every=2)
    twin = copy.deepcopy(module)
    train(twin, torch.optim.SGD(twin.parameters(), 0.1), 3)
    assert (module.constraints["weight"].steps, twin.constraints["weight"].steps) == (0, 3)


def test_a_skipped_step_of_a_gradient_scaler_does_not_count():
    module = layer(dtype=torch.float32, view="trivialized", rebase_every=1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for value, expected in ((torch.inf, 0), (1.0, 1)):
        optimizer.zero_grad()
        scaler.scale(module(torch.randn(2, N)).square().sum() * value).backward()
        scaler.step(optimizer)
        scaler.update()
        assert module.constraints["weight"].steps == expected


def test_a_base_never_becomes_nan():
    module = layer(view="trivialized", rebase_every=1)
    entry, before = module.constraints["weight"], module.weight.detach().clone()
    with torch.no_grad():
        entry.coordinates.fill_(torch.nan)
    entry.rebase()
    assert torch.equal(entry.base, before)
    assert entry.coordinates.isnan().all()


def warned(module, optimizer, steps=2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(module, optimizer, steps)
    return [str(w.message) for w in caught]


def test_weight_decay_on_coordinates_gives_one_warning_that_names_the_group():
    module = layer(view="trivialized")
    entry = module.constraints["weight"]
    groups = [{"params": [module.bias]}, {"params": [entry.coordinates]}]
    (message,) = warned(module, torch.optim.AdamW(groups))
    assert "AdamW" in message
    assert "Split group 1" in message
    groups[1]["weight_decay"] = 0
    assert not warned(module, torch.optim.AdamW(groups))
    assert not warned(module, torch.optim.Adam(module.parameters()))


@pytest.mark.parametrize("kind", [torch.optim.ASGD, torch.optim.Rprop])
def test_optimizers_that_remember_coordinates_are_named(kind):
    module = layer(view="trivialized", rebase_every=2)
    (message,) = warned(module, kind(module.parameters()))
    assert kind.__name__ in message
    static = layer(view="trivialized")
    assert not warned(static, kind(static.parameters()))


def test_lbfgs_is_named():
    module = layer(view="trivialized", rebase_every=1)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = module(torch.eye(N, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    with pytest.warns(UserWarning, match="LBFGS"):
        optimizer.step(closure)


def test_a_long_run_in_single_precision_stays_on_the_manifold():
    module = layer(dtype=torch.float32, view="trivialized", rebase_every=1)
    train(module, torch.optim.SGD(module.parameters(), 0.3), 500, dtype=torch.float32)
    assert mr.linalg.defect(module.weight.double()) < 2e-6


@pytest.mark.parametrize("manifold", [geoopt.Sphere(), geoopt.EuclideanStiefel()], ids=str)
def test_geoopt_manifolds_rebase(manifold):
    module = layer(manifold=manifold, view="trivialized", rebase_every=2)
    train(module, torch.optim.SGD(module.parameters(), 0.1), 6)
    assert not module.constraints["weight"].coordinates.any()
    assert manifold.check_point_on_manifold(module.weight.detach())


def test_a_fixed_base_refuses_to_move():
    module = mr.constrain(nn.Linear(N, N), "weight", mr.FixedBase(mr.Orthogonal()), view="trivialized")
    with pytest.raises(UnsupportedError, match="fixed"):
        module.constraints["weight"].rebase()
