"""What must hold for a constrained weight in either view, on any layer."""

import copy
import io
import itertools
import pickle
import threading

import pytest
import torch
from support.counting import evaluations, map_calls
from torch import nn
from torch.utils.checkpoint import checkpoint

import manifold_rnn as mr
from manifold_rnn.constraints import Trivialization

VIEWS = ("update", "trivialized")
TORCH_INTERNALS = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
T, B, M, N = 5, 3, 6, 4


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x)


def linear(**options):
    return mr.constrain(nn.Linear(M, M), "weight", mr.Orthogonal(), **options), torch.randn(B, M)


def recurrent(kind, blocks, **options):
    layer = mr.constrain(kind(M, N), "weight_hh_l0", mr.Orthogonal(), blocks=blocks, **options)
    return layer, torch.randn(T, B, M)


def attention(**options):
    layer = mr.constrain(Attention(M, 2), "in_proj_weight", mr.Orthogonal(), blocks=3, **options)
    return mr.constrain(layer, "out_proj.weight", mr.Orthogonal(), **options), torch.randn(T, B, M)


def unitary(**options):
    layer = mr.constrain(nn.Linear(M, M, dtype=torch.complex64), "weight", mr.Unitary("exp"), **options)
    return layer, torch.randn(B, M, dtype=torch.complex64)


LAYERS = {
    "linear": linear,
    "rnn": lambda **o: recurrent(nn.RNN, 1, **o),
    "lstm": lambda **o: recurrent(nn.LSTM, 4, which=(0, 2), **o),
    "gru": lambda **o: recurrent(nn.GRU, 3, which=(2,), **o),
    "attention": attention,
    "unitary": unitary,
}


@pytest.fixture(params=VIEWS)
def view(request):
    return request.param


@pytest.fixture(params=LAYERS)
def layer_and_input(request, view):
    torch.manual_seed(0)
    return LAYERS[request.param](view=view)


def first(output):
    return output[0] if isinstance(output, tuple) else output


def loss(layer, x):
    return first(layer(x)).abs().square().sum()


def gradients(layer, x):
    layer.zero_grad()
    loss(layer, x).backward()
    return {name: p.grad.clone() for name, p in layer.named_parameters()}


def weights(layer):
    return {name: getattr(m, n).detach().clone() for name, m, n in constrained(layer)}


def constrained(layer):
    for path, module in layer.named_modules():
        for name in getattr(module, "constraints", {}):
            yield f"{path}.{name}", module, name


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key])


def moved(layer, scale=0.1):
    """Move every parameter a little, on its manifold."""
    with torch.no_grad():
        for p in layer.parameters():
            u = scale * torch.randn_like(p)
            p.copy_(p.manifold.retr(p.data, p.manifold.proju(p.data, u)) if hasattr(p, "manifold") else p + u)
    return layer


def test_weights_are_on_the_manifold_after_a_move(layer_and_input):
    layer, _ = layer_and_input
    for _, module, name in constrained(moved(layer)):
        entry = module.constraints[name]
        assert entry.manifold.defect(getattr(module, name)).max() < 1e-5


def test_both_views_compute_the_same_outputs():
    for make in LAYERS.values():
        outputs = []
        for view in VIEWS:
            torch.manual_seed(0)
            layer, x = make(view=view)
            outputs.append(first(layer(x)))
        torch.testing.assert_close(*outputs)


def test_a_trivialized_weight_is_computed_once_a_forward(layer_and_input, view):
    layer, x = layer_and_input
    with evaluations(layer) as counts, map_calls() as calls:
        for training in (True, False):
            counts.clear()
            loss(layer.train(training), x)
            expected = (
                {} if view == "update" else {f"{name.rpartition('.')[2]}": 1 for name, _, _ in constrained(layer)}
            )
            assert counts == expected
            with torch.no_grad():
                layer(x)
        if view == "update":
            assert not calls


def test_gradients_reach_every_parameter(layer_and_input):
    layer, x = layer_and_input
    assert all(g.isfinite().all() and g.abs().sum() > 0 for n, g in gradients(layer, x).items() if "bias" not in n)


def test_gradients_accumulate(layer_and_input):
    layer, x = layer_and_input
    once = gradients(layer, x)
    loss(layer, x).backward()
    assert_same({n: p.grad for n, p in layer.named_parameters()}, {n: 2 * g for n, g in once.items()})


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_nothing(layer_and_input, reentrant):
    layer, x = layer_and_input
    plain = gradients(layer, x)
    layer.zero_grad()
    x = x.clone().requires_grad_()
    first(checkpoint(layer, x, use_reentrant=reentrant)).abs().square().sum().backward()
    assert_same({n: p.grad for n, p in layer.named_parameters()}, plain)


def test_functional_call_uses_the_parameters_it_is_given(layer_and_input):
    layer, x = layer_and_input
    other = moved(copy.deepcopy(layer))
    state = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    torch.testing.assert_close(first(torch.func.functional_call(layer, state, (x,))), first(other(x)))


def test_a_copy_after_a_forward_is_independent(layer_and_input):
    layer, x = layer_and_input
    loss(layer, x)
    before, twin = weights(layer), copy.deepcopy(layer)
    assert type(twin) is type(layer)
    moved(twin)
    assert_same(weights(layer), before)
    assert all(not torch.equal(w, before[n]) for n, w in weights(twin).items())
    loss(twin, x).backward()


def test_pickle(layer_and_input):
    layer, x = layer_and_input
    loss(layer, x)
    twin = pickle.loads(pickle.dumps(layer))
    torch.testing.assert_close(first(twin(x)), first(layer(x)))
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    torch.testing.assert_close(first(torch.load(buffer, weights_only=False)(x)), first(layer(x)))


