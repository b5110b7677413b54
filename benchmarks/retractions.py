"""Measure every retraction on square matrices: cost, drift, order, and accuracy of large steps.

The benchmark prints one table and writes the numbers for the documentation. Times are medians of interleaved runs on
one thread, so that the load of the machine affects all candidates equally.
"""

import argparse
import math
from collections.abc import Callable

import torch
from timing import interleaved_medians, write
from torch import Tensor

import manifold_rnn as mr

NAMES = ["cayley", "exp", "qr", "polar"]


def random_skew(n: int, norm: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a skew matrix with the given spectral norm."""
    A = mr.linalg.skew(torch.randn(n, n, dtype=torch.float64))
    return (A * (norm / torch.linalg.matrix_norm(A, 2))).to(dtype)


def costs(n: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Return, for each retraction, the cost in matmuls of the map, and of the map with its gradient."""
    A, x = random_skew(n, 1.0), torch.randn(n, n)
    jobs: dict[str, Callable[[], object]] = {"matmul": lambda: x @ x}
    for name in NAMES:
        retraction = mr.retractions.get(name)
        jobs[name] = lambda phi=retraction.group_map: phi(A)
        jobs[f"{name} gradient"] = lambda phi=retraction.group_map: _map_and_gradient(phi, A, x)
    seconds = interleaved_medians(jobs, rounds)
    unit = seconds["matmul"]
    return {name: (seconds[name] / unit, seconds[f"{name} gradient"] / unit) for name in NAMES}


def drift(name: str, n: int, steps: int, *, polished: bool) -> float:
    """Return the float64 defect after many small random steps in float32."""
    manifold = mr.Orthogonal(name)
    generator = torch.Generator().manual_seed(0)
    x = manifold.random(n, n, generator=generator)
    every = manifold.polish_every if polished else 0
    for step in range(1, steps + 1):
        u = manifold.proju(x, torch.randn(n, n, generator=generator) / n)
        x = manifold.retr(x, u)
        if every and step % every == 0:
            x = manifold.polish(x)
    return float(mr.linalg.defect(x.double()))


def defect_after_one_step(name: str, n: int, norm: float) -> float:
    """Return the float64 defect of the map of one tangent of the given norm, computed in float32."""
    return float(mr.linalg.defect(mr.retractions.get(name).group_map(random_skew(n, norm)).double()))


def slope(name: str, n: int = 16) -> float:
    """Return the exponent p of the distance t^p to the geodesic in float64: 2 for order one, 3 for order two."""
    A, phi = random_skew(n, 1.0, torch.float64), mr.retractions.get(name).group_map
    gaps = [float(torch.linalg.matrix_norm(phi(t * A) - torch.linalg.matrix_exp(t * A))) for t in (1e-2, 1e-3)]
    return math.log10(gaps[0] / gaps[1]) if gaps[1] > 1e-13 else math.inf


def measure(sizes: list[int], drift_size: int, steps: int, rounds: int) -> dict[str, dict[str, object]]:
    """Return all numbers as text for a table."""
    torch.manual_seed(0)
    table: dict[str, dict[str, object]] = {name: {"slope": f"{slope(name):.1f}"} for name in NAMES}
    for name, row in table.items():
        row["order"] = str(mr.retractions.get(name).order(mr.Orthogonal(name)))
        row["drift"] = f"{drift(name, drift_size, steps, polished=False):.0e}"
        row["polished drift"] = f"{drift(name, drift_size, steps, polished=True):.0e}"
        row |= {f"step {norm:g}": f"{defect_after_one_step(name, drift_size, norm):.0e}" for norm in (1, 1e2, 1e4, 1e6)}
    for n in sizes:
        for name, (value, with_gradient) in costs(n, rounds).items():
            table[name] |= {f"cost {n}": f"{value:.1f}", f"gradient cost {n}": f"{with_gradient:.1f}"}
    return table


def show(table: dict[str, dict[str, object]]) -> None:
    """Print the numbers with one row for each quantity."""
    print(f"{'':24}" + "".join(f"{name:>10}" for name in table))
    for key in next(iter(table.values())):
        print(f"{key:24}" + "".join(f"{row[key]:>10}" for row in table.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[32, 128, 512], help="Sizes of the matrices whose cost is measured."
    )
    parser.add_argument("--drift-size", type=int, default=32, help="Matrix size of the drift runs.")
    parser.add_argument("--steps", type=int, default=20_000, help="Number of steps of the drift runs.")
    parser.add_argument("--rounds", type=int, default=40, help="Rounds of the interleaved timing.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = measure(args.sizes, args.drift_size, args.steps, args.rounds)
    show(table)
    write("retractions", table, steps=f"{args.steps:,}", size=args.drift_size)


def _map_and_gradient(phi: Callable[[Tensor], Tensor], A: Tensor, g: Tensor) -> Tensor:
    A = A.detach().requires_grad_()
    return torch.autograd.grad(phi(A), A, g)[0]


if __name__ == "__main__":
    main()
