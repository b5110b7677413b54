"""Loading lets only points in."""

import copy
import pickle

import pytest
import torch
from support.constraint_cases import CONSTRAINTS, constrained
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import NonFiniteError, OffManifoldError, OptimizerError, OptionError

N = 4
KEYS = {"update": "weight", "trivialized": "constraints.weight.base"}
VIEWS = pytest.mark.parametrize("view", KEYS)


def layer(**options):
    return mr.constrain(nn.Linear(N, N), "weight", mr.Orthogonal(), **options)


def off(state, key, factor=1.1):
    return {**state, key: state[key] * factor}


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model, before):
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@VIEWS
@pytest.mark.parametrize("assign", [False, True])
def test_a_weight_off_the_manifold_is_refused_with_its_defect(view, assign):
    module, state = layer(view=view), layer(view=view).state_dict()
    before = snapshot(module)
    with pytest.raises(OffManifoldError, match=rf"{KEYS[view]}.*\n.*got 0\.42"):  # (1.1^2 - 1) sqrt(4)
        module.load_state_dict(off(state, KEYS[view]), assign=assign)
    assert_unchanged(module, before)


@VIEWS
@pytest.mark.parametrize("assign", [False, True])
def test_or_projected_when_asked_and_the_state_dict_is_left_alone(view, assign):
    module, state = layer(view=view, on_load="project"), off(layer(view=view).state_dict(), KEYS[view])
    before = {name: value.clone() for name, value in state.items()}
    module.load_state_dict(state, assign=assign)
    torch.testing.assert_close(module.weight, state[KEYS[view]] / 1.1)
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert view == "trivialized" or isinstance(module.weight.manifold, mr.Orthogonal)


@VIEWS
@pytest.mark.parametrize("on_load", ["raise", "project"])
def test_what_is_not_finite_is_refused_either_way(view, on_load):
    module = layer(view=view, on_load=on_load)
    before = snapshot(module)
    with pytest.raises(NonFiniteError, match=KEYS[view]):
        module.load_state_dict(off(before, KEYS[view], torch.nan))
    if view == "trivialized":
        with pytest.raises(NonFiniteError, match="coordinates"):
            module.load_state_dict(off(before, "constraints.weight.coordinates", torch.nan))
    assert_unchanged(module, before)


@VIEWS
def test_wrong_shapes_and_keys_are_named_by_torch(view):
    module = layer(view=view)
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict({**module.state_dict(), KEYS[view]: torch.eye(N + 1)})
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict({"bias": module.bias})


@VIEWS
def test_a_float32_checkpoint_loads_into_float64(view):
    module, state = layer(view=view), snapshot(layer(view=view))
    module.double().load_state_dict(state)
    torch.testing.assert_close(module.weight.float(), state[KEYS[view]])


@VIEWS
def test_load_checked_is_all_or_nothing(view):
    model = nn.Sequential(nn.Linear(N, N), layer(view=view), layer(view=view))
    state, before = copy.deepcopy(model).state_dict(), snapshot(model)
    state = {name: value + 1 if name.startswith("0.") else value for name, value in state.items()}
    bad = off(state, f"2.{KEYS[view]}")
    with pytest.raises(OffManifoldError, match=f"2.{KEYS[view]}"):
        mr.load_checked(model, bad)
    assert_unchanged(model, before)
    with pytest.raises(OffManifoldError):
        model.load_state_dict(bad)  # plain loading has reached the first layer by then
    assert torch.equal(model[0].weight, state["0.weight"])
    assert not mr.load_checked(model, state).missing_keys


@VIEWS
@pytest.mark.parametrize("name", ["0", "1"])
def test_load_checked_checks_every_name_of_a_module(view, name):
    shared = layer(view=view)
    model = nn.Sequential(shared, shared)
    state, before = copy.deepcopy(model).state_dict(), snapshot(model)
    state = {key: value + 1 if key.endswith("bias") else value for key, value in state.items()}
    with pytest.raises(OffManifoldError, match=f"{name}.{KEYS[view]}"):
        mr.load_checked(model, off(state, f"{name}.{KEYS[view]}"))
    assert_unchanged(model, before)


def test_assign_keeps_the_class():
    module = layer()
    module.load_state_dict(layer().state_dict(), assign=True)
    assert module.weight.manifold is module.constraints["weight"].manifold


