"""Measure how the cost of a training step grows with time, batch and hidden size, and its memory.

Times are interleaved medians of a forward and a backward pass with modReLU and a loss on the last output, in float32 on
one thread. Exponents are slopes of lines through the logarithms. Memory is the peak of allocated bytes, as a multiple
of the states of all steps.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from timing import interleaved_medians, write
from torch import nn

import manifold_rnn as mr

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.counting import AliveBytes

LINES = {
    "T": [(100, 64, 256), (200, 64, 256), (400, 64, 256), (800, 64, 256)],
    "B": [(200, 128, 256), (200, 192, 256), (200, 256, 256), (200, 512, 256)],
    "n": [(50, 128, 256), (50, 128, 512), (50, 128, 1024), (50, 128, 2048)],
}


def step(T: int, B: int, n: int, **options: bool) -> Callable[[], None]:
    """Return a forward and a backward pass."""
    layer, x = mr.nn.RNN(1, n, nonlinearity="modrelu", backend="fused", **options), torch.rand(T, B, 1)
    nn.init.uniform_(layer.bias_l0, -0.01, 0)

    def train() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x, every_step=False)[1].square().sum().backward()

    return train


def slope(points: list[tuple[float, float]]) -> float:
    """Return the exponent of a power law through the points."""
    x, y = (torch.tensor([math.log(v) for v in values], dtype=torch.float64) for values in zip(*points, strict=True))
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def peak(T: int, B: int, n: int, recompute: bool) -> float:
    """Return the peak bytes, in units of the states of all steps."""
    train = step(T, B, n, recompute=recompute)
    with AliveBytes() as counter:
        train()
    return counter.peak / (T * B * n * 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, float] = {}
    for k, (axis, shapes) in enumerate(LINES.items()):
        times = interleaved_medians({str(shape): step(*shape) for shape in shapes}, args.rounds)
        table[f"exponent of {axis}"] = slope([(shape[k], times[str(shape)]) for shape in shapes])
    table["peak memory, T = 784, B = 128, n = 170"] = peak(784, 128, 170, recompute=False)
    table["the same, T = 10,000, B = 16, n = 64, recomputed"] = peak(10_000, 16, 64, recompute=True)
    for name, value in table.items():
        print(name.ljust(52), f"{value:.3f}")
    write("scaling", table)


if __name__ == "__main__":
    main()
