"""`check_cell` passes every exported cell and reports each fault by the name of its law."""

import dataclasses

import pytest
import torch
from support.cell_cases import CELLS
from torch.nn import functional

import manifold_rnn as mr
from manifold_rnn import errors, testing
from manifold_rnn.nn.cells.base import FILLED_BY_BIND
from manifold_rnn.nn.scan import ElmanForm

ONE_OF_EACH = list({type(cell): cell for cell in CELLS}.values())


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda cell: type(cell).__name__)
def test_every_exported_cell_passes(cell):
    testing.check_cell(cell, strict=True)


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda cell: type(cell).__name__)
def test_every_exported_cell_passes_with_complex_weights(cell):
    testing.check_cell(cell, dtype=torch.complex128, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_every_cell_passes_with_every_option(cell, dtype):
    for seed in (1, 2):
        testing.check_cell(cell, 2, 6, dtype=dtype, steps=9, batch=4, seed=seed, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ONE_OF_EACH[:4], ids=lambda cell: type(cell).__name__)
def test_the_compiled_loop_can_be_chosen(cell):
    testing.check_cell(cell, backends=["compiled"], strict=True)


class Doubled(torch.autograd.Function):
    """The identity with twice its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@dataclasses.dataclass(frozen=True, eq=False)
class Faulty(mr.nn.cells.Cell):
    """h_t = tanh(W h_{t-1} + V x_t + b) with one mistake, given by name."""

    fault: str = dataclasses.field(default="", metadata={FILLED_BY_BIND: True})
    mode: str = "plain"
    calls: list = dataclasses.field(default_factory=list, metadata={FILLED_BY_BIND: True})

    def __post_init__(self):
        if self.fault != "accepted" and self.mode != "plain":
            raise errors.OptionError("mode is unknown. Expected 'plain'.")

    def allocate(self, input_size, hidden_size, *, device=None, dtype=None):
        def empty(*shape):
            return torch.empty(*shape, device=device, dtype=dtype)

        rows = 2 * hidden_size if self.fault == "constrained" else hidden_size
        return {
            "weight_ih": empty(hidden_size, input_size),
            "weight_hh": empty(rows, hidden_size),
            "bias": empty(hidden_size),
        }

    def reset(self, generator=None):
        for name, weight in self.weights.items():
            if self.fault != "unset" or name != "bias":
                torch.nn.init.uniform_(weight, -0.5, 0.5, generator=None if self.fault == "reset" else generator)

    def project(self, x):
        u = functional.linear(x, self.weights["weight_ih"], self.weights["bias"])
        if self.fault == "halves":
            u = u + 0.1 * torch.arange(len(u), dtype=u.dtype).view(-1, *[1] * (u.ndim - 1))
        return u

    def initial_state(self, batch):
        W = self.weights["weight_hh"]
        return (W.new_zeros(1 if self.fault == "batchless" else batch, W.shape[-1]),)

    def step(self, u, state, W):
        h = (u + state[0] @ W[: u.shape[-1]].mT).tanh()
        if self.fault == "gradient":
            h = Doubled.apply(h)
        if self.fault == "batch":
            h = h - h.mean(0)
        if self.fault == "copied":
            self.calls.append(None)
            h = h + 1e-3 * len(self.calls)
        if self.fault == "shapes":
            return torch.cat([h, h], -1), (h,)
        return (2 * h if self.fault == "readout" else h), (h,)

    def elman_form(self):
        if self.fault in ("backends", ""):
            return ElmanForm(
                "relu" if self.fault == "backends" else "tanh", self.weights["weight_ih"], self.weights["bias"]
            )
        return None


def failed(fault):
    return [row.name for row in testing.check_cell(Faulty(fault)).failures]


def test_the_cell_without_a_fault_passes():
    report = testing.check_cell(Faulty(), strict=True)
    assert report.shapes == 0 and "gradient" in str(report)
    with pytest.raises(errors.CheckError, match="gradient"):
        testing.check_cell(Faulty("gradient"), strict=True)


LAWS = [row.name for row in testing.check_cell(mr.nn.cells.Elman()).rows]


@pytest.mark.parametrize("fault", LAWS)
def test_each_fault_is_reported_by_name(fault):
    assert fault in failed(fault)


@pytest.mark.parametrize(("fault", "law"), [("unset", "reset"), ("batchless", "shapes")])
def test_other_faults_are_reported(fault, law):
    assert law in failed(fault)


def test_a_wrong_scan_of_one_backend_is_found_where_it_is_compared():
    report = testing.check_cell(Faulty("backends"), backends=["reference"])
    assert report.backends == 0
    assert testing.check_cell(Faulty("backends"), backends=["fused"]).backends > 1e-3


def test_a_report_comes_out_the_same_again_and_leaves_the_generator():
    state = torch.get_rng_state()
    cell = mr.nn.cells.GRU()
    assert testing.check_cell(cell) == testing.check_cell(cell) != testing.check_cell(cell, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert testing.check_cell(mr.nn.cells.HouseholderProduct()).constrained is None
