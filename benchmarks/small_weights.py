"""Time steps of small orthogonal weights against geoopt's, and against torch's steps of unconstrained weights.

Process times are measured interleaved in float32 on one thread. One weight with 8, 32 and 64 rows takes a step of
RiemannianSGD. 64 weights of 32 x 32 take a step of RiemannianAdam. geoopt retracts by the QR factorization on its
Stiefel manifold with the Euclidean metric. Short steps are timed in turns of many steps, and the best turn counts.
"""

import argparse
import time
from collections.abc import Callable

import geoopt
import torch
from timing import write

import manifold_rnn as mr

MAPS = ("qr", "cayley", "polar", "exp")
SIZES = (8, 32, 64)


def ours(kind: type[torch.optim.Optimizer], retraction: str, count: int, n: int) -> torch.optim.Optimizer:
    """Return our optimizer of weights on the orthogonal group, with gradients in place."""
    manifold = mr.Orthogonal(retraction)
    return with_gradients(kind, [geoopt.ManifoldParameter(start(n), manifold=manifold) for _ in range(count)])


def theirs(kind: type[torch.optim.Optimizer], count: int, n: int) -> torch.optim.Optimizer:
    """Return geoopt's optimizer of such weights."""
    manifold = geoopt.EuclideanStiefel()
    return with_gradients(kind, [geoopt.ManifoldParameter(start(n), manifold=manifold) for _ in range(count)])


def plain(kind: type[torch.optim.Optimizer], count: int, n: int) -> torch.optim.Optimizer:
    """Return torch's optimizer of plain weights."""
    return with_gradients(kind, [torch.nn.Parameter(start(n)) for _ in range(count)])


def start(n: int) -> torch.Tensor:
    """Return a random point in row-major memory layout."""
    return mr.Orthogonal().random(n, n).contiguous()


def with_gradients(kind: type[torch.optim.Optimizer], params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return an optimizer of the parameters after its first step."""
    for p in params:
        p.grad = 0.1 * torch.randn(p.shape)
    optimizer = kind(params, lr=1e-2 if "SGD" in kind.__name__ else 1e-3)
    optimizer.step()
    return optimizer


def best_times(jobs: dict[str, Callable[[], object]], rounds: int, turn: int) -> dict[str, float]:
    """Return the process microseconds per call, the best over rounds that run every job in turn."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            began = time.process_time()
            for _ in range(turn):
                job()
            best[name] = min(best[name], 1e6 * (time.process_time() - began) / turn)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=int, default=64, help="Number of 32 x 32 weights for the step of Adam.")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table: dict[str, dict[str, float]] = {}
    for n in SIZES:
        jobs = {r: ours(mr.optim.RiemannianSGD, r, 1, n).step for r in MAPS}
        jobs |= {"geoopt": theirs(geoopt.optim.RiemannianSGD, 1, n).step, "torch": plain(torch.optim.SGD, 1, n).step}
        table[f"one {n} x {n}, SGD"] = best_times(jobs, args.rounds, 100)
    jobs = {r: ours(mr.optim.RiemannianAdam, r, args.weights, 32).step for r in MAPS}
    jobs |= {"geoopt": theirs(geoopt.optim.RiemannianAdam, args.weights, 32).step}
    jobs |= {"torch": plain(torch.optim.Adam, args.weights, 32).step}
    table[f"{args.weights} of 32 x 32, Adam"] = best_times(jobs, args.rounds, 2)
    for row, us in table.items():
        print(f"{row:20} " + "   ".join(f"{who} {value:.1f} us" for who, value in us.items()))
        for r in MAPS:
            us[f"geoopt / {r}"], us[f"{r} / torch"] = us["geoopt"] / us[r], us[r] / us["torch"]
        ratios = (f"{r} {us[f'geoopt / {r}']:.1f}x, {us[f'{r} / torch']:.1f}x" for r in MAPS)
        print(f"{'':20} faster than geoopt, slower than torch: " + "; ".join(ratios), flush=True)
    write("small_weights", table, weights=args.weights, rounds=args.rounds)


if __name__ == "__main__":
    main()
