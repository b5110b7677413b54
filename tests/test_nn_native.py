"""The compiled scan against the plain loop: outputs, every gradient, and when it is built and taken."""

import logging
import math
import os
import re
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from scan_cases import EVERY, LAYERS, arguments, call, choice, real
from torch import nn
from torch._subclasses import FakeTensorMode

import manifold_rnn as mr
from manifold_rnn.nn.scan import Form, build_native, building, native
from manifold_rnn.nn.scan.engine import naive

# tiles have 12 rows and 32 columns at most, vectors 2 to 16 entries, and the gradients of 256 rows are summed at a time
SIZES = [(1, 1, 1, 1), (5, 3, 4, 2), (130, 1, 1, 2), (7, 13, 33, 5), (9, 40, 70, 1), (3, 300, 17, 40), (150, 3, 24, 3)]


EXTENSIONS = os.environ.get("TORCH_EXTENSIONS_DIR", "")


@pytest.fixture
def built(monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", EXTENSIONS)
    if reason := building.cannot_load():  # which builds it once on a machine, and tries it once in a process
        pytest.skip(reason)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A folder of extensions in which nothing was built."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return tmp_path


def wide(given):
    return {k: p.detach().to(torch.promote_types(p.dtype, torch.float64)).requires_grad_() for k, p in given.items()}


def values(run, activation, given, weight, wanted="both"):
    """The outputs that are wanted, and the gradients of a weighted sum of them."""
    last = wanted.startswith("last step")
    every = {} if run is naive else {"every_step": not last, "recompute": "recomputed" in wanted}
    found = call(run, activation, given, **every)
    y, h = (found, found[-1]) if run is naive else found
    loss = real(y * weight.to(y.dtype)).sum() if not last else 0
    if wanted != "every step":
        loss = loss + real(h * weight[0].to(h.dtype)).sum()
    return [h, *([] if last else [y]), *torch.autograd.grad(loss, list(given.values()))]


def error(found, true):
    """The largest error, as a part of the largest entry."""
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(found, true, strict=True) if b.numel()
    )


