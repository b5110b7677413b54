"""The compiled scan: its own tanh, threads and forks, its operators, and when it is taken."""

import logging
import math
import multiprocessing
import os

import pytest
import torch
from functorch.compile import make_boxed_func
from support.counting import AliveBytes
from support.scan_cases import EVERY, arguments, call, choice, error, real, require_native, values
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import manifold_rnn as mr
from manifold_rnn._kernels import building, loading
from manifold_rnn.nn.scan import ElmanForm, native
from manifold_rnn.nn.scan.elman.engine import plain_states


@pytest.fixture
def installed():
    require_native()


@pytest.fixture
def none_installed(monkeypatch, tmp_path):
    """An installation whose folder of libraries is empty."""
    monkeypatch.setattr(loading.building, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh_is_accurate_and_keeps_what_is_not_finite(dtype, installed):
    z = torch.cat([torch.linspace(-25, 25, 20_000, dtype=torch.float64), torch.logspace(-30, 0, 5_000).double()])
    special = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30])
    z = torch.cat([z, special.double()]).to(dtype)
    y, _ = native(
        ElmanForm("tanh"), z.view(1, 5, -1), torch.zeros(5, 5001, dtype=dtype), torch.zeros(5001, 5001).to(dtype)
    )
    torch.testing.assert_close(y.flatten(), z.tanh(), atol=0, rtol=4 * torch.finfo(dtype).eps, equal_nan=True)
    assert (y.flatten().signbit() == z.signbit())[:-5].all()