SWITCHES = {
    "set": lambda on: None,
    "swap": torch.__future__.set_swap_module_params_on_conversion,
    "overwrite": torch.__future__.set_overwrite_module_params_on_conversion,
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_to_empty_and_conversions_keep_the_class(switch):
    module = layer()
    module.to("meta").to_empty(device="cpu").load_state_dict(layer().state_dict())
    assert isinstance(module.weight.manifold, mr.Orthogonal)
    SWITCHES[switch](True)
    try:
        for dtype in (torch.float64, torch.float64, torch.float32):
            x = torch.randn(2, N, dtype=dtype)
            module.to(dtype)
            module.weight.grad = torch.ones_like(module.weight)
            with pytest.raises(OptimizerError, match="plain"):
                torch.optim.SGD(module.parameters(), lr=0.1).step()
            module.to(dtype)(x).sum().backward()
            mr.optim.RiemannianSGD(module.parameters(), lr=0.1).step()
            assert module.weight.dtype == dtype and mr.linalg.defect(module.weight) < 1e-5
            assert isinstance(module.weight.manifold, mr.Orthogonal)
    finally:
        SWITCHES[switch](False)


COUNT = 2**11 + 1  # more than half precision can hold


def counting(count=COUNT, every=3):
    module = layer(view="trivialized", rebase_every=every)
    module.constraints["weight"].load_state_dict({"steps": count}, strict=False)
    return module


def step(module):
    """Make an optimizer step, and return the number of steps and whether the base moved."""
    entry = module.constraints["weight"]
    before, optimizer = entry.base.clone(), torch.optim.SGD([entry.coordinates], lr=0.1)
    module.weight.sum().backward()
    optimizer.step()
    return int(entry.steps), not torch.equal(entry.base, before)


@pytest.mark.parametrize("made", [int, torch.tensor, lambda n: torch.tensor(n, dtype=torch.int32)])
@pytest.mark.parametrize("assign", [False, True])
def test_a_count_of_steps_is_resumed_and_is_optional(assign, made):
    key = "constraints.weight.steps"
    target, static = counting(0), layer(view="trivialized")
    state = {**counting().state_dict(), key: made(2)}  # old files have a number of Python
    target.load_state_dict(state, assign=assign)
    assert target.constraints["weight"].steps.dtype == torch.long and step(target) == (3, True)
    assert state[key] == 2
    static.load_state_dict(state, assign=assign)
    target.load_state_dict(static.state_dict(), assign=assign)
    assert step(target) == (4, False)


def replaced(module):
    """As by tools that put the tensors of a file into a module."""
    module.constraints["weight"]._buffers["steps"] = torch.tensor(COUNT)
    return module


CONVERSIONS = {
    "half": lambda m: m.half().float(),
    "every tensor": lambda m: m._apply(torch.Tensor.half)._apply(torch.Tensor.float),
    "double": nn.Module.double,
    "empty": lambda m: m.to("meta").to_empty(device="cpu"),
    "copy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "replaced": replaced,
}


@pytest.mark.parametrize("how", CONVERSIONS)
def test_a_count_of_steps_stays_exact(how):
    source = counting()
    module = CONVERSIONS[how](source)
    if how in ("empty", "half", "every tensor"):
        counted = {"constraints.weight.steps": module.constraints["weight"].steps}
        module.load_state_dict(counting(0).state_dict() | counted)  # exact numbers for all else
    assert [step(module) for _ in range(4)] == [(COUNT + k, k == 3) for k in (1, 2, 3, 4)]
    assert source is module or source.constraints["weight"].steps == COUNT


def test_a_count_is_a_number_after_a_load_into_a_meta_model():
    with torch.device("meta"):
        module = layer(view="trivialized", rebase_every=3)
    module.load_state_dict(layer(view="trivialized").state_dict(), assign=True)
    counting(5).load_state_dict(module.state_dict())
    assert step(module) == (1, False)


def test_a_shared_module_shares_its_count():
    module = layer(view="trivialized", rebase_every=3).share_memory()
    assert module.constraints["weight"].steps.is_shared()


def test_an_average_across_counts_is_refused_and_unchanged():
    average = mr.optim.average(plain := layer(view="trivialized"))
    average.update_parameters(plain)
    before = copy.deepcopy(average.state_dict())
    with pytest.raises(OptionError, match="steps"):
        average.update_parameters(layer(view="trivialized", rebase_every=3))
    assert all(torch.equal(value, before[key]) for key, value in average.state_dict().items())


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_state_dict_has_parameters_and_buffers_only(name, every):
    """Other tools, such as from_pretrained of transformers, set the tensors of a file by these names."""
    for view in ("update", "trivialized"):
        if (module := constrained(name, view, torch.float32, **({"rebase_every": every} if every else {}))) is None:
            continue
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        own = {key for key in module.state_dict() if not key.endswith(".fingerprint")}  # of adapters without a base
        assert own <= set(tensors)


def loaded_alone(part):
    part.load_state_dict(off(part.state_dict(), "base", 2))


def replaced(part):
    part.base = 2 * part.base


@torch.no_grad()
def edited(part):
    part.base.mul_(2)


BASES = {
    "manifold": mr.Orthogonal(),
    "gates": {0: mr.Orthogonal(), 1: mr.SchurDisc()},
    "fixed": mr.FixedBase(mr.Orthogonal()),
    "phases": mr.PhaseScaled(mr.Unitary()),
    "permuted": mr.Birkhoff("orthostochastic"),
}


@pytest.mark.parametrize("change", [loaded_alone, replaced, edited])
@pytest.mark.parametrize("name", BASES)
def test_a_base_off_its_manifold_is_found_however_it_arrives(name, change):
    dtype = torch.complex64 if name == "phases" else torch.float32
    module = nn.Linear(N, 2 * N if name == "gates" else N, dtype=dtype)
    blocks = 2 if name == "gates" else 1
    mr.constrain(module, "weight", BASES[name], view="trivialized", blocks=blocks)
    part = next(p for p in module.constraints.modules() if isinstance(p, mr.constraints.Trivialization))
    change(part)
    for _ in range(2):
        with pytest.raises(OffManifoldError, match="base is off its manifold"):
            module(torch.ones(N, dtype=dtype))


def test_a_base_is_checked_once_after_a_change_and_never_after_those_of_the_package(monkeypatch):
    checks, check = [], mr.constraints.Trivialization.require_point
    monkeypatch.setattr(mr.constraints.Trivialization, "require_point", lambda self: (checks.append(1), check(self)))
    module, x = layer(view="trivialized", rebase_every=1), torch.ones(N)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        module(x).sum().backward()
        optimizer.step()
    module.weight = mr.Orthogonal().random(N, N)
    mr.set_retraction(module, "weight", "exp")
    module(x)
    assert not checks
    module.load_state_dict(module.state_dict())
    module(x), module(x)
    assert len(checks) == 1
    copy.deepcopy(module)(x)
    assert len(checks) == 1
    module.load_state_dict(module.state_dict())
    copy.deepcopy(module)(x)
    assert len(checks) == 2
