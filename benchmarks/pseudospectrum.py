"""Time the pseudospectrum on a grid, and all numbers of the spectrum, for three kinds of matrices.

A sample of the grid of 200 x 200 points is compared with dense singular values. Processor seconds are measured on one
thread, because they do not depend on the load of the machine.
"""

import argparse
import time

import torch
from timing import write
from torch import Tensor

import manifold_rnn as mr


def matrices(n: int) -> dict[str, Tensor]:
    """Return a random matrix, like one after training, an orthogonal one in single precision, and a feedback chain."""
    torch.manual_seed(0)
    ones = torch.ones(n - 1, dtype=torch.float64)
    return {
        "random": 0.95 * torch.randn(n, n, dtype=torch.float64) / n**0.5,
        "orthogonal": mr.Orthogonal().random(n, n),
        "feedback chain": 0.99 * ones.diag(-1) + 0.01 * ones.diag(1),
    }


def error(W: Tensor, result: mr.diagnostics.Pseudospectrum, samples: int) -> float:
    """Return the largest relative error of smallest singular values at random points of the grid."""
    W = W.double()
    z = torch.complex(*torch.meshgrid(torch.tensor(result.real), torch.tensor(result.imaginary), indexing="xy"))
    chosen = torch.randperm(z.numel())[:samples]
    eye = torch.eye(len(W))
    exact = torch.stack(
        [torch.linalg.svdvals(point * eye - W)[-1] for point in z.flatten()[chosen].to(torch.complex128)]
    )
    got = 10 ** result.log10_smallest.flatten()[chosen]
    floor = 1e-12 * torch.linalg.matrix_norm(W)  # smaller dense singular values are rounding errors
    return float(((got - exact).abs() / exact)[exact > floor].max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument(
        "--samples", type=int, default=40, help="Number of points that are compared with dense singular values."
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: dict[str, dict[str, float]] = {}
    for n in args.sizes:
        for kind, W in matrices(n).items():
            start, processor = time.perf_counter(), time.process_time()
            result = mr.diagnostics.pseudospectrum(W, points=args.points, progress=True)
            grid, busy = time.perf_counter() - start, time.process_time() - processor
            start, processor = time.perf_counter(), time.process_time()
            mr.diagnostics.spectrum(W)
            row = {
                "grid seconds": grid,
                "grid processor seconds": busy,
                "spectrum seconds": time.perf_counter() - start,
                "spectrum processor seconds": time.process_time() - processor,
                "error": error(W, result, args.samples),
            }
            rows[f"n={n} {kind}"] = row
            print(f"n={n:<5}{kind:16}" + "".join(f"{key} {value:<10.3g}" for key, value in row.items()), flush=True)
            write("pseudospectrum", rows, points=args.points)


if __name__ == "__main__":
    main()