@pytest.mark.parametrize("wanted", ["every step", "last step", "last step, recomputed", "both"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_equals_the_loop_in_outputs_and_every_gradient(activation, dtype, sizes, wanted, built, generator):
    given = arguments(activation, dtype, sizes, generator)
    weight = torch.randn(sizes[0], *given["h0"].shape, dtype=dtype, generator=generator)
    found, true = (values(run, activation, given, weight, wanted) for run in (native, naive))
    assert error(found, true) < 1e-12


@pytest.mark.parametrize("sizes", [(32, 13, 33, 5), (32, 20, 190, 1)], ids=str)
@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_single_precision(activation, dtype, sizes, built, generator):
    given = wide(arguments(activation, dtype, sizes, generator))
    given["W"] = torch.linalg.qr(given["W"].detach())[0].requires_grad_()
    weight = torch.randn(sizes[0], *given["h0"].shape, dtype=dtype, generator=generator) / 32
    true = values(naive, activation, given, weight)
    single = {k: p.detach().to(torch.complex64 if p.is_complex() else torch.float32) for k, p in given.items()}
    single = {k: p.requires_grad_() for k, p in single.items()}
    found = values(native, activation, single, weight)
    assert all(p.dtype == q.dtype for p, q in zip(found[2:], single.values(), strict=True))
    own = error(values(naive, activation, single, weight), true)
    assert error(found, true) < max(1e-5, 2 * own)  # a positive bias makes complex modReLU steep at the origin


@pytest.mark.parametrize("activation", ["tanh", "modrelu"])
def test_a_long_run_is_as_accurate_as_the_loop(activation, built, generator):
    given = arguments(activation, torch.float32, (1000, 8, 48, 1), generator, shift=-0.01)
    given["W"] = torch.linalg.qr(given["W"].detach())[0].contiguous().requires_grad_()
    weight = torch.randn(1000, 8, 48, generator=generator)
    true = values(naive, activation, wide(given), weight)
    errors = [error(values(run, activation, given, weight), true) for run in (native, naive)]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh_is_accurate_and_keeps_what_is_not_finite(dtype, built):
    z = torch.cat([torch.linspace(-25, 25, 20_000, dtype=torch.float64), torch.logspace(-30, 0, 5_000).double()])
    special = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30])
    z = torch.cat([z, special.double()]).to(dtype)
    y, _ = native(Form("tanh"), z.view(1, 5, -1), torch.zeros(5, 5001, dtype=dtype), torch.zeros(5001, 5001).to(dtype))
    torch.testing.assert_close(y.flatten(), z.tanh(), atol=0, rtol=4 * torch.finfo(dtype).eps, equal_nan=True)
    assert (y.flatten().signbit() == z.signbit())[:-5].all()


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_what_is_not_finite_goes_where_it_goes_in_the_loop(activation, dtype, bad, built, generator):
    for name in ("x", "V", "threshold", "W", "h0"):
        given = arguments(activation, dtype, (4, 14, 35, 2), generator)
        if name not in given:
            continue
        with torch.no_grad():
            given[name].view(-1)[given[name].numel() // 2] = bad
        weight = torch.randn(4, *given["h0"].shape, dtype=dtype, generator=generator)
        found, true = (values(run, activation, given, weight) for run in (native, naive))
        known = 2 if name == "threshold" else None  # a unit whose threshold is none has no gradient worth a name
        for a, b in zip(found[:known], true[:known], strict=True):
            assert torch.equal(a.isfinite(), b.isfinite()), name
            fine = a.isfinite() if dtype.is_complex else ~a.isnan()  # products of complex infinities are not defined
            torch.testing.assert_close(a.where(fine, 0), b.where(fine, 0), atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_thresholds_of_one_sign_and_states_of_zeros(shift, dtype, built, generator):
    given = arguments("modrelu", dtype, (9, 2, 4, 2), generator, shift)
    weight = torch.randn(9, 2, 4, dtype=dtype, generator=generator)
    with torch.no_grad():
        given["h0"].zero_()
        given["x"][:3] = given["V"][1] = given["W"][1] = 0
    found, true = (values(run, "modrelu", given, weight) for run in (native, naive))
    assert error(found, true) < 1e-12


@pytest.mark.parametrize(("activation", "dtype"), EVERY, ids=str)
def test_second_derivatives(activation, dtype, built, generator):
    given = arguments(activation, dtype, (4, 2, 3, 2), generator)

    def outputs(*inputs):
        return call(native, activation, dict(zip(given, inputs, strict=True)))

    assert torch.autograd.gradcheck(outputs, list(given.values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, list(given.values()), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_gradients_of_chosen_inputs_and_twice(dtype, built, generator):
    given = arguments("modrelu", dtype, (6, 2, 3, 2), generator)
    weight = torch.randn(6, 2, 3, dtype=dtype, generator=generator)
    true = values(naive, "modrelu", given, weight)[2:]
    for name, expected in zip(given, true, strict=True):
        alone = {other: t.detach().requires_grad_(other == name) for other, t in given.items()}
        y, h = call(native, "modrelu", alone)
        loss = real(weight * y).sum() + real(weight[0] * h).sum()
        for _ in range(2):
            (got,) = torch.autograd.grad(loss, alone[name], retain_graph=True)
            assert error([got], [expected]) < 1e-12


def test_tensors_laid_out_otherwise(built, generator):
    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    W, V, b, h0 = draw(7, 7).mT / 7, draw(3, 7).mT, draw(14)[::2], draw(1, 7).expand(4, 7)
    inputs = [draw(4, 5, 3).transpose(0, 1), draw(3, 5, 4).permute(1, 2, 0), draw(5, 1, 3).expand(5, 4, 3)]
    for x in (*inputs, draw(5, 4, 3).to(torch.complex128).conj().imag):
        found = []
        for run in (native, naive):
            given = [p.clone(memory_format=torch.preserve_format).requires_grad_() for p in (W, V, b)]
            start, entered = h0.detach().requires_grad_(), x.detach().requires_grad_()
            y = run(Form("tanh", given[1], given[2]), entered, start, given[0])
            y = y if run is naive else y[0]
            loss = y.transpose(0, 1).sum() + y[..., 2].square().sum()  # gradients that are expanded, and in part zero
            found.append([y, *torch.autograd.grad(y.sum(), start, retain_graph=True)])
            found[-1] += torch.autograd.grad(loss, [*given, start, entered])
        assert error(*found) < 1e-12


def test_inputs_that_are_not_mapped(built, generator):
    u, h0 = (torch.randn(*s, 2, 19, dtype=torch.float64, generator=generator).requires_grad_() for s in ((6,), ()))
    W = (torch.randn(19, 19, dtype=torch.float64, generator=generator) / 9).requires_grad_()
    found = []
    for run in (native, naive):
        y = run(Form("relu"), u, h0, W)
        found.append([*torch.autograd.grad((y if run is naive else y[0]).sin().sum(), [u, h0, W])])
    assert error(*found) < 1e-12


def test_an_output_changed_in_place_is_noticed(built, generator):
    y, h = call(native, "tanh", arguments("tanh", torch.float64, (6, 2, 3, 2), generator))
    with torch.no_grad():
        y[2] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@pytest.mark.parametrize("sizes", [(60, 17, 65, 2), (60, 8, 100, 1)], ids=str)
def test_threads_share_the_batch(sizes, built, generator):
    given = arguments("modrelu", torch.float64, sizes, generator)
    weight = torch.randn(sizes[0], *given["h0"].shape, dtype=torch.float64, generator=generator)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 64):
            torch.set_num_threads(threads)
            found.append(values(native, "modrelu", given, weight))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a[1], found[0][1]) for a in found)  # each row is computed alike
    assert all(error(other, found[0]) < 1e-12 for other in found[1:])


@pytest.mark.parametrize("lengths", [None, [7, 7, 4, 2, 1]], ids=["padded", "packed"])
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("options", LAYERS, ids=lambda o: "-".join(map(str, o.values())))
def test_layers_give_the_same(options, constrained, lengths, built, generator):
    options = {"dtype": torch.float64, **options}
    if constrained:
        options |= {"constraint": (mr.Unitary if options["dtype"].is_complex else mr.Orthogonal)()}
    layers = [mr.nn.RNN(3, 4, backend=backend, **options) for backend in ("native", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    packs = lengths and not options.get("batch_first")
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    x = nn.utils.rnn.pack_padded_sequence(x, lengths) if packs else x
    found = []
    for layer in layers:
        y, h = layer(x)
        y = y.data if packs else y
        real(y.sin() + y.mean() * h.sum()).sum().backward()
        found.append([y, h, *(p.grad for p in layer.parameters())])
    assert error(*found) < 1e-12


def test_it_is_taken_where_it_was_built_and_pays(built, caplog):
    layer, x = mr.nn.RNN(3, 64), torch.zeros(20, 2, 3)
    assert choice(layer, x, caplog).startswith("native scan")
    for dtype in (torch.float64, torch.complex64):
        other = mr.nn.RNN(3, 16, nonlinearity="modrelu", dtype=dtype)
        assert choice(other, x.to(dtype), caplog).startswith("native scan")
    assert "packing" in choice(layer, x[:3, :1], caplog)
    with FakeTensorMode():
        assert mr.nn.RNN(3, 4)(torch.empty(5, 2, 3))[0].shape == (5, 2, 4)
    with torch.no_grad():
        layer.backend = "native"
        assert choice(layer, x[:1, :1], caplog) == "native scan for Elman (asked for)"


@pytest.mark.parametrize(("options", "reason"), [
    ({"dtype": torch.float16}, "single or double"),
    ({"device": "meta"}, "on a CPU"),
    ({"nonlinearity": torch.sin}, "no form"),
])  # fmt: skip
def test_what_it_cannot_run(options, reason, built):
    layer = mr.nn.RNN(3, 4, backend="native", **options)
    x = torch.zeros(2, 1, 3, device=options.get("device"), dtype=options.get("dtype"))
    with pytest.raises(mr.errors.UnsupportedError, match=reason):
        layer(x)


def test_nothing_is_compiled_unasked(nowhere, caplog):
    assert "build_native() was not called" in choice(mr.nn.RNN(3, 4), torch.zeros(9, 2, 3), caplog)
    assert not list(nowhere.iterdir())


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "no compiler"), ("false", "false")])
def test_a_machine_that_cannot_build_it(compiler, reason, nowhere, monkeypatch, caplog):
    monkeypatch.setenv("CXX", compiler)
    layer, x = mr.nn.RNN(3, 4, backend="native"), torch.zeros(9, 2, 3)
    for _ in range(2):
        with pytest.raises(mr.errors.UnsupportedError, match=f"could not be built, or loaded: .*{reason}") as raised:
            layer(x)
        assert len(str(raised.value)) <= 400
    assert sum("Compiling" in record.getMessage() for record in caplog.records) == 1  # it is not tried again
    assert not build_native()
    form = layer.cell.bind({"weight_ih": layer.weight_ih_l0}).form()
    with pytest.raises(mr.errors.UnsupportedError, match=reason):
        native(form, x, torch.zeros(2, 4), torch.eye(4))
    layer.backend = "auto"
    assert layer(x)[0].shape == (9, 2, 4)


