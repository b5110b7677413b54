"""The compiled scan: its own tanh and threads, when it is built, and when it is taken."""

import logging
import math
import re
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from support.scan_cases import arguments, choice, error, require_native, values
from torch._subclasses import FakeTensorMode

import manifold_rnn as mr
from manifold_rnn.nn.scan import ElmanForm, build_native, native
from manifold_rnn.nn.scan.elman.native import building


@pytest.fixture
def built(monkeypatch):
    require_native(monkeypatch)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A folder of extensions in which nothing was built."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh_is_accurate_and_keeps_what_is_not_finite(dtype, built):
    z = torch.cat([torch.linspace(-25, 25, 20_000, dtype=torch.float64), torch.logspace(-30, 0, 5_000).double()])
    special = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30])
    z = torch.cat([z, special.double()]).to(dtype)
    y, _ = native(
        ElmanForm("tanh"), z.view(1, 5, -1), torch.zeros(5, 5001, dtype=dtype), torch.zeros(5001, 5001).to(dtype)
    )
    torch.testing.assert_close(y.flatten(), z.tanh(), atol=0, rtol=4 * torch.finfo(dtype).eps, equal_nan=True)
    assert (y.flatten().signbit() == z.signbit())[:-5].all()


@pytest.mark.parametrize("sizes", [(60, 17, 65, 2), (60, 8, 100, 1)], ids=str)
def test_threads_share_the_batch(sizes, built, generator):
    tensors = arguments("modrelu", torch.float64, sizes, generator)
    weight = torch.randn(sizes[0], *tensors["h0"].shape, dtype=torch.float64, generator=generator)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 64):
            torch.set_num_threads(threads)
            results.append(values(native, "modrelu", tensors, weight))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a[1], results[0][1]) for a in results)  # each row is computed alike
    assert all(error(other, results[0]) < 1e-12 for other in results[1:])


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
    ({"nonlinearity": torch.sin}, "no Elman form"),
])  # fmt: skip
def test_what_it_cannot_run(options, reason, built):
    layer = mr.nn.RNN(3, 4, backend="native", **options)
    x = torch.zeros(2, 1, 3, device=options.get("device"), dtype=options.get("dtype"))
    with pytest.raises(mr.errors.UnsupportedError, match=reason):
        layer(x)


def test_nothing_is_compiled_unasked(nowhere, caplog):
    assert "build_native() was not called" in choice(mr.nn.RNN(3, 4), torch.zeros(9, 2, 3), caplog)
    mr.nn.RNN(3, 4, backend="native")  # compiles when it is run
    assert not list(nowhere.iterdir())


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "no compiler"), ("false", "false")])
def test_a_machine_that_cannot_build_it(compiler, reason, nowhere, monkeypatch, caplog):
    monkeypatch.setenv("CXX", compiler)
    layer, x = mr.nn.RNN(3, 4, backend="native"), torch.zeros(9, 2, 3)
    for _ in range(2):
        with pytest.raises(mr.errors.UnsupportedError, match=f"could not be built or loaded .*{reason}") as raised:
            layer(x)
        assert len(str(raised.value)) <= 400
    assert sum("Compiling" in record.getMessage() for record in caplog.records) == 1  # it is not tried again
    assert not build_native()
    form = layer.cell.bind({"weight_ih": layer.weight_ih_l0}).elman_form()
    with pytest.raises(mr.errors.UnsupportedError, match=reason):
        native(form, x, torch.zeros(2, 4), torch.eye(4))
    layer.backend = "auto"
    assert layer(x)[0].shape == (9, 2, 4)


def test_a_library_that_is_none(nowhere):
    path = building.library_path()
    (nowhere / "manifold_rnn").mkdir()
    with open(path, "w") as file:
        file.write("not a library")
    assert building.load_library() is None
    assert "loaded" in building.load_or_build(build=True)
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
        "import torch, manifold_rnn as mr\nfrom manifold_rnn.nn.scan.elman.native.building import load_library\n"
        "assert load_library(); mr.nn.RNN(3, 4)(torch.zeros(9, 2, 3))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1200)
    assert build_native() and path.stat().st_mtime_ns == made


def test_every_file_of_the_source_is_in_the_package_and_in_the_name_of_the_library(monkeypatch, tmp_path):
    folder = building.SOURCE.parent
    included = {name for file in folder.iterdir() for name in re.findall(r'#include "(.+)"', file.read_text())}
    assert included | {"scan.cpp"} == {file.name for file in folder.iterdir()}
    copy = shutil.copytree(folder, tmp_path / "cpp")
    monkeypatch.setattr(building, "SOURCE", copy / "scan.cpp")
    before = building.source_digest.__wrapped__()
    (copy / "sums.h").write_text("changed")
    assert building.source_digest.__wrapped__() != before == building.source_digest()
