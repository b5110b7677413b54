"""Time steps in blocks against the plain loop, for cells with input-dependent matrices.

A job is a forward and a backward pass of a layer with inputs of size 16, including their projection. Times are
interleaved medians of processor time in float32, on one thread unless you pass --threads. "times faster" is the time of
the loop divided by that of the blocks.
"""

import argparse
import time
from collections.abc import Callable

import torch
from timing import interleaved_medians, write

import manifold_rnn as mr
from manifold_rnn.nn import cells

CELLS: dict[str, Callable[[], cells.Cell]] = {
    "DeltaProduct, 1 head": lambda: cells.DeltaProduct(2),
    "DeltaProduct, 1 head, decay": lambda: cells.DeltaProduct(2, decay=True),
    "DeltaProduct, 2 heads": lambda: cells.DeltaProduct(2, heads=2),
    "HouseholderProduct": lambda: cells.HouseholderProduct(2),
    "HouseholderProduct, 4 reflections": lambda: cells.HouseholderProduct(4),
    "Rotating": cells.Rotating,
}
SHAPES = [(512, 32, 64), (2048, 1, 64)]


def train(cell: cells.Cell, backend: str, x: torch.Tensor, n: int) -> Callable[[], object]:
    """Return a forward and a backward pass."""
    torch.manual_seed(0)
    dtype = torch.complex64 if cell.complex_by_default else torch.float32
    layer = mr.nn.Layer(cell, x.shape[-1], n, dtype=dtype, backend=backend)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x)[0].abs().square().mean().backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=["x".join(map(str, s)) for s in SHAPES], help="T x B x n")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table: dict[str, dict[str, float]] = {}
    for text in args.shapes:
        T, B, n = map(int, text.split("x"))
        x = torch.randn(T, B, 16)
        for name, make in CELLS.items():
            jobs = {b: train(make(), b, x, n) for b in ("chunked", "reference")}
            row = interleaved_medians(jobs, args.rounds, clock=time.process_time)
            key = f"{name}, T={T} B={B} n={n}"
            table[key] = {"times faster": row["reference"] / row["chunked"]}
            table[key] |= {"blocks, ms": 1e3 * row["chunked"], "loop, ms": 1e3 * row["reference"]}
            print(key.ljust(52), "  ".join(f"{k} {v:.1f}" for k, v in table[key].items()), flush=True)
    write("householder", table)


if __name__ == "__main__":
    main()