def test_state_dict_round_trip(layer_and_input, view):
    layer, x = layer_and_input
    source = moved(copy.deepcopy(layer))
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    layer.load_state_dict(torch.load(buffer))
    torch.testing.assert_close(first(layer(x)), first(source(x)))
    keys = {"weight"} if view == "update" else {"constraints.weight.coordinates", "constraints.weight.base"}
    assert {"bias", *keys} == set(linear(view=view)[0].state_dict())


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_dtype_and_meta_device_and_back(layer_and_input):
    layer, x = layer_and_input
    if x.is_complex():
        layer.to(torch.complex128)
        x = x.to(torch.complex128)
    else:
        layer.double()
        x = x.double()
    assert loss(layer, x).dtype == torch.float64
    meta = copy.deepcopy(layer).to("meta")
    meta.load_state_dict(layer.state_dict(), assign=True)
    torch.testing.assert_close(first(meta(x)), first(layer(x)))
    assert all(hasattr(getattr(m, n), "manifold") or n not in m._parameters for _, m, n in constrained(meta))


def test_two_threads_do_not_see_each_other(layer_and_input):
    layer, x = layer_and_input
    expected, results = gradients(layer, x), {}

    def work(i):
        twin = copy.deepcopy(layer)
        results[i] = [gradients(twin, x) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(results) == 2
    for each in results.values():
        for result in each:
            assert_same(result, expected)


def test_a_forward_that_raises_leaves_nothing_behind(layer_and_input):
    layer, x = layer_and_input
    before = first(layer(x))
    with pytest.raises((RuntimeError, AssertionError)):
        layer(x[..., :-1])
    moved(layer)
    assert not torch.allclose(first(layer(x)), before)


@TORCH_INTERNALS
@pytest.mark.parametrize("make", [linear, unitary])
def test_compiles_in_one_graph(view, make):
    layer, x = make(view=view)
    expected = gradients(layer, x)
    torch._dynamo.reset()  # or the compilations of other tests count
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    layer.zero_grad()
    loss(compiled, x).backward()
    assert_same({n: p.grad for n, p in layer.named_parameters()}, expected)


@TORCH_INTERNALS
@pytest.mark.parametrize("strict", [False, True])
def test_exports(view, strict):
    layer, x = linear(view=view)
    exported = torch.export.export(layer, (x,), strict=strict).module()
    torch.testing.assert_close(exported(x), layer(x))
    loss(layer, x).backward()


def test_an_ensemble_is_vmapped(view):
    layers, x = [linear(view=view)[0] for _ in range(3)], torch.randn(B, M)
    stacked = torch.func.stack_module_state(layers)
    blank = copy.deepcopy(layers[0]).to("meta")

    def ensemble_loss(params, buffers):
        return torch.func.functional_call(blank, (params, buffers), (x,)).square().sum()

    grads, values = torch.vmap(torch.func.grad_and_value(ensemble_loss))(*stacked)
    torch.testing.assert_close(values, torch.stack([loss(layer, x) for layer in layers]))
    for i, layer in enumerate(layers):
        assert_same({n: g[i] for n, g in grads.items()}, gradients(layer, x))


def test_release_gives_the_dense_layer_back(layer_and_input):
    layer, x = layer_and_input
    moved(layer)
    expected, names = first(layer(x)), [(m, n) for _, m, n in list(constrained(layer))]
    for module, name in names:
        mr.release(module, name)
        assert type(getattr(module, name)) is nn.Parameter
        assert not hasattr(module, "constraints")
        assert type(module).__module__ != "abc"
    torch.testing.assert_close(first(layer(x)), expected)
    assert not any(isinstance(m, Trivialization) for m in layer.modules())
    assert all(not m._load_state_dict_pre_hooks and not m._load_state_dict_post_hooks for m, _ in names)
    torch.optim.SGD(layer.parameters(), 0.1).step()


def test_release_keeps_the_order_of_parameters(view):
    layer = mr.release(linear(view=view)[0], "weight")
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert type(layer) is nn.Linear
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks_always_called


@pytest.mark.parametrize("attached", list(itertools.permutations(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"))))
def test_releases_in_any_order_give_the_order_of_the_plain_layer(view, attached):
    plain = list(dict(nn.RNN(4, 4).named_parameters()))
    for released in itertools.permutations(attached):
        rnn = nn.RNN(4, 4)
        for name in attached:
            mr.constrain(rnn, name, mr.Sphere() if "bias" in name else mr.Orthogonal(), view=view)
        for name in released:
            mr.release(rnn, name)
        assert list(dict(rnn.named_parameters())) == plain


@pytest.mark.parametrize("retraction", ["exp", "qr", "polar"])
def test_set_retraction_keeps_the_weight(layer_and_input, retraction):
    layer, x = layer_and_input
    moved(layer)
    before = weights(layer)
    for _, module, name in list(constrained(layer)):
        mr.set_retraction(module, name, retraction)
        assert module.constraints[name].manifold.retraction == mr.retractions.get(retraction)
    assert_same(weights(layer), before)
    gradients(layer, x)


def test_a_frozen_weight_stays_frozen(view):
    layer = nn.Linear(M, M)
    layer.weight.requires_grad_(False)
    mr.constrain(layer, "weight", mr.Orthogonal(), view=view)
    assert not layer.weight.requires_grad
    assert not mr.release(layer, "weight").weight.requires_grad


def test_bfloat16_autocast_leaves_the_weight_on_the_manifold(view):
    layer, x = linear(view=view)
    moved(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        W = layer.weight
    assert W.dtype == torch.float32
    assert mr.linalg.defect(W) < 1e-5
