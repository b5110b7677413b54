"""Layers under each backend against the reference, and what torch may do around a scan."""

import pytest
import torch
from support.scan_cases import LAYERS, choice, real, require_native
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.testing._internal.two_tensor import TwoTensor

import manifold_rnn as mr
from manifold_rnn.nn import cells


def pair(backend="fused", **options):
    torch.manual_seed(0)
    options = {"dtype": torch.float64, **options}
    reference = mr.nn.RNN(3, 4, backend="reference", **options)
    other = mr.nn.RNN(3, 4, backend=backend, **options)
    other.load_state_dict(reference.state_dict())
    return other, reference


@pytest.mark.parametrize("lengths", [None, [7, 7, 4, 2, 1]], ids=["padded", "packed"])
@pytest.mark.parametrize("constraint", [None, "update", "trivialized"])
@pytest.mark.parametrize("options", LAYERS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("backend", ["fused", "native"])
def test_layers_give_the_same_with_either_backend(backend, options, constraint, lengths, generator):
    if backend == "native":
        require_native()
    if constraint is not None:
        group = mr.Unitary if "dtype" in options else mr.Orthogonal
        options = {**options, "constraint": group(), "view": constraint}
    layers = pair(backend, **options)
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    x = nn.utils.rnn.pack_padded_sequence(x, lengths) if lengths and not options.get("batch_first") else x
    results = []
    for layer in layers:
        y, h = layer(x)
        y = y.data if lengths and not options.get("batch_first") else y
        real(y.sin() + y.mean() * h.sum()).sum().backward()
        results.append([y, h, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*results, atol=1e-11, rtol=1e-11)


MOVED = [
    {"kind": "momentum"},
    {"kind": "momentum", "host": cells.Elman("modrelu")},
    {"kind": "adam", "momentum": 0.3},
    {"kind": "rmsprop"},
    {"kind": "restart", "period": 3},
]


@pytest.mark.parametrize("lengths", [None, [7, 7, 4, 2, 1]], ids=["padded", "packed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("options", MOVED, ids=str)
def test_momentum_is_run_ahead_of_its_host(options, dtype, lengths, generator):
    options = {"host": cells.Elman("tanh" if dtype == torch.float64 else "modrelu"), **options}
    layers = [
        mr.nn.Layer(cells.Momentum(**options), 3, 4, dtype=dtype, bidirectional=True, backend=backend)
        for backend in ("fused", "reference")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(7, 5, 3, dtype=torch.float64 if lengths else dtype, generator=generator)  # torch packs no complex
    start = tuple(torch.rand(2, 5, part.shape[-1], generator=generator).to(part.dtype) for part in layers[0](x)[1])
    results = []
    for layer in layers:
        inputs, state = x.clone().requires_grad_(), tuple(part.clone().requires_grad_() for part in start)
        packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths) if lengths else inputs
        y, last = layer(packed, state)
        loss = sum(real(out.sin()).sum() for out in (y.data if lengths else y, *last))
        loss.backward()
        gradients = [p.grad for p in (*layer.parameters(), inputs, *state)]
        results.append([y.data if lengths else y, *last, *gradients])
    torch.testing.assert_close(*results, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_layer_may_keep_its_last_outputs_alone(backend, generator):
    options = {"dtype": torch.float64, "bidirectional": True, "num_layers": 2}
    layers = [mr.nn.RNN(3, 4, backend=backend, recompute=recompute, **options) for recompute in (False, True)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    h = layers[0](x)[1]
    for layer in layers:
        y, last = layer(x, every_step=False)
        assert y is None
        torch.testing.assert_close(last, h, atol=1e-14, rtol=0)
        last.sin().sum().backward()
    gradients = [[p.grad for p in layer.parameters()] for layer in layers]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)
    packed = nn.utils.rnn.pack_padded_sequence(x, [7, 7, 3, 2, 1])
    assert mr.nn.RNN(3, 4, dtype=torch.float64)(packed, every_step=False)[0] is None


GATED = [(mr.nn.LSTM, {}), (mr.nn.GRU, {"bias": False}), (mr.nn.LSTM, {"bidirectional": True, "num_layers": 2})]


@pytest.mark.parametrize("lengths", [None, [7, 2, 4, 4, 1]])
@pytest.mark.parametrize(("kind", "options"), GATED, ids=str)
def test_torchs_kernels_are_the_loop(kind, options, lengths, generator):
    layers = [kind(3, 4, dtype=torch.float64, backend=backend, **options) for backend in ("auto", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    x = x if lengths is None else nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    results = []
    for layer in layers:
        y, h = layer(x)
        y, h = y if lengths is None else y.data, h[1] if isinstance(h, tuple) else h
        (y.sin().sum() + h.cos().sum()).backward()
        results.append([y, h, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*results, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_diagonal_linear_layer_is_scanned_in_parallel(bidirectional, caplog, generator):
    disc = {"constraint": mr.DiagonalDisc(), "view": "trivialized", "bidirectional": bidirectional}
    x = torch.randn(9, 3, 2, dtype=torch.float64, generator=generator)
    layer = mr.nn.Layer(mr.nn.cells.LRU(), 2, 5, dtype=torch.complex128, **disc)
    results = []
    for backend in ("auto", "reference", "fused"):
        layer.backend = backend
        assert {"auto": "associative"}.get(backend, backend) in choice(layer, x, caplog)
        y, h = layer(x)
        results.append([y, h, *torch.autograd.grad(real(y.sin()).sum() + real(h).sum(), list(layer.parameters()))])
    torch.testing.assert_close(results[0], results[1], atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(results[2], results[1], atol=1e-11, rtol=1e-11)
    mr.release(layer, "weight_hh_l0")
    layer.backend = "auto"
    assert "not known to be diagonal" in choice(mr.nn.Layer(mr.nn.cells.LRU(), 2, 5), x.float(), caplog)


def test_functional_transforms_take_the_loop():
    layer = mr.nn.RNN(3, 4)
    x = torch.randn(5, 2, 3)
    parameters = dict(layer.named_parameters())
    gradients = torch.func.grad(lambda p: functional_call(layer, p, x)[0].sum())(parameters)
    layer(x)[0].sum().backward()
    torch.testing.assert_close(gradients, {k: p.grad for k, p in layer.named_parameters()})


def test_a_large_layer_in_single_precision_is_the_loop(generator):
    layers = [
        mr.nn.RNN(2, 200, nonlinearity="modrelu", backend=b, constraint=mr.Orthogonal()) for b in ("auto", "reference")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(20, 128, 2, generator=generator)
    results = []
    for layer in layers:
        y, _ = layer(x)
        y.square().mean().backward()
        results.append([y, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*results, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("create_graph", [False, True])
def test_one_run_may_start_where_another_ended(create_graph, generator):
    results = []
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    for layer in pair(nonlinearity="tanh"):
        _, h = layer(x)
        y, _ = layer(x, h)
        results.append(torch.autograd.grad(y.square().sum(), list(layer.parameters()), create_graph=create_graph))
    torch.testing.assert_close(*results, atol=1e-11, rtol=1e-11)


def test_mapped_gradients_and_derivatives_forward(generator):
    layers, results = pair(nonlinearity="modrelu"), []
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator)
    layers[0].backend = "auto"
    for layer in layers:
        jacobian = torch.autograd.functional.jacobian(lambda x, f=layer: f(x)[1], x, vectorize=True)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            slope = torch.autograd.forward_ad.unpack_dual(layer(dual)[1]).tangent
        results.append([jacobian, slope])
    torch.testing.assert_close(*results, atol=1e-11, rtol=1e-11)


def test_tensors_without_numbers():
    layer = mr.nn.RNN(3, 4, nonlinearity="modrelu", device="meta")
    assert layer(torch.empty(5, 2, 3, device="meta"))[0].shape == (5, 2, 4)
    with FakeTensorMode():
        layer = mr.nn.RNN(3, 4, nonlinearity="modrelu")
        assert layer(torch.empty(5, 2, 3))[0].shape == (5, 2, 4)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "modrelu"])
def test_tensors_of_a_kind_of_their_own(nonlinearity, generator):
    layers = [mr.nn.RNN(3, 4, nonlinearity=nonlinearity, backend=backend) for backend in ("auto", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    for name, p in list(layers[0].named_parameters()):
        setattr(layers[0], name, nn.Parameter(TwoTensor(p.detach(), p.detach().clone())))
    x = torch.randn(10, 2, 3, generator=generator)
    outputs = [layer(x)[0] for layer in layers]
    for y in outputs:
        y.sum().backward()
    torch.testing.assert_close(outputs[0].a, outputs[1])
    gradients = [[p.grad for p in layer.parameters()] for layer in layers]
    torch.testing.assert_close([g.b for g in gradients[0]], gradients[1], atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_is_of_the_loop():
    layer, x = mr.nn.RNN(3, 4), torch.randn(5, 2, 3)
    traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x), layer(x))


SLOWLY = [pytest.param(cell, marks=pytest.mark.slow) for cell in (cells.LSTM(), cells.LEM(), cells.NRU())]


@pytest.mark.parametrize("cell", [cells.Elman("relu"), *SLOWLY], ids=lambda cell: type(cell).__name__)
def test_compiled_steps_are_the_loop(cell, generator):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    layers = [mr.nn.Layer(cell, 3, 4, dtype=torch.float64, backend=backend) for backend in ("compiled", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(35, 2, 3, dtype=torch.float64, generator=generator)  # two chunks and three steps
    results = []
    for layer in layers:
        y, h = layer(x)
        y.sin().sum().backward()
        results.append([y, *(h if isinstance(h, tuple) else (h,)), *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*results, atol=1e-12, rtol=1e-12)
    layers[0](x)[0].sum().backward()
    assert counters["unique_graphs"] == before + 2  # the first state has no gradient


def test_what_the_compiler_cannot(monkeypatch):
    x = torch.zeros(20, 2, 3)
    with pytest.raises(mr.errors.UnsupportedError, match="complex"):
        mr.nn.RNN(3, 4, dtype=torch.complex64, nonlinearity="modrelu", backend="compiled")(x)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(mr.errors.UnsupportedError, match=r"no C\+\+ compiler"):
        mr.nn.RNN(3, 4, backend="compiled")(x)
