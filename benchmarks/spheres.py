"""Time one step of RiemannianAdam on spheres against torch's fused Adam on the same matrices.

Times are interleaved medians in float32 on one thread. The matrices are those of a small transformer: 24 of 128 x 512
and 4 of 1024 x 1024. The rows are Adam with one second moment per vector, in place and in the stacked form of all
manifolds, and AdamH (scale="angle"). The load of the machine affects the ratios, so the process time is given too.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from timing import interleaved_medians, write

import manifold_rnn as mr
from manifold_rnn.optim import spheres

ROWS = {
    "rows": (mr.Oblique(), {}),
    "rows, Cayley": (mr.Oblique(retraction="cayley"), {}),
    "rows, projection": (mr.Oblique(retraction="polar"), {}),
    "columns": (mr.Oblique(-2), {}),
    "matrices": (mr.Sphere((-2, -1)), {}),
    "AdamH, rows": (mr.Oblique(), {"scale": "angle"}),
    "AdamH, matrices": (mr.Sphere((-2, -1), radius="init"), {"scale": "angle"}),
}


def parameters(manifold: mr.manifolds.Manifold | None, shapes: list[tuple[int, int]]) -> list[torch.nn.Parameter]:
    """Return points with gradients in place. Without a manifold, they are plain parameters."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(mr.Oblique().random(shape, generator=generator)) for shape in shapes]
    for p in params:
        p.grad = 1e-2 * torch.randn(p.shape, generator=generator)
        if manifold is not None:
            p.data = manifold.projx(p.data)
            p.manifold = manifold
    return params


def stacked(step: Callable[[], object]) -> Callable[[], None]:
    """Return a step in the general form of all manifolds, which stacks equal shapes and can undo a step."""

    def run() -> None:
        few, spheres._FEW = spheres._FEW, 1 << 60
        try:
            step()
        finally:
            spheres._FEW = few

    return run


def process_medians(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the process seconds per call, the median over rounds that run every job in turn."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            times[name].append(time.process_time() - start)
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=24, help="Number of 128 x 512 matrices.")
    parser.add_argument("--large", type=int, default=4, help="Number of 1024 x 1024 matrices.")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shapes = [(128, 512)] * args.small + [(1024, 1024)] * args.large
    table = {}
    for name, (manifold, options) in ROWS.items():
        ours = mr.optim.RiemannianAdam(parameters(manifold, shapes), lr=1e-3, **options)
        other = mr.optim.RiemannianAdam(parameters(manifold, shapes), lr=1e-3, **options)
        fused = torch.optim.Adam(parameters(None, shapes), lr=1e-3, fused=True)
        jobs = {"ours": ours.step, "stacked": stacked(other.step), "fused Adam": fused.step}
        ms = {who: 1e3 * value for who, value in interleaved_medians(jobs, args.rounds).items()}
        cpu = {who: 1e3 * value for who, value in process_medians(jobs, max(3, args.rounds // 4)).items()}
        table[name] = {
            **ms,
            "ours / fused": ms["ours"] / ms["fused Adam"],
            "ours / fused, process time": cpu["ours"] / cpu["fused Adam"],
        }
        shown = "   ".join(f"{who} {value:.2f} ms" for who, value in ms.items())
        ratios = f"{table[name]['ours / fused']:.2f}x, process {table[name]['ours / fused, process time']:.2f}x"
        print(f"{name:18} {shown}   {ratios}", flush=True)
    write("spheres", table, small=args.small, large=args.large, rounds=args.rounds)


if __name__ == "__main__":
    main()
