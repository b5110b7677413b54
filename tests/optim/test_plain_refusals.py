"""Plain parameters that change between steps, and what is refused with nothing changed."""

import copy

import pytest
import torch
from support.optimizer_cases import frozen, same
from support.plain_cases import NAMES, REFERENCES, close, run

import manifold_rnn as mr
from manifold_rnn import optim
from manifold_rnn.errors import NonFiniteError, OptimizerError, OptionError, UnsupportedError


def sparse(params, optimizer):
    params[0].grad = torch.eye(3).to_sparse()


def no_number(params, optimizer):
    params[1].grad[0] = torch.nan


def too_large(params, optimizer):
    params[0].grad[0, 0] = -torch.inf


def other_shape(params, optimizer):
    optimizer.state[params[0]]["exp_avg"] = torch.ones(5)


def off_its_manifold(params, optimizer):
    with torch.no_grad():
        params[2].mul_(2)


BAD = {
    "sparse": (sparse, UnsupportedError, "dense gradients"),
    "nan": (no_number, NonFiniteError, "1 of 3 .* number 1 of group 0"),
    "infinity": (too_large, NonFiniteError, "1 of 9 .* number 0 of group 0"),
    "moments": (other_shape, OptimizerError, "'exp_avg' .* shape"),
    "constrained one": (off_its_manifold, mr.errors.OffManifoldError, "overwritten"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_named_and_nothing_is_changed(bad):
    spoil, error, words = BAD[bad]
    params = [torch.nn.Parameter(torch.eye(3)), torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.eye(3))]
    params[2].manifold = mr.Orthogonal()
    optimizer = optim.RiemannianAdam(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    spoil(params, optimizer)
    before = frozen(params, optimizer)
    with pytest.raises(error, match=words) as caught:
        optimizer.step()
    assert len(str(caught.value)) <= 400
    assert same(before, frozen(params, optimizer))


def transposed(p):
    p.data = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).t()


def spaced(p):
    p.data = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))[:, ::2]


def double(p):
    p.data = p.data.double()


@pytest.mark.parametrize("change", [transposed, spaced, double])
@pytest.mark.parametrize("name", NAMES)
def test_another_memory_of_a_parameter_is_seen(name, change):
    """Torch's fused functions do not look at strides, and do not check that dtypes agree within a list."""
    ways = []
    for kind in (getattr(optim, name), REFERENCES[name]):
        params = [torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2)]
        optimizer = kind(params, lr=0.01)
        run(params, optimizer, 1)
        change(params[1])
        if change is double:
            optimizer.load_state_dict(optimizer.state_dict())
        run(params, optimizer, 2)
        ways.append(params)
    assert ways[0][1].dtype == (torch.float64 if change is double else torch.float32)
    close(*([p.float() for p in params] for params in ways))  # the first step was one in float32


@pytest.mark.parametrize("name", ["RiemannianAdam", "RiemannianRMSprop", "RiemannianAdagrad"])
@pytest.mark.parametrize("load", [False, True])
def test_moments_of_whole_matrices_are_refused(name, load):
    """Torch's fused functions write beyond the memory of moments that are smaller than their parameters."""
    params = [torch.nn.Parameter(torch.eye(4)) for _ in range(2)]
    optimizer = getattr(optim, name)(params, lr=0.01)
    run(params, optimizer, 1)
    state = optimizer.state[params[1]]
    square = next(k for k in state if k in ("exp_avg_sq", "square_avg", "sum"))
    state[square] = torch.ones(1, 1)  # as ``second_moment="matrix"`` has it on a manifold
    if load:
        optimizer.load_state_dict(optimizer.state_dict())
    before = frozen(params, optimizer)
    with pytest.raises(OptimizerError, match=f"'{square}' .* shape"):
        optimizer.step()
    assert same(before, frozen(params, optimizer))


@pytest.mark.parametrize(
    "options",
    [{"lr": -1.0}, {"lr": float("inf")}, {"betas": (0.9, 1.0)}, {"eps": -1.0}, {"weight_decay": -0.1}],
    ids=str,
)
def test_bad_options_of_plain_parameters_are_refused(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        optim.RiemannianAdam([torch.nn.Parameter(torch.ones(3))], **options)


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "Landing", "RiemannianMuon"])
@pytest.mark.parametrize(
    "options", [{"lr": float("nan")}, {"lr": -1.0}, {"weight_decay": float("inf")}, {"on_nonfinite": "no"}], ids=str
)
def test_options_that_become_bad_after_construction_are_named_before_a_step(options, name, constrained):
    layer = torch.nn.Linear(4, 4)
    if constrained:
        mr.constrain(layer, "weight", mr.Orthogonal())
    params = list(layer.parameters())
    optimizer = getattr(optim, name)(params, lr=0.01)
    run(params, optimizer, 1)
    before, good = frozen(params, optimizer), dict(optimizer.param_groups[0])
    optimizer.param_groups[0].update(options)
    for _ in range(2):
        with pytest.raises(OptionError, match=next(iter(options))):
            optimizer.step()
    optimizer.param_groups[0].update(good)
    assert same(before, frozen(params, optimizer))
    optimizer.step()


@pytest.mark.parametrize("source", [*NAMES, "RiemannianMuon"])
@pytest.mark.parametrize("target", [*NAMES, "RiemannianMuon", "Landing"])
def test_a_state_of_another_optimizer_is_refused(source, target):
    if (source, target) == ("RiemannianSGD", "Landing"):
        return  # the same options and moments
    params = [torch.nn.Parameter(torch.eye(4))]
    saved, optimizer = getattr(optim, source)(params, lr=0.01), getattr(optim, target)(params, lr=0.02)
    optimizer.param_groups[0].setdefault("step", "a note of the user")
    run(params, saved, 2)
    before = frozen(params, optimizer)
    if source == target:
        saved.param_groups[0]["initial_lr"] = 0.01
        optimizer.load_state_dict(copy.deepcopy(saved.state_dict()))
        assert optimizer.state[params[0]]["step"] == 2
        return
    with pytest.raises(OptimizerError, match=f"another optimizer.*{target}"):
        optimizer.load_state_dict(saved.state_dict())
    assert same(before, frozen(params, optimizer))


def test_an_own_key_of_a_group_is_no_option_of_another_optimizer():
    p = torch.nn.Parameter(torch.ones(3))
    saved = optim.RiemannianSGD([{"params": [p], "scale": 2.0}], lr=0.1).state_dict()
    optim.RiemannianSGD([p], lr=0.1).load_state_dict(saved)
    with pytest.raises(OptimizerError, match="another optimizer"):
        optim.RiemannianAdam([p], lr=0.1).load_state_dict(saved)
