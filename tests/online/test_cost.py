"""What RFLO costs: memory that does not depend on the number of steps, and work as a power of the units."""

import pytest
import torch
from support.counting import AliveBytes
from support.online_cases import (
    BATCH,
    K,
    M,
    rule,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from manifold_rnn.nn import Layer
from manifold_rnn.nn.cells import LeakyElman
from manifold_rnn.online import RFLO


def peak_of_steps(steps):
    network = rule(dtype=torch.float32)
    with AliveBytes() as bytes_:
        for _ in range(steps):
            network.step(torch.ones(BATCH, M), torch.ones(BATCH, K))
    return bytes_.peak


def peak_of_trial(steps):
    network = rule(dtype=torch.float32)
    x = torch.ones(BATCH, 1, M).expand(BATCH, steps, M)
    with AliveBytes() as bytes_:
        network(x).square().sum().backward()
    return bytes_.peak


@pytest.mark.parametrize("peak", [peak_of_steps, peak_of_trial])
def test_memory_does_not_grow_with_the_number_of_steps(peak):
    peak(2)  # what torch makes once
    assert peak(400) == peak(100)


@pytest.mark.slow
@pytest.mark.parametrize("peak", [peak_of_steps, peak_of_trial])
def test_memory_does_not_grow_up_to_ten_thousand_steps(peak):
    peak(2)
    assert peak(10_000) == peak(100)


def test_of_a_trial_nothing_but_outputs_and_errors_grows():
    def peak(steps):
        network = rule(dtype=torch.float32)
        x = torch.ones(BATCH, 1, M).expand(BATCH, steps, M)
        with AliveBytes() as bytes_:
            network(x, every_step=True).square().sum().backward()
        return bytes_.peak

    outputs = 4 * BATCH * K  # bytes of a step
    assert (peak(200) - peak(100)) / 100 <= 5 * outputs


class Written(TorchDispatchMode):
    """Counts the numbers that operations write."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves(result)
        self.count += sum(x.numel() for x in leaves if isinstance(x, torch.Tensor) and not x._is_view())
        return result


def work(n, influence="local"):
    """Multiplications and numbers written in a step with its gradients."""
    layer = Layer(LeakyElman(), M, n)
    network = RFLO(layer, nn.Linear(n, K), influence=influence)
    x, target = torch.ones(BATCH, M), torch.ones(BATCH, K)
    network.step(x, target)
    with FlopCounterMode(display=False) as flops, Written() as written:
        network.step(x, target)
    return flops.get_total_flops() + written.count


@pytest.mark.parametrize(("influence", "power"), [("local", 2), ("diagonal", 2), ("full", 4)])
def test_work_of_a_step_grows_as_a_power_of_the_units(influence, power):
    sizes = (32, 64) if power == 4 else (128, 256)
    small, large = (work(n, influence) for n in sizes)
    assert power - 0.3 < torch.tensor(large / small).log2() < power + 0.05
