"""Measure how far single precision drifts off the manifold in many random optimizer steps.

Each run gives `RiemannianSGD` random gradients, of norms spread from 0.1 to 1, and keeps the worst defect seen,
measured in double. One more run takes the correction away from the Cayley retraction, and shows what it is for.
"""

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed

import geoopt
import torch
from timing import write

import manifold_rnn as mr

NAMES = ["cayley", "exp", "qr", "polar"]
UNPOLISHED = "cayley unpolished"
DTYPES = {"float32": (mr.Orthogonal, torch.float32), "complex64": (mr.Unitary, torch.complex64)}


def worst_defect(
    name: str, n: int, dtype: str, steps: int, *, polish_every: int | None = None, looks: int = 200
) -> float:
    """Return the largest float64 defect of a run, looked at so many times; ``polish_every`` is the optimizer's."""
    group, kind = DTYPES[dtype]
    generator = torch.Generator().manual_seed(0)
    manifold = group(name)
    x = geoopt.ManifoldParameter(manifold.random(n, n, dtype=kind, generator=generator), manifold=manifold)
    optimizer = mr.optim.RiemannianSGD([x], lr=1.0, polish_every=polish_every)
    worst = 0.0
    for step in range(1, steps + 1):
        g = torch.randn(n, n, dtype=kind, generator=generator)
        size = 10 ** -float(torch.rand((), generator=generator))
        x.grad = g * (size * 2**0.5 / torch.linalg.matrix_norm(g))  # about half of it is tangent
        optimizer.step()
        if step % max(1, steps // looks) == 0:
            worst = max(worst, float(mr.linalg.defect(x.detach().to(torch.promote_types(kind, torch.float64)))))
    return worst


def measure(steps: int, sizes: list[int], dtypes: list[str], jobs: int) -> dict[str, dict[str, float]]:
    """Return the worst defects, by dtype and size, then by retraction; runs go side by side, one thread each."""
    table: dict[str, dict[str, float]] = {f"{dtype} n={n}": {} for n in sizes for dtype in dtypes}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = {}
        for n in sorted(sizes, reverse=True):  # the long runs first
            for dtype in dtypes:
                for name in NAMES:
                    pending[pool.submit(worst_defect, name, n, dtype, steps)] = f"{dtype} n={n}", name
        alone = pool.submit(worst_defect, "cayley", min(sizes), dtypes[0], steps, polish_every=0)
        pending[alone] = f"{dtypes[0]} n={min(sizes)}", UNPOLISHED
        for run in as_completed(pending):
            row, name = pending[run]
            table[row][name] = run.result()
            print(f"{row:<18} {name:<18} {run.result():.1e}", flush=True)
    return table


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    arguments = parser.parse_args()
    table = measure(**vars(arguments))
    write("drift", table, steps=f"{arguments.steps:,}")


if __name__ == "__main__":
    main()
