"""Measure the errors of a quadratic network from moments, and its use as an initialization.

`tasks.QuadraticSystem` draws random systems with 4 inputs, 3 units, 3 outputs, a coupling of 0.15 and noise of 0.1. The
first table has the error of the worst direction, the error of U relative to its norm, and R2 on new data without noise.
The second table trains the cell Quadratic on the same sequences by Adam. It takes 200 steps from the initialization by
moments, and 2,000 steps from random weights with the best of four learning rates. The losses are mean squared errors on
new data without noise.
"""

import argparse
import time
from itertools import permutations

import torch
from timing import write

import manifold_rnn as mr

SEEDS, SIZES, TRAINING = range(4), (20_000, 200_000, 1_000_000), 200_000
BATCH, RATE, RATES, STEPS = 1_000, 1e-4, (1e-3, 3e-3, 1e-2, 3e-2), (200, 2_000)
SETTINGS = {"inputs": 4, "units": 3, "outputs": 3, "coupling": 0.15, "noise": 0.1, "batch": BATCH, "rate": RATE}


def sequences(seed: int, count: int, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sequences of the system of a seed in float64. Sequences without noise are new ones."""
    task = mr.tasks.QuadraticSystem(seed=seed, noise=noise)
    generator = torch.Generator().manual_seed(1_000 * seed + (count if noise else 1))
    x, y = task.sample(count, generator=generator)
    return x.double(), y.double()


def errors(fit: mr.moments.QuadraticFit, seed: int) -> dict[str, float]:
    """Return the distance of a fit from its system, for any order and signs of the units."""
    A, U, _ = (part.double() for part in mr.tasks.QuadraticSystem(seed=seed).weights())
    cosines = torch.nn.functional.normalize(fit.A, dim=1) @ A.T
    order = max(permutations(range(3)), key=lambda p: sum(float(cosines[p[i], i].abs()) for i in range(3)))
    signs = torch.stack([cosines[order[i], i] for i in range(3)]).sign()
    found = fit.U[list(order)][:, list(order)] * signs[:, None]
    x, y = sequences(seed, 20_000, noise=0.0)
    rest = y - fit.predict(x[:, 0], x[:, 1])
    worst = min(float(cosines[order[i], i].abs()) for i in range(3))
    r2 = 1 - float(rest.var(0).sum() / y.var(0).sum())
    return {"cosine": worst, "error of U": float((found - U).norm() / U.norm()), "R2": r2}


def slope(rows: list[dict[str, float]]) -> float:
    """Return the slope of the mean logarithm of the errors of U over the logarithm of N."""
    sizes = sorted({row["sequences"] for row in rows})
    logs = [torch.tensor([r["error of U"] for r in rows if r["sequences"] == n]).log().mean() for n in sizes]
    x, y = torch.tensor(sizes, dtype=torch.float64).log(), torch.stack(logs).double()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def trained(seed: int, rate: float, steps: int, *, by_moments: bool) -> float:
    """Return the loss of a network on new sequences after training."""
    x, y = (part.float() for part in sequences(seed, TRAINING))
    torch.manual_seed(seed)
    layer = mr.nn.Layer(mr.nn.cells.Quadratic(), 4, 3, batch_first=True)
    network = mr.zoo.Network(layer, 3)
    if by_moments:
        mr.training.StartSettings("moments").start(network, x, y)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        part = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(x[part]), y[part]).backward()
        optimizer.step()
    with torch.no_grad():
        x, y = (part.float() for part in sequences(seed, 20_000, noise=0.0))
        return float(torch.nn.functional.mse_loss(network(x), y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--dry", action="store_true", help="Do not write a file.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, starts = [], []
    for seed in SEEDS:
        for count in args.sizes:
            x, y = sequences(seed, count)
            begin = time.perf_counter()
            fit = mr.moments.fit(x[:, 0], x[:, 1], y, hidden=3)
            seconds = time.perf_counter() - begin
            rows.append({"seed": seed, "sequences": count, **errors(fit, seed), "seconds": seconds})
            print({key: float(f"{value:.6g}") for key, value in rows[-1].items()}, flush=True)
    if len(args.sizes) > 1:
        print(f"slope of the error of U: {slope(rows):.3f}")
    for seed in SEEDS:
        row = {"seed": seed, "variance": mr.tasks.QuadraticSystem(seed=seed, noise=0.0).baseline().loss}
        row["moments, 0 steps"] = trained(seed, RATE, 0, by_moments=True)
        row["moments, 200 steps"] = trained(seed, RATE, STEPS[0], by_moments=True)
        row["random, 2,000 steps"] = min(trained(seed, rate, STEPS[1], by_moments=False) for rate in RATES)
        starts.append(row)
        print({key: float(f"{value:.4g}") for key, value in row.items()}, flush=True)
    if not args.dry:
        write("moments", [*rows, *starts], **SETTINGS, slope=slope(rows) if len(args.sizes) > 1 else None)


if __name__ == "__main__":
    main()