def test_a_library_that_is_none(nowhere):
    path = building._path()
    (nowhere / "manifold_rnn").mkdir()
    with open(path, "w") as file:
        file.write("not a library")
    assert building.library() is None
    assert "loaded" in building.cannot_load()
    assert mr.nn.RNN(3, 4)(torch.zeros(9, 2, 3))[0].shape == (9, 2, 4)


@pytest.mark.slow
def test_a_library_is_built_once_and_found_by_other_processes(built, nowhere, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        layer = mr.nn.RNN(3, 4, backend="native")
        layer(torch.zeros(9, 2, 3))
    assert "Compiling" in caplog.text
    (path,) = (nowhere / "manifold_rnn").iterdir()
    made = path.stat().st_mtime_ns
    code = (
        "import torch, manifold_rnn as mr; assert mr.nn.scan.building.library(); mr.nn.RNN(3, 4)(torch.zeros(9, 2, 3))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert build_native() and path.stat().st_mtime_ns == made


def test_every_file_of_the_source_is_in_the_package_and_in_the_name_of_the_library(monkeypatch, tmp_path):
    folder = building.SOURCE.parent
    included = {name for file in folder.iterdir() for name in re.findall(r'#include "(.+)"', file.read_text())}
    assert included | {"scan.cpp"} == {file.name for file in folder.iterdir()}
    copy = shutil.copytree(folder, tmp_path / "cpp")
    monkeypatch.setattr(building, "SOURCE", copy / "scan.cpp")
    before = building._key.__wrapped__()
    (copy / "sums.h").write_text("changed")
    assert building._key.__wrapped__() != before == building._key()
