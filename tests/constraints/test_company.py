"""Other tools that take, replace, lend, save or convert a constrained weight: right, or refused by name."""

import copy
import io
import pickle

import pytest
import torch
from support.constraint_cases import constrained, supported
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, parametrize, prune

import manifold_rnn as mr
from manifold_rnn.errors import DtypeError, ManifoldError, OptimizerError, OptionError, UnsupportedError

VIEW = pytest.mark.parametrize("view", ["update", "trivialized"])
TOOLS = {
    "prune": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m, "weight"),
    "old spectral_norm": lambda m: nn.utils.spectral_norm(m, "weight"),
    "weight_norm": lambda m: parametrizations.weight_norm(m, "weight"),
    "parametrize": lambda m: parametrize.register_parametrization(m, "weight", nn.Identity()),
    "del": lambda m: delattr(m, "weight"),
    "None": lambda m: setattr(m, "weight", None),
}
ROWS = supported(torch.float32, torch.complex64)
CASTS = {
    "double": lambda m: m.double(),
    "float": lambda m: m.float(),
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "complex64": lambda m: m.to(torch.complex64),
    "complex128": lambda m: m.to(torch.complex128),
    "complex32": lambda m: m.to(torch.complex32),
    "float64": lambda m: m.to(torch.float64),
    "meta": lambda m: m.to("meta"),
}


def layer(view="update", **options):
    torch.manual_seed(0)
    return mr.constrain(nn.Linear(4, 4, bias=False), "weight", mr.Orthogonal(), view=view, **options)


@VIEW
@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_that_takes_the_weight_is_named_at_once_or_at_the_next_forward(name, view):
    module = layer(view)

    def take_and_use():
        TOOLS[name](module)
        module(torch.ones(1, 4))

    with pytest.raises((ManifoldError, ValueError, TypeError, RuntimeError), match=r"weight|Point"):
        take_and_use()


@pytest.mark.parametrize("tool", [prune.remove, parametrize.remove_parametrizations], ids=lambda t: t.__name__)
def test_a_tool_that_looks_for_its_own_finds_nothing(tool):
    with pytest.raises(ValueError, match="weight"):
        tool(layer(), "weight")


@pytest.mark.parametrize("lent", [nn.Parameter, lambda x: x], ids=["parameter", "tensor"])
def test_functional_call_leaves_lent_tensors_alone(lent):
    module, own = layer(), lent(torch.randn(4, 4))
    kind = type(own)
    for _ in range(2):
        torch.func.functional_call(module, {"weight": own}, (torch.ones(1, 4),)).sum()
    assert type(own) is kind and not hasattr(own, "manifold")
    module(torch.ones(1, 4)).sum().backward()
    mr.optim.RiemannianSGD(module.parameters(), lr=0.1).step()
    assert type(own) is kind and isinstance(module.weight.manifold, mr.Orthogonal)


@pytest.mark.parametrize("name", [name for name, view, dtype in ROWS if view == "trivialized" and not dtype.is_complex])
def test_a_dense_weight_is_not_lent_to_a_computed_one(name):
    module = constrained(name, "trivialized", torch.float32)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    W, x = module.weight.detach().clone(), torch.ones(1, module.in_features)
    before = copy.deepcopy(module.state_dict())

    def loss(W):
        return torch.func.functional_call(module, {"weight": W}, (x,)).sum()

    def assign(W):
        module.weight = W

    ways = (
        lambda: loss(W),
        lambda: loss(W.clone().requires_grad_()),
        lambda: loss(nn.Parameter(W)),
        lambda: torch.func.grad(loss)(W),
        lambda: torch.func.vmap(loss)(torch.stack([W, W])),
        lambda: torch.func.jvp(loss, (W,), (W,)),
        lambda: assign(W.clone().requires_grad_()),
        lambda: assign(nn.Parameter(W)),
    )
    for way in ways:
        with pytest.raises(OptionError, match=r"functional_call constraints\.weight\.") as caught:
            way()
        assert len(str(caught.value)) <= 400
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_assigning_a_parameter_of_another_module_leaves_it_plain():
    module, plain = layer(), nn.Linear(4, 4, bias=False)
    plain.weight = nn.Parameter(torch.eye(4))
    module.load_state_dict(plain.state_dict(keep_vars=True), assign=True)
    assert type(plain.weight) is nn.Parameter and isinstance(module.weight.manifold, mr.Orthogonal)


