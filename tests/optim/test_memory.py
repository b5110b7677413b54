"""Nothing piles up while a model is trained: as many objects and tensors are alive after many steps as after few."""

import sys

import pytest
from support import ROOT

sys.path.append(str(ROOT / "benchmarks"))
memory = pytest.importorskip("memory")


# until caches are full, such as those of polynomials, which have one entry for each size of the coordinates
STEPS = {"moving_base": 999, "layer": 999, "average": 3600}


@pytest.mark.parametrize(
    ("name", "steps"),
    [(name, STEPS.get(name, 300)) for name in memory.CASES]
    + [pytest.param(name, 100_000, marks=pytest.mark.slow) for name in memory.CASES],
)
def test_no_object_and_no_tensor_is_left_behind_by_a_step(name, steps):
    rows = memory.measured(name, steps, looks=3)[1:]
    first, last = rows[0], rows[-1]  # what goes away in between was left by other tests
    assert last["tensors"] <= first["tensors"], rows
    assert last["objects"] < first["objects"] + 20, rows  # not one a step


@pytest.mark.slow
def test_resident_memory_is_flat():
    for name in memory.CASES:
        rows = memory.measured(name, 50_000)[1:]
        assert rows[-1]["kilobytes"] - rows[0]["kilobytes"] < 4096, (name, rows)
