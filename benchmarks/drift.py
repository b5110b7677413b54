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
# the manifold, its dtype, and the rows for one column
CASES = {
    "float32": (mr.Orthogonal, torch.float32, 1),
    "complex64": (mr.Unitary, torch.complex64, 1),
    "special": (mr.SpecialUnitary, torch.complex64, 1),
    "stiefel": (mr.Stiefel, torch.float32, 4),
}
SIZES = {"float32": [32, 128], "complex64": [32, 128], "special": [32], "stiefel": [32, 128]}


def worst_defect(
    name: str, n: int, case: str, steps: int, *, polish_every: int | None = None, looks: int = 200
) -> float:
    """Return the largest float64 defect of a run, looked at so many times; ``polish_every`` is the optimizer's."""
    make, kind, ratio = CASES[case]
    size = n, n // ratio
    generator = torch.Generator().manual_seed(0)
    manifold = make(name)
    x = geoopt.ManifoldParameter(manifold.random(*size, dtype=kind, generator=generator), manifold=manifold)
    optimizer = mr.optim.RiemannianSGD([x], lr=1.0, polish_every=polish_every)
    worst = 0.0
    for step in range(1, steps + 1):
        g = torch.randn(size, dtype=kind, generator=generator)
        norm = 10 ** -float(torch.rand((), generator=generator))
        x.grad = g * (norm * 2**0.5 / torch.linalg.matrix_norm(g))  # of a square one about half is tangent
        optimizer.step()
        if step % max(1, steps // looks) == 0:
            worst = max(worst, float(manifold.defect(x.detach().to(torch.promote_types(kind, torch.float64)))))
    return worst


def measure(steps: int, cases: list[str], jobs: int) -> dict[str, dict[str, float]]:
    """Return the worst defects, by case and size, then by retraction; runs go side by side, one thread each."""
    runs = sorted(((n, case) for case in cases for n in SIZES[case]), reverse=True)  # the long ones first
    table: dict[str, dict[str, float]] = {f"{case} n={n}": {} for n, case in runs}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = {}
        for n, case in runs:
            for name in NAMES:
                pending[pool.submit(worst_defect, name, n, case, steps)] = f"{case} n={n}", name
        n, case = min(SIZES[cases[0]]), cases[0]
        pending[pool.submit(worst_defect, "cayley", n, case, steps, polish_every=0)] = f"{case} n={n}", UNPOLISHED
        for run in as_completed(pending):
            row, name = pending[run]
            table[row][name] = run.result()
            print(f"{row:<18} {name:<18} {run.result():.1e}", flush=True)
    return table


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    arguments = parser.parse_args()
    table = measure(**vars(arguments))
    write("drift", table, steps=f"{arguments.steps:,}")


if __name__ == "__main__":
    main()
