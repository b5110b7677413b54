"""Measure whether memory stays constant: objects, tensors and resident bytes over many training steps.

A row has one way of training at one step. Rows are appended to a file as they are measured. The first fifth of the
steps is a warm-up, so compare only the later rows with each other.
"""

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path

import torch
from timing import RESULTS, machine

import manifold_rnn as mr

Step = Callable[[], None]


def _descent(layer: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        y = layer(x)
        (y[0] if isinstance(y, tuple) else y).square().mean().backward()
        optimizer.step()

    return step


def _linear(view: str, rebase_every: int | None = None) -> torch.nn.Module:
    return mr.constrain(torch.nn.Linear(8, 8), "weight", mr.Orthogonal(), view=view, rebase_every=rebase_every)


def update() -> Step:
    layer = _linear("update")
    return _descent(layer, mr.optim.RiemannianAdam(layer.parameters(), lr=1e-3), torch.randn(4, 8))


def moving_base() -> Step:
    layer = _linear("trivialized", 3)
    return _descent(layer, torch.optim.Adam(layer.parameters(), lr=1e-3), torch.randn(4, 8))


def refused() -> Step:
    layer = _linear("update")
    optimizer = mr.optim.RiemannianSGD(layer.parameters(), lr=1e-3, momentum=0.9, on_nonfinite="skip")
    inputs = [torch.randn(4, 8), torch.full((4, 8), torch.nan)]
    steps = [_descent(layer, optimizer, x) for x in inputs]

    def step() -> None:
        for one in steps:
            one()

    return step


def layer() -> Step:
    rnn = mr.nn.RNN(3, 8, constraint=mr.Orthogonal(), view="trivialized", nonlinearity="modrelu")
    return _descent(rnn, torch.optim.Adam(rnn.parameters(), lr=1e-3), torch.randn(6, 2, 3))


def average() -> Step:
    layer = _linear("trivialized", 3)
    averaged = mr.optim.average(layer, decay=0.9)
    descent = _descent(layer, torch.optim.Adam(layer.parameters(), lr=1e-3), torch.randn(4, 8))

    def step() -> None:
        descent()
        averaged.update_parameters(layer)

    return step


def new_models() -> Step:
    """Create a model and its optimizer, train for one step, and delete both."""

    def step() -> None:
        layer = _linear("update")
        _descent(layer, mr.optim.RiemannianAdam(layer.parameters(), lr=1e-3), torch.ones(1, 8))()

    return step


CASES = {f.__name__: f for f in (update, moving_base, refused, layer, average, new_models)}


def alive() -> tuple[int, int]:
    """Return the number of objects that the garbage collector tracks, and of tensors among them."""
    gc.collect()
    objects = gc.get_objects()
    return len(objects), sum(issubclass(type(o), torch.Tensor) for o in objects)


def resident() -> int:
    """Return the resident kilobytes of this process, or 0 if the system does not provide them."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def measured(name: str, steps: int, looks: int = 5) -> list[dict[str, int]]:
    """Return the numbers of objects and tensors, and the memory, at ``looks`` steps."""
    torch.manual_seed(0)
    step, rows = CASES[name](), []
    for look in range(1, looks + 1):
        for _ in range(steps // looks):
            step()
        objects, tensors = alive()
        rows.append({"step": look * (steps // looks), "objects": objects, "tensors": tensors, "kilobytes": resident()})
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    about = {"machine": machine(), "torch": torch.__version__.partition("+")[0]}
    for name in arguments.only:
        for row in measured(name, arguments.steps, looks=10):
            with arguments.output.open("a") as file:
                file.write(json.dumps({"case": name, **row, **about}) + "\n")
            print(name, row, flush=True)


if __name__ == "__main__":
    main()
