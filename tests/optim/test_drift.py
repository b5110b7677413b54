"""Weights stay on their manifolds over many steps, by the optimizers' defaults, in both precisions."""

import inspect
import sys

import pytest
from support import ROOT
from support.optimizer_cases import OPTIMIZERS
from support.selection import sample

from manifold_rnn import manifolds

sys.path.append(str(ROOT / "benchmarks"))
drift = pytest.importorskip("drift")

ROWS = [(row,) for row in drift.rows()]
# geoopt's own, a set without a way off it, bases, and an open set whose steps end inside or are refused
NOT_MEASURED = {"Adapted", "Euclidean", "FixedNorm", "Manifold", "Parts", "SPD", "VectorManifold"}


def assert_within_bounds(row, n, steps, looks):
    result = drift.measured(row, n, steps, looks=looks)
    assert result["worst"] <= row.bound(n), result
    assert result.get("distance", 0.0) <= 0.5 + 1e-3  # Landing's epsilon


def test_every_manifold_and_every_optimizer_has_rows():
    concrete = {name for name in manifolds.__all__ if inspect.isclass(getattr(manifolds, name))}
    concrete = {name for name in concrete if isinstance(vars(getattr(manifolds, name)).get("name"), (str, property))}
    assert concrete - NOT_MEASURED <= {name.partition(" ")[0] for name in drift.FAMILIES}
    exported = set(OPTIMIZERS)
    assert {name.partition(",")[0] for name in drift.OPTIMIZERS} == exported


@pytest.mark.parametrize("row", sample(ROWS, every=19), ids=str)
def test_many_steps_leave_nothing_but_rounding(row):
    assert_within_bounds(row, 8, 500, looks=5)


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for (row,) in ROWS], ids=str)
def test_many_more_steps_leave_nothing_but_rounding(row):
    assert_within_bounds(row, 8, 2000, looks=20)


def test_without_its_correction_the_cayley_retraction_drifts():
    row = drift.Row("Orthogonal", "cayley", "RiemannianSGD", "float32")
    assert drift.measured(row, 8, 2000, looks=1, polish_every=0)["worst"] > 2 * row.bound(8)
