"""Single precision stays on the manifold over many steps, by the optimizers' defaults."""

import os
import sys

import pytest
from support import ROOT
from support.selection import slow_but

sys.path.append(str(ROOT / "benchmarks"))
drift = pytest.importorskip("drift")

BOUND = 1e-5


@pytest.mark.parametrize("steps", [400, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", drift.CASES)
@pytest.mark.parametrize("name", drift.NAMES)
def test_many_steps_leave_nothing_but_rounding(name, case, steps):
    assert drift.worst_defect(name, 32, case, steps) <= BOUND / 4


@pytest.mark.parametrize("case", slow_but({"float32"}, ["float32", "complex64", "special"]))
def test_without_its_correction_the_cayley_retraction_drifts(case):
    assert drift.worst_defect("cayley", 32, case, 2000, polish_every=0) > BOUND


@pytest.mark.slow
def test_a_hundred_thousand_steps_leave_nothing_but_rounding():
    table = drift.measure(100_000, list(drift.CASES), os.cpu_count())
    assert table["float32 n=32"].pop(drift.UNPOLISHED) > BOUND
    assert max(worst for row in table.values() for worst in row.values()) <= BOUND
