"""A step begins at a point, with state of its own coordinates, or is refused by the name of the cause, unchanged."""

import copy

import geoopt
import pytest
import torch
from support.optimizer_cases import OPTIMIZERS
from torch import nn

import manifold_rnn as mr
from manifold_rnn import optim, retractions
from manifold_rnn.errors import ManifoldError, NonFiniteError, OffManifoldError, OptimizerError

OVERWRITE = {
    "copy_": lambda m, x: m.weight.detach().copy_(x),
    "data=": lambda m, x: setattr(m.weight, "data", x.clone()),
    "data.copy_": lambda m, x: m.weight.data.copy_(x),
    "new parameter": lambda m, x: setattr(m, "weight", nn.Parameter(x.clone())),
    "vector": lambda m, x: nn.utils.vector_to_parameters(x.flatten(), m.parameters()),
}
SCALES = (0.0, 0.5, 3.0)


def layer(retraction="cayley", n=6):
    torch.manual_seed(0)
    return mr.constrain(nn.Linear(n, n, bias=False), "weight", mr.Orthogonal(retraction))


def backward(module):
    module.zero_grad()
    (module(torch.ones(2, module.in_features)) - 1).square().mean().backward()


def snapshot(module, optimizer):
    return copy.deepcopy((module.weight.detach().clone(), optimizer.state_dict()["state"]))


