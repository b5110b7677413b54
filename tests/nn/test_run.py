"""How a scan is chosen: one table of backends, predicates that only look, one evaluation of the Elman form."""

import ctypes
import importlib
import re
import subprocess
import sys
from typing import get_args

import pytest
import torch
from support import ROOT
from support.scan_cases import choice, fastest_cpu_scan
from torch import nn

import manifold_rnn as mr
from manifold_rnn.nn import cells
from manifold_rnn.nn.scan import backends
from manifold_rnn.nn.scan.base import Backend, Request

CELLS = [cells.Elman(), cells.Elman("modrelu"), cells.LSTM(), cells.LRU(), cells.Momentum(), cells.Elman(torch.sin)]


def a_request(cell, dtype=torch.float32, *, packed=False, diagonal=False):
    layer = mr.nn.Layer(cell, 3, 4, dtype=dtype)
    bound = layer.cell.bind(layer.weights("_l0"))
    x = torch.zeros((9, 3) if packed else (5, 2, 3))
    state = tuple(part.clone() for part in bound.initial_state(2))
    sizes = [2, 2, 2, 2, 1] if packed else None
    return Request(bound, x, state, bound.weights["weight_hh"], sizes, False, diagonal, True, False)


def test_the_table_names_every_backend_and_its_function():
    assert ("auto", *backends.BY_NAME) == backends.BACKENDS
    assert get_args(backends.BackendName) == backends.BACKENDS
    assert set(backends.BY_NAME) <= set(mr.nn.scan.__all__)
    for name, backend in backends.BY_NAME.items():
        assert isinstance(backend, Backend) and backend.name == name and type(backend).__doc__


