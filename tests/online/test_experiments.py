"""What RFLO learns: the published experiment, and real data against a readout alone."""

import sys

import pytest
from support import ROOT

pytest.importorskip("sklearn")
sys.path.append(str(ROOT / "benchmarks"))
from online import SEEDS, digits, periodic


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_published_experiment_learns_and_its_readout_aligns_with_the_feedback(seed):
    found = periodic(seed, "rflo", 500)
    (first, start), (loss, alignment) = found[0], found[-1]
    assert first > 0.3 and abs(start) < 0.2
    assert loss < 0.03 and alignment > 0.6


def test_a_few_trials_already_lower_the_loss_and_align_the_readout():
    found = periodic(0, "rflo", 30)
    assert found[-1][0] < 0.9 * found[0][0]
    assert found[-1][1] > found[0][1] + 0.2


@pytest.mark.slow
def test_an_orthogonal_matrix_learns_the_published_experiment_too():
    found = periodic(0, "rflo", 500, constraint=True)
    assert found[-1][0] < 0.8 * found[0][0] and found[-1][1] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_digits_row_by_row_are_10_points_better_than_by_the_readout_alone(seed):
    assert digits(seed, "rflo", 40) > digits(seed, "readout", 40) + 0.1