@VIEW
def test_files_of_parameters_load_with_the_safe_default(view):
    module = layer(view)
    for what in (list(module.parameters()), module.state_dict(keep_vars=True), module.state_dict()):
        file = io.BytesIO()
        torch.save(what, file)
        file.seek(0)
        torch.load(file, weights_only=True)


@VIEW
def test_copies_keep_the_manifold_and_share_nothing(view):
    module = layer(view)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(copied.weight, module.weight)
        (copied(torch.ones(1, 4)) - 1).square().sum().backward()
        optimizer = mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD
        optimizer(copied.parameters(), lr=0.1).step()
        assert not torch.equal(copied.weight, module.weight) and mr.linalg.defect(copied.weight) < 1e-5


@VIEW
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_max_norm_of_an_embedding_contradicts_a_constraint(kind, view):
    with pytest.raises(UnsupportedError, match="max_norm"):
        mr.constrain(kind(6, 3, max_norm=0.1), "weight", mr.Stiefel(), view=view)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("constraint", [mr.Stiefel(), mr.FixedSpectrum()], ids=str)
def test_sparse_gradients_of_an_embedding_need_the_update_view(kind, constraint):
    embedding = kind(6, 3, sparse=True)
    with pytest.raises(UnsupportedError, match="sparse=False"):
        mr.constrain(embedding, "weight", constraint, view="trivialized")
    assert type(embedding) is kind and type(embedding.weight) is nn.Parameter
    mr.constrain(embedding, "weight", mr.Stiefel())(torch.tensor([[1]])).sum().backward()
    assert embedding.weight.grad.is_sparse


@VIEW
def test_replicas_of_data_parallel_compute_the_weight(view):
    module = layer(view)
    replica = module._replicate_for_data_parallel()
    replica.bias = None
    names = dict(module.named_parameters(recurse=False))
    for name, value in names.items():
        setattr(replica, name, value)
    if view == "trivialized":
        entry = module.constraints["weight"]._replicate_for_data_parallel()
        entry.coordinates = module.constraints["weight"].coordinates
        registry = module.constraints._replicate_for_data_parallel()
        registry._modules = {"weight": entry}
        replica._modules = {"constraints": registry}
    torch.testing.assert_close(replica(torch.ones(1, 4)), module(torch.ones(1, 4)))


@VIEW
def test_shared_memory_keeps_a_weight(view):
    module = layer(view).share_memory()
    (module(torch.ones(1, 4)) - 1).square().sum().backward()
    (mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD)(module.parameters(), lr=0.1).step()
    assert mr.linalg.defect(module.weight) < 1e-5


@pytest.mark.parametrize(("name", "view", "dtype"), ROWS)
def test_what_is_saved_is_contiguous(name, view, dtype):
    module = constrained(name, view, dtype)
    assert all(value.is_contiguous() for value in module.state_dict().values())


# --- casting ---


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature", "ignore:ComplexHalf support")
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize(("name", "view", "dtype"), ROWS)
def test_a_constrained_weight_is_cast_as_a_dense_one_or_refused_unchanged(name, view, dtype, cast):
    module, before = constrained(name, view, dtype), constrained(name, view, dtype).state_dict()
    plain = nn.Linear(2, 2, bias=False, dtype=dtype)
    weight = module.weight.detach().clone()
    try:
        CASTS[cast](module)
    except DtypeError as refusal:
        message = str(refusal)
    else:
        message = ""
    if message:
        assert cast.startswith("complex") != dtype.is_complex or cast == "complex32", message
        assert len(message) <= 400
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
        return
    assert module.weight.dtype == CASTS[cast](plain).weight.dtype
    if cast != "meta":
        tolerance = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.complex32: 2e-2}.get(module.weight.dtype, 1e-5)
        wide = torch.complex128
        torch.testing.assert_close(module.weight.to(wide), weight.to(wide), atol=tolerance, rtol=0)


# --- hooks, optimizers ---


