"""Measure the cost of a constraint relative to the training step, and of a moving base point relative to the update
view.

Times are interleaved medians in float32 on one thread. The training step is a forward and a backward pass of a
recurrent layer over 784 time steps with a batch of 128, with modReLU and a loss on the last output. In the trivialized
view, the cost of the constraint is its map and adjoint. In the update view, it is the step of Riemannian SGD. Its share
is relative to both together. The last rows are a training step of one weight by SGD with the exponential, given the
gradient of its value. They compare a base point that moves in every step (K = 1) with the update view.
"""

import argparse
from collections.abc import Callable

import torch
from timing import interleaved_medians, write
from torch import nn

import manifold_rnn as mr

T, B = 784, 128
SIZES = (170, 512)
Job = Callable[[], object]


def scan(n: int) -> Job:
    """Return a forward and a backward pass without a constraint."""
    layer, x = mr.nn.RNN(1, n, nonlinearity="modrelu", backend="fused"), torch.rand(T, B, 1)
    nn.init.uniform_(layer.bias_l0, -0.01, 0)
    mr.constrain(layer, "weight_hh_l0", mr.Orthogonal())

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x, every_step=False)[1].square().sum().backward()

    return step


def weight(n: int, retraction: str, **options: object) -> tuple[nn.Linear, torch.Tensor]:
    """Return a layer with a constrained weight, and a gradient for it."""
    torch.manual_seed(0)
    layer = mr.constrain(nn.Linear(n, n, bias=False), "weight", mr.Orthogonal(retraction), **options)
    return layer, torch.randn(n, n) / n


def map_and_adjoint(n: int, retraction: str) -> Job:
    """Return the work that the trivialized view adds to a forward and a backward pass."""
    layer, g = weight(n, retraction, view="trivialized")
    with torch.no_grad():
        layer.constraints["weight"].coordinates.normal_(std=0.1)
    return lambda: layer.weight.backward(g)


def update(n: int, retraction: str) -> Job:
    """Return a step of Riemannian SGD."""
    layer, g = weight(n, retraction)
    layer.weight.grad = g
    return mr.optim.RiemannianSGD(layer.parameters(), lr=1e-2).step


def train(n: int, *, moving_base: bool) -> Job:
    """Return a training step of one weight, given the gradient of its value, by SGD with the exponential."""
    view = {"view": "trivialized", "rebase_every": 1} if moving_base else {}
    layer, g = weight(n, "exp", **view)
    optimizer = (torch.optim.SGD if moving_base else mr.optim.RiemannianSGD)(layer.parameters(), lr=1e-2)

    def step() -> None:
        optimizer.zero_grad()
        layer.weight.backward(g)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, float]] = {}
    for n in SIZES:
        jobs = {"scan": scan(n)}
        for name in mr.retractions.names():
            jobs |= {f"trivialized {name}": map_and_adjoint(n, name), f"update {name}": update(n, name)}
        times = interleaved_medians(jobs, args.rounds if n < 512 else max(3, args.rounds // 3))
        row = {
            f"share of {name}": seconds / (seconds + times["scan"]) for name, seconds in times.items() if name != "scan"
        }
        steps = {name: train(n, moving_base=name == "K = 1") for name in ("K = 1", "update")}
        seconds = interleaved_medians(steps, args.rounds, turn=10)
        row["K = 1 to update exp"] = seconds["K = 1"] / seconds["update"]
        table[f"n = {n}"] = row
        print(f"n = {n}", *(f"  {name.ljust(28)} {value:6.3f}" for name, value in row.items()), sep="\n", flush=True)
    write("constraint_cost", table)


if __name__ == "__main__":
    main()
