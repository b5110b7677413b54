"""Time a hand-written cell that calls its layer in each time step, with and without a constraint.

Times are interleaved medians of a forward and a backward pass in float32 on one thread. They are multiples of the
unconstrained cell. "each call" computes the weight in each step, as happens without a context. geotorch runs inside
torch's own context.
"""

import argparse
import contextlib
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from timing import interleaved_medians, write
from torch.nn.utils import parametrize

import manifold_rnn as mr

try:
    import geotorch
except ImportError:
    geotorch = None


class Cell(torch.nn.Module):
    """A recurrence in a few lines, as in the code of most papers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(size, size, bias=False)

    def forward(self, u: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return torch.relu(u + self.inner(h))


def constrained(size: int, retraction: str) -> Cell:
    """Return the cell with a special orthogonal weight in the trivialized view."""
    cell = Cell(size)
    mr.constrain(cell.inner, "weight", mr.SpecialOrthogonal(retraction), view="trivialized", init="haar")
    return cell


def job(cell: Cell, u: torch.Tensor, context: Callable[[], AbstractContextManager[object]]) -> Callable[[], None]:
    """Return a function that runs the loop forward and backward."""

    def run() -> None:
        cell.zero_grad()
        h = torch.zeros_like(u[0])
        with context():
            for x in u:
                h = cell(x, h)
        h.sum().backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="The constrained weight")
    u = torch.randn(args.steps, args.batch, args.size)
    jobs = {"free": job(Cell(args.size), u, contextlib.nullcontext)}
    for name in ("cayley", "exp"):
        jobs[f"{name}, cached"] = job(constrained(args.size, name), u, mr.cached)
        jobs[f"{name}, torch's cached"] = job(constrained(args.size, name), u, parametrize.cached)
        jobs[f"{name}, each call"] = job(constrained(args.size, name), u, contextlib.nullcontext)
    if geotorch is not None:
        peer = Cell(args.size)
        geotorch.orthogonal(peer.inner, "weight")
        jobs["geotorch, torch's cached"] = job(peer, u, parametrize.cached)
    seconds = interleaved_medians(jobs, args.rounds)
    free = seconds.pop("free")
    ratios = {name: value / free for name, value in seconds.items()}
    print(f"free {1e3 * free:.1f} ms")
    for name, ratio in ratios.items():
        print(f"{name:26} {ratio:5.2f}")
    write("loop", ratios, steps=args.steps, batch=args.batch, size=args.size, free_ms=1e3 * free)


if __name__ == "__main__":
    main()