@VIEW
def test_hooks_on_a_weight_survive_constrain_and_release_and_a_rebase(view):
    plain, seen = nn.Linear(4, 4, bias=False), []
    handle = plain.weight.register_hook(lambda g: seen.append(g.clone()))
    options = {"rebase_every": 1} if view == "trivialized" else {}
    module = mr.constrain(plain, "weight", mr.Orthogonal(), view=view, **options)
    optimizer = (mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD)(module.parameters(), lr=0.1)
    for count in (1, 2):
        module(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        assert len(seen) == count and torch.equal(seen[-1], torch.ones(4, 4))
    module.load_state_dict(module.state_dict())
    mr.release(module, "weight")(torch.ones(1, 4)).sum().backward()
    assert len(seen) == 3
    handle.remove()
    module(torch.ones(1, 4)).sum().backward()
    assert len(seen) == 3


def test_a_hook_may_change_the_gradient_of_a_computed_weight():
    plain = nn.Linear(4, 4, bias=False)
    plain.weight.register_hook(torch.zeros_like)
    module = mr.constrain(plain, "weight", mr.Orthogonal(), view="trivialized")
    module(torch.ones(1, 4)).sum().backward()
    assert not module.constraints["weight"].coordinates.grad.any()


def test_hooks_that_only_a_parameter_has_are_refused():
    plain = nn.Linear(4, 4)
    plain.weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(UnsupportedError, match="register_post_accumulate_grad_hook"):
        mr.constrain(plain, "weight", mr.Orthogonal(), view="trivialized")


def _constrained(module):
    return mr.constrain(module, "weight", mr.Orthogonal(), view="trivialized")


def _released(module):
    return mr.release(_constrained(module), "weight")


CHANGES = {"constrain": (lambda m: m, _constrained), "release": (_constrained, lambda m: mr.release(m, "weight"))}
CHANGES["constrain after release"] = (_constrained, lambda m: _constrained(mr.release(m, "weight")))
CHANGES["release after constrain"] = (lambda m: m, _released)


@pytest.mark.parametrize("stale", ["gradient", "zeros", "none"])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, mr.optim.RiemannianAdam], ids=lambda k: k.__name__)
@pytest.mark.parametrize("change", CHANGES)
def test_an_optimizer_of_a_replaced_parameter_is_refused(change, kind, stale):
    before, after = CHANGES[change]
    module, x = before(nn.Linear(4, 4)), torch.ones(1, 4)
    optimizer = kind(module.parameters(), lr=0.1)
    if stale != "none":
        module(x).sum().backward()
    if stale == "zeros":
        optimizer.zero_grad(set_to_none=False)
    after(module)(x).sum().backward()
    with pytest.raises(OptimizerError, match=rf"{change.split()[-1]}\(\).*'weight'") as caught:
        optimizer.step()
    assert len(str(caught.value)) <= 400
    other = torch.optim.SGD([p for name, p in module.named_parameters() if name != "bias"], lr=0.1)
    optimizer.step()  # two optimizers train all of them
    other.step()
    del other
    with pytest.raises(OptimizerError):
        optimizer.step()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    optimizer.add_param_group({"params": [p for p in module.parameters() if id(p) not in held]})
    optimizer.step()


def test_an_optimizer_that_trains_only_the_other_one_of_two_tied_weights_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    mr.constrain_matching(model, {"*.weight": mr.Orthogonal()}, view="trivialized")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mr.release(model, "0.weight")
    model(torch.ones(1, 4)).sum().backward()
    with pytest.raises(OptimizerError, match=r"release\(\).*'weight'"):
        optimizer.step()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


@pytest.mark.parametrize("view", ["update", "trivialized", None])
def test_parameters_of_an_optimizer_can_be_swapped(view):
    module = nn.Linear(4, 4) if view is None else layer(view)
    kind = mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD
    optimizer = kind(module.parameters(), lr=0.1)
    for dtype in (torch.float32, torch.float64):
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            module.to(dtype)
            module.load_state_dict(copy.deepcopy(module.state_dict()))
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        module(torch.ones(1, 4, dtype=dtype)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert module.weight.dtype == torch.float64
    assert view is None or mr.linalg.defect(module.weight) < 1e-6


def test_reading_the_parameter_of_a_computed_weight_says_why_there_is_none():
    module = layer("trivialized")
    for take in (lambda: module._parameters["weight"], lambda: module._parameters.__delitem__("weight")):
        with pytest.raises(OptionError, match="computed"):
            take()
    with pytest.raises(KeyError):
        module._parameters["weigth"]


@pytest.mark.parametrize("after", ["forward", "step", "copy"])
@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_make_fx_records_a_layer_whose_weight_stays_constrained(view, after):
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    mr.constrain(module[0], "weight", mr.Orthogonal(), view=view)
    module.append(module[0])  # called twice
    x = torch.randn(5, 4)
    kind = type(module[0].weight)
    torch.testing.assert_close(make_fx(module)(x)(x), module(x) if after == "forward" else copy.deepcopy(module)(x))
    if after == "copy":
        module = copy.deepcopy(module)
    if after == "step":
        optimizer = (mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD)(module.parameters(), lr=0.1)
        module[0].weight.sum().backward()
        optimizer.step()
    assert type(module[0].weight) is kind and mr.linalg.defect(module[0].weight) < 1e-5
