import pytest

pytest.importorskip("lightning")
import torch

from manifold_rnn.constraints import degrees_of_freedom
from manifold_rnn.errors import OptionError
from manifold_rnn.training import LSTMClassifier, closest_hidden_size


def build(size):
    return LSTMClassifier(1, size, 10)


@pytest.mark.parametrize("budget", [1, 50, 365, 366, 2794, 20_000])
@pytest.mark.parametrize("guess", [2, 17])
def test_no_other_hidden_size_is_closer_to_the_budget(budget, guess):
    found = closest_hidden_size(build, budget, guess)
    gaps = {size: abs(degrees_of_freedom(build(size)) - budget) for size in range(2, 80)}
    assert gaps[found] == min(gaps.values())


def test_a_guess_that_meets_the_budget_is_taken_without_a_search():
    tried = []
    assert closest_hidden_size(lambda size: tried.append(size) or build(size), degrees_of_freedom(build(9)), 9) == 9
    assert tried == [9]


def test_a_budget_below_one_is_refused():
    with pytest.raises(OptionError, match="Got 0"):
        closest_hidden_size(build, 0)


def test_the_groups_hold_every_parameter_once():
    network = build(4)
    (group,) = network.parameter_groups(0.5)
    assert group["lr"] == 0.5
    assert group["params"] == list(network.parameters())


def test_only_the_last_output_is_read():
    network, inputs = build(4), torch.rand(3, 6, 1)
    outputs, _ = network.layer(inputs)
    torch.testing.assert_close(network(inputs), network.readout(outputs[:, -1]))
