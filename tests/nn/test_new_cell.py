"""A new cell is one file and one line in `manifold_rnn.nn.cells`: every enumeration, layer and scan then takes it."""

import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from support import ROOT
from support.cell_cases import exported_cells
from support.scan_cases import choice, fastest_cpu_scan

import manifold_rnn as mr
from manifold_rnn.nn import cells
from manifold_rnn.nn.cells.affine import AffineCell
from manifold_rnn.nn.scan import ElmanForm


@dataclass(frozen=True, eq=False)
class Decay(AffineCell):
    """The dummy: h_t = W h_{t-1} + rate (V x_t + b)."""

    complex_by_default: ClassVar[bool] = True

    rate: float = 0.5

    def project(self, x):
        return self.rate * super().project(x)

    def step(self, u, state, W):
        h = state[0] @ W.mT + u
        return h, (h,)

    def elman_form(self):
        return ElmanForm("linear", self.rate * self.weights["weight_ih"], self.rate * self.weights["bias"])


@pytest.fixture(autouse=True)
def exported(monkeypatch):
    """The line in ``manifold_rnn/nn/cells/__init__.py``."""
    monkeypatch.setattr(cells, "Decay", Decay, raising=False)
    monkeypatch.setattr(cells, "__all__", [*cells.__all__, "Decay"])


def test_enumerations_find_it_with_its_own_facts():
    assert exported_cells()["Decay"] is Decay
    assert Decay.options() == ("bias", "rate") and Decay.gates == ("h",) and Decay.torch_kernel is None
    assert [name for name, kind in exported_cells().items() if kind.complex_by_default] == ["LRU", "Rotating", "Decay"]
    assert [name for name, kind in exported_cells().items() if kind.torch_kernel] == ["GRU", "LSTM"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("constraint", [None, mr.SchurDisc(), {"h": mr.SchurDisc()}])
def test_a_layer_takes_it_with_every_scan_that_fits(constraint, dtype, caplog, generator):
    options = {"num_layers": 2, "bidirectional": True, "constraint": constraint, "view": "trivialized"}
    layer = mr.nn.Layer(Decay(), 3, 4, dtype=dtype, **options)
    x = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    assert choice(layer, x, caplog).startswith(f"{fastest_cpu_scan()} scan for Decay")
    outputs = []
    for layer.backend in ("fused", "reference"):
        y, h_n = layer(x)
        loss = y.abs().square().sum() + h_n.abs().sum()
        outputs.append([y, h_n, *torch.autograd.grad(loss, list(layer.parameters()))])
    torch.testing.assert_close(*outputs, atol=1e-10, rtol=1e-10)


def test_a_diagonal_constraint_makes_it_parallel(caplog):
    disc = mr.DiagonalDisc()
    layer = mr.nn.Layer(Decay(), 3, 4, dtype=torch.complex64, constraint=disc, view="trivialized")
    assert choice(layer, torch.zeros(9, 2, 3), caplog).startswith("associative scan for Decay")


def test_the_guide_lists_every_cell_of_the_package():
    guide = (ROOT / "docs" / "guide" / "networks.rst").read_text()
    listed = re.findall(r"^:class:`~manifold_rnn\.nn\.cells\.(\w+)`", guide, re.MULTILINE)
    assert sorted(listed) == sorted(set(exported_cells()) - {"Decay"})