def assert_same(a, b):
    assert torch.equal(a[0], b[0])
    torch.testing.assert_close(a[1], b[1], atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("how", OVERWRITE)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("retraction", retractions.names())
def test_an_overwritten_weight_is_refused_and_nothing_is_changed(name, retraction, how):
    for scale in SCALES:
        module = layer(retraction)
        OVERWRITE[how](module, scale * torch.randn(6, 6))
        optimizer = getattr(optim, name)(module.parameters(), lr=0.01)
        backward(module)
        before = snapshot(module, optimizer)
        for _ in range(2):  # and again, unless somebody mends it
            with pytest.raises(OffManifoldError, match="overwritten after constrain") as caught:
                optimizer.step()
        assert len(str(caught.value)) <= 400 and "rate" not in str(caught.value)
        assert_same(snapshot(module, optimizer), before)


@pytest.mark.parametrize("how", [how for how in OVERWRITE if how not in ("data.copy_", "new parameter")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_so_is_one_that_is_overwritten_between_two_steps(name, how):
    module = layer()
    optimizer = getattr(optim, name)(module.parameters(), lr=0.01)
    for _ in range(3):
        backward(module)
        optimizer.step()
    OVERWRITE[how](module, torch.randn(6, 6))
    backward(module)
    before = snapshot(module, optimizer)
    with pytest.raises(OffManifoldError):
        optimizer.step()
    assert_same(snapshot(module, optimizer), before)


def test_writing_through_data_leaves_no_trace_and_is_found_within_a_hundred_steps():
    module = layer()
    optimizer = optim.RiemannianSGD(module.parameters(), lr=1e-6)
    backward(module)
    optimizer.step()
    module.weight.data.zero_()
    with pytest.raises(OffManifoldError):  # noqa: PT012 - one of the steps
        for _ in range(100):
            optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numbers_are_looked_at_only_where_somebody_else_has_written(name, monkeypatch):
    module = layer()
    optimizer, looks = getattr(optim, name)(module.parameters(), lr=0.01), []
    inspect = type(optimizer).require_point
    monkeypatch.setattr(type(optimizer), "require_point", lambda *args: (looks.append(1), inspect(*args)))
    for _ in range(5):
        backward(module)
        optimizer.step()
    assert len(looks) == 1
    module.load_state_dict(layer().state_dict())
    optimizer.step()
    assert len(looks) == 2
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert len(looks) == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_weight_that_is_no_number_is_named_not_the_gradient(name):
    module = layer()
    module.weight.data.fill_(torch.nan)
    optimizer = getattr(optim, name)(module.parameters(), lr=0.01)
    backward(module)
    with pytest.raises(NonFiniteError, match="the weight"):
        optimizer.step()


def test_capturable_optimizers_look_when_they_are_made():
    module = layer()
    OVERWRITE["copy_"](module, torch.randn(6, 6))
    with pytest.raises(OffManifoldError):
        optim.RiemannianAdam(module.parameters(), capturable=True)


def test_landing_takes_what_it_can_lead_back():
    module = layer(n=3)
    module.weight.detach().mul_(1.1)
    optimizer = optim.Landing(module.parameters(), lr=0.1)
    for _ in range(3):
        before = optimizer.distance
        backward(module)
        optimizer.step()
        assert optimizer.distance < max(before, 0.5)


def test_geoopts_optimizers_are_stopped_before_an_overwritten_weight_too():
    module = layer()
    OVERWRITE["copy_"](module, torch.randn(6, 6))
    backward(module)
    with pytest.raises(OffManifoldError):
        geoopt.optim.RiemannianSGD(module.parameters(), lr=0.1).step()


@pytest.mark.parametrize("manifold", [mr.Orthogonal(), mr.Stiefel()], ids=lambda m: m.name)
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Landing"])
def test_moments_of_before_constrain_or_release_are_refused(name, manifold):
    options = {"momentum": 0.9} if name == "RiemannianSGD" else {}
    module = nn.Linear(4, 4)
    optimizer = getattr(optim, name)(module.parameters(), lr=0.1, **options)
    changes = (
        lambda: mr.constrain(module, "weight", manifold),
        lambda: mr.release(module, "weight"),
    )
    backward(module)
    optimizer.step()
    for change in changes:
        change()
        backward(module)
        before = snapshot(module, optimizer)
        with pytest.raises(OptimizerError, match="before constrain or release") as caught:
            optimizer.step()
        assert len(str(caught.value)) <= 400
        assert_same(snapshot(module, optimizer), before)
        del optimizer.state[module.weight]
        optimizer.step()


FRAMES = (  # equal name and shape, but another metric or other vectors
    (mr.SPD("affine"), mr.SPD("log-cholesky")),
    (mr.Stiefel(metric="euclidean"), mr.Stiefel(metric="canonical")),
    (mr.Sphere((-2, -1)), mr.Sphere()),
    (mr.Oblique(-1), mr.Oblique(-2)),
    (geoopt.EuclideanStiefel(), geoopt.CanonicalStiefel()),
    (mr.manifolds.Blocks(mr.Oblique(-1), blocks=2), mr.manifolds.Blocks(mr.Oblique(-2), blocks=2)),
)


def stepped(module, name, **more):
    """An optimizer that has made a step of a module and has the gradient of the next."""
    options = {"momentum": 0.9} if name in ("RiemannianSGD", "RiemannianRMSprop") else {}
    optimizer = getattr(optim, name)(module.parameters(), lr=1e-3, **options, **more)
    for _ in range(2):
        backward(module)
        optimizer.step()
    backward(module)
    return optimizer


@pytest.mark.parametrize("frames", [*FRAMES, *(pair[::-1] for pair in FRAMES)], ids=str)
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("Landing", "RiemannianMuon")])
def test_so_are_moments_of_another_metric_or_of_other_vectors(name, frames):
    module = mr.constrain(nn.Linear(4, 4, bias=False), "weight", frames[0])
    optimizer = stepped(module, name)
    mr.constrain(mr.release(module, "weight"), "weight", frames[1])
    before = snapshot(module, optimizer)
    with pytest.raises(OptimizerError, match="was collected"):
        optimizer.step()
    assert_same(snapshot(module, optimizer), before)
    optimizer.state.clear()
    optimizer.step()


@pytest.mark.parametrize("kinds", [("matrix", "elementwise"), ("elementwise", "matrix")])
@pytest.mark.parametrize("manifold", [mr.Orthogonal(), mr.SPD("log-cholesky")], ids=str)
@pytest.mark.parametrize("name", ["RiemannianAdam", "RiemannianAdagrad", "RiemannianRMSprop"])
def test_so_are_second_moments_of_another_kind(name, manifold, kinds):
    module = mr.constrain(nn.Linear(4, 4, bias=False), "weight", manifold)
    optimizer = stepped(module, name, second_moment=kinds[0])
    optimizer.param_groups[0]["second_moment"] = kinds[1]
    before = snapshot(module, optimizer)
    with pytest.raises(OptimizerError, match="second_moment"):
        optimizer.step()
    assert_same(snapshot(module, optimizer), before)
    optimizer.param_groups[0]["second_moment"] = kinds[0]
    optimizer.step()


MANIFOLDS = {"RiemannianAdam": mr.Sphere(), "RiemannianRMSprop": mr.SPD(), "Landing": mr.Orthogonal()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_constraint_again_and_a_loaded_state_keep_the_moments(name):
    for manifold in (mr.Orthogonal(), MANIFOLDS.get(name, mr.Stiefel(metric="canonical"))):
        module = mr.constrain(nn.Linear(4, 4, bias=False), "weight", manifold)
        optimizer = stepped(module, name)
        steps = optimizer.state[module.weight]["step"]
        mr.constrain(mr.release(module, "weight"), "weight", copy.deepcopy(manifold))
        optimizer.step()
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step()
        assert optimizer.state[module.weight]["step"] == steps + 2


def test_another_retraction_keeps_the_moments():
    module = layer()
    optimizer = optim.RiemannianAdam(module.parameters(), lr=0.01)
    for retraction in retractions.names():
        mr.set_retraction(module, "weight", retraction)
        backward(module)
        optimizer.step()


def test_loaded_moments_of_other_coordinates_are_refused():
    plain, module = nn.Linear(6, 6, bias=False), layer()
    source = torch.optim.Adam(plain.parameters())
    backward(plain)
    source.step()
    target = optim.RiemannianAdam(module.parameters())
    state = target.state_dict()
    target.load_state_dict({**state, "state": source.state_dict()["state"]})
    backward(module)
    with pytest.raises(ManifoldError, match="coordinates"):
        target.step()


@pytest.mark.parametrize("name", ["Landing", "RiemannianMuon", "RiemannianSGD"])
def test_moments_of_complex_plain_parameters_are_their_own(name):
    module = mr.constrain(nn.Linear(4, 4, dtype=torch.complex64), "weight", mr.Unitary(), view="update")
    optimizer = getattr(optim, name)(module.parameters(), lr=0.01, momentum=0.9)
    for k in range(3):
        optimizer.zero_grad()
        module(torch.ones(4, dtype=torch.complex64)).abs().sum().backward()
        if k == 1:
            module.weight.grad = None
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