@pytest.mark.parametrize("variant", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_every_library_of_this_processor_equals_the_loop(activation, dtype, variant, installed, monkeypatch, generator):
    if variant not in loading.runnable_variants():
        pytest.skip(f"this processor has no {variant}")
    monkeypatch.setattr(loading, "runnable_variants", lambda: (variant,))
    assert loading.failure() == ""
    for sizes in ((7, 13, 33, 5), (130, 3, 7, 1)):
        tensors = arguments(activation, dtype, sizes, generator)
        weight = torch.randn(sizes[0], *tensors["h0"].shape, dtype=dtype, generator=generator)
        results, true = (values(run, activation, tensors, weight) for run in (native, plain_states))
        assert error(results, true) < 1e-12


CAPABILITIES = {"AVX512": "avx512", "AVX2": "avx2", "DEFAULT": "baseline", "SVE256": "baseline"}


@pytest.mark.parametrize(("capability", "variant"), CAPABILITIES.items())
def test_a_processor_gets_the_library_of_its_instructions_or_the_next(capability, variant, none_installed, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    names = loading.runnable_variants()
    assert names[0] == variant and names[-1] == "baseline" and set(names) <= set(building.variants()) | {"baseline"}


@pytest.fixture
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("sizes", [(60, 17, 65, 2), (60, 8, 100, 1)], ids=str)
def test_threads_share_the_batch(sizes, installed, restored_threads, generator):
    tensors = arguments("modrelu", torch.float64, sizes, generator)
    weight = torch.randn(sizes[0], *tensors["h0"].shape, dtype=torch.float64, generator=generator)
    results = []
    for threads in (1, 2, 3, 64):
        torch.set_num_threads(threads)
        results.append(values(native, "modrelu", tensors, weight))
    assert all(torch.equal(a[1], results[0][1]) for a in results)  # each row is computed alike
    assert all(error(other, results[0]) < 1e-12 for other in results[1:])


def _states(tensors, queue):
    torch.set_num_threads(2)
    queue.put(call(native, "tanh", tensors)[1].tolist())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_process_forked_after_a_call_with_threads_runs_the_scan(installed, restored_threads, generator):
    tensors = {k: p.detach() for k, p in arguments("tanh", torch.float64, (60, 17, 65, 2), generator).items()}
    torch.set_num_threads(2)
    expected = call(native, "tanh", tensors)[1]
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_states, args=(tensors, queue))
    child.start()
    try:
        assert torch.equal(torch.tensor(queue.get(timeout=300), dtype=torch.float64), expected)
    finally:
        child.kill()
        child.join()


def test_auto_takes_it_where_it_pays(installed, caplog):
    layer, x = mr.nn.RNN(3, 64), torch.zeros(20, 2, 3)
    assert choice(layer, x, caplog).startswith("native scan")
    for dtype in (torch.float64, torch.complex64):
        other = mr.nn.RNN(3, 16, nonlinearity="modrelu", dtype=dtype)
        assert choice(other, x.to(dtype), caplog).startswith("native scan")
    assert "packing" in choice(layer, x[:3, :1], caplog)
    with AliveBytes():
        assert "not native: a dispatch mode" in choice(layer, x, caplog)
    with torch.no_grad():
        layer.backend = "native"
        assert choice(layer, x[:1, :1], caplog) == "native scan for Elman (asked for)"


@pytest.mark.parametrize(("options", "reason"), [
    ({"dtype": torch.float16}, "single or double"),
    ({"device": "meta"}, "on a CPU"),
    ({"nonlinearity": torch.sin}, "no Elman form"),
])  # fmt: skip
def test_what_it_cannot_run(options, reason, installed):
    layer = mr.nn.RNN(3, 4, backend="native", **options)
    x = torch.zeros(2, 1, 3, device=options.get("device"), dtype=options.get("dtype"))
    with pytest.raises(mr.errors.UnsupportedError, match=reason):
        layer(x)


def test_an_installation_without_the_libraries_runs_the_fused_scan(none_installed, caplog):
    layer, x = mr.nn.RNN(3, 4), torch.zeros(9, 2, 3)
    message = choice(layer, x, caplog)
    assert message.startswith("fused scan") and "not native: the package was installed without" in message
    layer.backend = "native"
    with pytest.raises(mr.errors.UnsupportedError, match="installed without its compiled library") as raised:
        layer(x)
    assert len(str(raised.value)) <= 400
    form = layer.cell.bind({"weight_ih": layer.weight_ih_l0}).elman_form()
    with pytest.raises(mr.errors.UnsupportedError, match=r"Use fused, or install the package again"):
        native(form, x, torch.zeros(2, 4), torch.eye(4))


def test_a_library_that_cannot_be_loaded(none_installed, caplog):
    (none_installed / loading.building.file_name(loading.runnable_variants()[0])).write_text("not a library")
    message = choice(mr.nn.RNN(3, 4), torch.zeros(9, 2, 3), caplog)
    assert message.startswith("fused scan") and "could not be loaded" in message


@pytest.mark.parametrize("nonlinearity", ["modrelu", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_fake_tensors_have_the_shapes_of_the_results(dtype, nonlinearity, installed, caplog):
    if dtype.is_complex and nonlinearity == "tanh":
        nonlinearity = torch.nn.Identity()
    results = []
    for mode in (torch.enable_grad(), FakeTensorMode()):
        with mode, caplog.at_level(logging.DEBUG, logger="manifold_rnn.nn.scan"):
            layer = mr.nn.RNN(3, 4, nonlinearity=nonlinearity, dtype=dtype, backend="auto")
            x = torch.zeros(5, 2, 3, dtype=dtype, requires_grad=True)
            y, h = layer(x)
            real(y.sum() + h.sum()).backward()
            results.append(
                [(t.shape, t.dtype, t.stride()) for t in (y, h, x.grad, *(p.grad for p in layer.parameters()))]
            )
    assert results[0] == results[1]


def test_a_trace_of_operations_holds_the_operators_and_runs(installed, generator):
    tensors = arguments("modrelu", torch.complex128, (6, 5, 7, 2), generator)

    def gradients(*inputs):
        leaves = {k: p.detach().requires_grad_() for k, p in zip(tensors, inputs, strict=True)}
        y, _ = call(native, "modrelu", leaves)
        return torch.autograd.grad(real(y.sin()).sum(), list(leaves.values()))

    inputs = [p.detach() for p in tensors.values()]
    traced = make_fx(gradients)(*inputs)
    targets = [str(node.target) for node in traced.graph.nodes]
    assert [t for t in targets if t.startswith("manifold_rnn")] == [
        "manifold_rnn.scan_forward.default",
        "manifold_rnn.scan_backward.default",
    ]
    torch.testing.assert_close(traced(*inputs), gradients(*inputs), atol=0, rtol=0)


@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_operators_follow_the_rules_of_torch(activation, dtype, installed, generator):
    tensors = {k: p.detach() for k, p in arguments(activation, dtype, (5, 3, 4, 2), generator).items()}
    keeps, operators = dtype.is_complex and activation == "modrelu", torch.ops.manifold_rnn
    weights = (tensors["x"], tensors["V"], tensors["b"], tensors.get("threshold"), tensors["W"])
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        operators.scan_forward.default, (*weights, tensors["h0"], activation, keeps), test_utils=checks
    )
    H, Z = operators.scan_forward(*weights, tensors["h0"], activation, keeps)
    for needed in ([True] * 6, [False, True, False, False, True, False]):
        arguments_back = (*weights, H, Z, H[1:], None, activation, needed)
        torch.library.opcheck(operators.scan_backward.default, arguments_back, test_utils=checks)


COMPILED = [
    {},
    {"bidirectional": True, "constraint": mr.Orthogonal()},
    {"nonlinearity": "modrelu", "dtype": torch.complex64},
]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while tracing
@pytest.mark.parametrize("options", COMPILED, ids=str)
def test_compiled_layers_call_the_operators(options, installed, generator):
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    layer = mr.nn.RNN(3, 4, **options)
    compiled = torch.compile(layer, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)
    for steps in (20, 30, 40):
        x, results = torch.randn(steps, 2, 3, dtype=options.get("dtype"), generator=generator), []
        for run in (compiled, layer):
            y, h = run(x)
            loss = real(y).abs().square().sum() + real(h).sum()
            results.append([y, h, *torch.autograd.grad(loss, list(layer.parameters()))])
        torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    # to torch 2.10 all that it compiles is an export, which takes the loop
    exports = torch.compile(lambda x: x + torch.compiler.is_exporting(), backend="eager")(torch.zeros(())) == 1
    directions = 0 if exports else 1 + layer.bidirectional
    for graph, name in zip(graphs, ("scan_forward", "scan_backward") * (len(graphs) // 2), strict=True):
        own = [node.target.name() for node in graph.graph.nodes if "manifold_rnn" in str(node.target)]
        assert own == [f"manifold_rnn::{name}"] * directions


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd])
def test_transforms_inside_of_the_compiler_take_the_loop(transform, installed, generator):
    torch._dynamo.reset()
    layer, x = mr.nn.RNN(3, 4), torch.randn(20, 2, 3, generator=generator)

    def slopes(x):
        return transform(lambda x: layer(x)[0].square().sum())(x)

    compiled = torch.compile(slopes, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), slopes(x))


def test_exported_layers_hold_no_operator_of_the_package(installed):
    program = torch.export.export(mr.nn.RNN(3, 4), (torch.zeros(5, 2, 3),))
    assert not [node for node in program.graph.nodes if "manifold_rnn" in str(node.target)]