def test_documentation_and_errors_name_every_backend():
    guide = (ROOT / "docs" / "guide" / "networks.rst").read_text()
    with pytest.raises(mr.errors.OptionError) as caught:
        mr.nn.RNN(3, 4, backend="fast")
    for name in backends.BACKENDS:
        assert f'"{name}"' in guide and f'"{name}"' in mr.nn.scan.run.__doc__ and repr(name) in str(caught.value)
    assert len(str(caught.value)) <= 400


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_asking_loads_and_imports_nothing(cell, dtype, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a predicate has a side effect")

    requests = [a_request(cell, dtype, packed=packed) for packed in (False, True)]
    for owner, name in ((ctypes, "CDLL"), (subprocess, "Popen"), (importlib, "import_module"), (torch, "compile")):
        monkeypatch.setattr(owner, name, forbidden)
    loaded = set(sys.modules)
    for request in requests:
        for backend in backends.BY_NAME.values():
            assert isinstance(backend.cannot_run(request), str) and isinstance(backend.auto_declines(request), str)
    assert set(sys.modules) == loaded


def test_the_reference_runs_everything():
    reference = backends.BY_NAME["reference"]
    assert not any(reference.cannot_run(a_request(cell)) or reference.auto_declines(a_request(cell)) for cell in CELLS)
    assert list(backends.BY_NAME)[-1] == "reference"


@pytest.mark.parametrize("lengths", [None, [7, 7, 4, 2, 1]], ids=["padded", "packed"])
@pytest.mark.parametrize("backend", ["auto", "fused"])
@pytest.mark.parametrize("momentum", [False, True])
def test_the_elman_form_is_evaluated_once_for_each_level_and_direction(momentum, backend, lengths, monkeypatch):
    evaluations = []
    form = cells.Elman.elman_form
    monkeypatch.setattr(cells.Elman, "elman_form", lambda cell: evaluations.append(cell) or form(cell))
    cell = cells.Momentum(cells.Elman()) if momentum else cells.Elman()
    layer = mr.nn.Layer(cell, 3, 4, num_layers=3, bidirectional=True, backend=backend)
    x = torch.zeros(7, 5, 3)
    x = nn.utils.rnn.pack_padded_sequence(x, lengths) if lengths else x
    for forwards in (1, 2):
        layer(x)
        assert len(evaluations) == 6 * forwards


def test_a_scan_that_is_not_by_form_evaluates_none(monkeypatch):
    monkeypatch.setattr(cells.Elman, "elman_form", lambda cell: pytest.fail("evaluated"))
    mr.nn.RNN(3, 4, backend="reference")(torch.zeros(5, 2, 3))


def test_the_choice_and_its_reason_are_logged(caplog):
    x, fast = torch.zeros(4, 2, 3), fastest_cpu_scan()
    assert choice(mr.nn.RNN(3, 4), x, caplog).startswith(f"{fast} scan")
    assert "Elman form" in choice(mr.nn.RNN(3, 4, nonlinearity=torch.sin), x, caplog)
    assert fast in choice(mr.nn.RNN(3, 4), nn.utils.rnn.pack_padded_sequence(x, [4, 2]), caplog)
    reverse = mr.nn.LSTM(3, 4, bidirectional=True)
    assert "packed" in choice(reverse, nn.utils.rnn.pack_padded_sequence(x, [4, 2]), caplog)
    assert "asked for" in choice(mr.nn.RNN(3, 4, backend="reference"), x, caplog)
    assert "torch_kernel" in choice(mr.nn.LSTM(3, 4), x, caplog)
    assert choice(mr.nn.GRU(3, 4), x, caplog).startswith("gated scan")
    assert choice(mr.nn.Layer(cells.LEM(), 3, 4), x, caplog).startswith("gated scan")
    assert "complex" in choice(mr.nn.LSTM(3, 4, dtype=torch.complex64), x, caplog)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in choice(mr.nn.RNN(3, 4), x, caplog)
    assert "no entries" in choice(mr.nn.RNN(3, 4), torch.zeros(4, 0, 3), caplog)


REFUSED = {
    "fused": ({"nonlinearity": torch.sin}, "no Elman form"),
    "native": ({"dtype": torch.float16}, "single or double"),
    "triton": ({"dtype": torch.float64}, "Triton is not installed|TRITON_INTERPRET|no kernel for torch.float64"),
    "associative": ({}, "not linear"),
    "chunked": ({}, "one step at a time"),
    "torch_kernel": ({}, "no kernel for this cell"),
    "gated": ({}, "no hand-written steps"),
    "compiled": ({"dtype": torch.complex64, "nonlinearity": "modrelu"}, "complex|compiler"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_backend_that_cannot_run_says_why(name):
    options, reason = REFUSED[name]
    layer = mr.nn.RNN(3, 4, backend=name, **options)
    dtype = layer.weight_ih_l0.real.dtype
    with pytest.raises(mr.errors.UnsupportedError, match=reason) as caught:
        layer(torch.zeros(4, 2, 3, dtype=dtype))
    assert len(str(caught.value)) <= 400 and re.search(r'Use backend="auto"\.$', str(caught.value))


def test_every_backend_but_the_reference_refuses_something():
    assert set(REFUSED) == set(backends.BY_NAME) - {"reference"}


class Doubled(cells.Elman):
    """A subclass with steps of its own, whose form is still its parent's."""

    def step(self, u, state, W):
        y, _ = super().step(u, state, W)
        return 2 * y, (2 * y,)


class OwnSteps(cells.LSTM):
    """A subclass with steps of its own, whose kernel is still its parent's."""

    def step(self, u, state, W):
        h, (_, c) = super().step(u, state, W)
        return -h, (-h, c)


@pytest.mark.parametrize(
    ("cell", "backend", "reason"),
    [
        (Doubled(), "fused", "no Elman form"),
        (cells.Momentum(Doubled()), "fused", "no Elman form"),
        (OwnSteps(), "torch_kernel", "no kernel"),
    ],
    ids=["form", "form inside momentum", "kernel"],
)
def test_what_a_parent_states_does_not_describe_a_subclass_with_its_own_steps(cell, backend, reason, generator):
    layers = [mr.nn.Layer(cell, 3, 4, dtype=torch.float64, backend=name) for name in ("auto", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(layers[0](x)[0], layers[1](x)[0], atol=1e-13, rtol=1e-13)
    with pytest.raises(mr.errors.UnsupportedError, match=reason):
        mr.nn.Layer(cell, 3, 4, dtype=torch.float64, backend=backend)(x)
