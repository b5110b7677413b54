"""An average of a model is that of its dense weights, on their sets, whatever the view and the base."""

import copy
import warnings

import pytest
import torch
from support.constraint_cases import CONSTRAINTS, constrained, supported
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import manifold_rnn as mr
from manifold_rnn.errors import ManifoldError, OptionError

CASES = [("update", None), ("trivialized", None), ("trivialized", 1), ("trivialized", 5)]
ROWS = supported(torch.float64, torch.complex128)


def steps(module, view, count, averaged=None):
    kind = mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD
    optimizer = kind(module.parameters(), lr=0.02)
    weights = []
    for _ in range(count):
        optimizer.zero_grad()
        (module.weight - 0.5).abs().square().sum().backward()
        optimizer.step()
        weights.append(module.weight.detach().clone())
        if averaged is not None:
            averaged.update_parameters(module)
    return weights


@pytest.mark.parametrize("decay", [None, 0.0, 0.9])
@pytest.mark.parametrize(("view", "every"), CASES)
def test_the_average_is_that_of_dense_weights_projected(view, every, decay):
    torch.manual_seed(0)
    module = nn.Linear(5, 5, dtype=torch.float64)
    manifold = mr.SpecialOrthogonal()
    mr.constrain(module, "weight", manifold, view=view, rebase_every=every)
    averaged = mr.optim.average(module, decay)
    assert isinstance(averaged, AveragedModel)
    weights = steps(module, view, 12, averaged)
    mean = weights[0]
    for count, W in enumerate(weights[1:], 1):
        mean = mean + (W - mean) * (1 / (count + 1) if decay is None else 1 - decay)
    torch.testing.assert_close(averaged.module.weight, manifold.projx(mean), atol=1e-10, rtol=0)


def test_free_parameters_are_averaged_as_by_torch():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    ours = mr.optim.average(module, 0.9)
    theirs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        module(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        ours.update_parameters(module)
        theirs.update_parameters(module)
    torch.testing.assert_close(ours.module.state_dict(), theirs.module.state_dict())


@pytest.mark.parametrize(("view", "every"), CASES)
def test_a_resumed_average_goes_on_to_the_last_bit(view, every):
    torch.manual_seed(0)
    module = mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal(), view=view, rebase_every=every)
    averaged = mr.optim.average(module, 0.9)
    steps(module, view, 3, averaged)
    resumed = mr.optim.average(copy.deepcopy(module), 0.9)
    resumed.load_state_dict(averaged.state_dict())
    steps(module, view, 1)
    for each in (averaged, resumed):
        each.update_parameters(module)
    assert torch.equal(averaged.module.weight, resumed.module.weight)


@pytest.mark.parametrize(("name", "view", "dtype"), ROWS)
def test_every_constraint_is_averaged_on_its_set_or_refused_unchanged(name, view, dtype):
    module = constrained(name, view, dtype)
    try:
        averaged = mr.optim.average(module, 0.5)
    except ManifoldError:
        return
    before = copy.deepcopy(averaged.state_dict())
    try:
        steps(module, view, 2, averaged)
    except ManifoldError:
        torch.testing.assert_close(averaged.module.weight.isfinite().all(), torch.tensor(True))
        return
    defect = averaged.module.constraints["weight"].defect()
    assert averaged.n_averaged == before["n_averaged"] + 2
    assert defect is None or defect < 1e-6


@pytest.mark.parametrize("use_buffers", [False, True])
def test_torchs_average_of_points_is_warned_about_where_it_is_made(use_buffers):
    module = mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal())
    with pytest.warns(UserWarning, match=r"optim\.average"):
        AveragedModel(nn.Sequential(module), use_buffers=use_buffers)


@pytest.mark.parametrize("use_buffers", [False, True])
def test_torchs_average_of_coordinates_with_a_moving_base_is_warned_about_at_the_first_step(use_buffers):
    module = mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal(), view="trivialized", rebase_every=2)
    foreign = AveragedModel(module, use_buffers=use_buffers)
    with pytest.warns(UserWarning, match=r"optim\.average"):
        steps(module, "trivialized", 1)
    del foreign


def test_ours_and_fixed_bases_are_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for view, every in CASES:
            module = mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal(), view=view, rebase_every=every)
            kept = [mr.optim.average(module)]
            if view == "trivialized" and not every:
                kept.append(AveragedModel(module))
            steps(module, view, 1)
        AveragedModel(nn.Linear(4, 4))


WRAPPERS = {"compile": lambda m: torch.compile(m, backend="eager"), "DataParallel": nn.DataParallel}


@pytest.mark.parametrize("averages_wrapped", [False, True])
@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize(("view", "every"), CASES)
def test_a_wrapped_model_has_the_average_of_the_model(view, every, wrap, averages_wrapped):
    torch.manual_seed(0)
    module = mr.constrain(nn.Linear(4, 4), "weight", mr.Orthogonal(), view=view, rebase_every=every)
    plain = nn.Sequential(nn.ModuleDict({"module": module}), nn.Linear(2, 2))
    wrapped = WRAPPERS[wrap](plain)
    expected = mr.optim.average(plain, 0.9)
    averaged, updated = (wrapped, plain) if averages_wrapped else (plain, wrapped)
    averaged = mr.optim.average(averaged, 0.9)
    for _ in range(2):
        steps(module, view, 1)
        averaged.update_parameters(updated)
        expected.update_parameters(plain)
    for a, b in zip(averaged.module.state_dict().values(), expected.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def another_constraint(model, view):
    mr.constrain(model[1], "weight", mr.Orthogonal(), view=view)


CHANGES = {
    "constrain": another_constraint,
    "release": lambda model, view: mr.release(model[0], "weight"),
    "parameter": lambda model, view: model.append(nn.Linear(2, 2)),
    "shape": lambda model, view: setattr(model[1], "bias", nn.Parameter(torch.ones(1))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_a_model_that_changed_after_its_average_was_made_is_refused_by_what_differs(view, change):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    mr.constrain(model[0], "weight", mr.Orthogonal(), view=view)
    averaged = mr.optim.average(model)
    before = copy.deepcopy(averaged.state_dict())
    CHANGES[change](model, view)
    with pytest.raises(OptionError, match=r"Expected .* got .*Nothing was changed") as caught:
        averaged.update_parameters(torch.compile(model, backend="eager"))
    assert len(str(caught.value)) <= 400
    torch.testing.assert_close(averaged.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize("decay", [1.0, -0.1, 2])
def test_a_decay_is_a_share(decay):
    with pytest.raises(OptionError, match="decay"):
        mr.optim.average(nn.Linear(2, 2), decay)


def test_every_constraint_is_tested():
    assert {name for name, _, _ in ROWS} == set(CONSTRAINTS)
