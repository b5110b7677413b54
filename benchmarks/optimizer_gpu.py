"""Time a step of RiemannianAdam in a CUDA graph, against the same number of batched products in a CUDA graph.

The parameters are equal float32 matrices on the orthogonal group, with given gradients, for each retraction. Times are
interleaved medians of device events. The chain computes as many products of all parameters, one after the other, as the
step does. By their numbers of operations, an inverse counts as one product, a triangular solve as a half, and a
Cholesky factorization as a sixth. "times" is the time of the step divided by that of the chain.
"""

import argparse
import math

import torch
from gpu_timing import Job, captured, interleaved_events, require_cuda
from timing import write
from torch.utils._python_dispatch import TorchDispatchMode

import manifold_rnn as mr

SHARES = dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "linalg_inv_ex"), 1.0)
SHARES |= {"linalg_solve_triangular": 1 / 2, "linalg_cholesky_ex": 1 / 6}


class Products(TorchDispatchMode):
    """Count the products of a step, including operations that count as a fraction of one."""

    count = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += SHARES.get(func.__name__.split(".")[0], 0)
        return func(*args, **(kwargs or {}))


def optimizer(retraction: str, count: int, n: int, device: str) -> mr.optim.RiemannianAdam:
    """Return an optimizer over points with gradients in place."""
    manifold, generator = mr.Orthogonal(retraction), torch.Generator().manual_seed(0)
    params = []
    for x in manifold.random(count, n, n, generator=generator):
        layer = torch.nn.Linear(n, n, bias=False)
        mr.constrain(layer, "weight", manifold)
        with torch.no_grad():
            layer.weight.copy_(x)
        p = layer.to(device).weight
        p.grad = torch.randn(n, n, generator=generator).to(device) / n
        params.append(p)
    return mr.optim.RiemannianAdam(params, lr=1e-3, capturable=True)


def products(retraction: str) -> int:
    """Return the number of products of a step."""
    small = optimizer(retraction, 2, 8, "cpu")
    small.step()
    with Products() as counter:
        small.step()
    return max(1, math.ceil(counter.count))


def chain(length: int, count: int, n: int) -> Job:
    """Return a chain of ``length`` batched products, each with the previous result."""
    W = mr.Orthogonal().random(count, n, n).cuda()
    buffers = [torch.empty_like(W), torch.empty_like(W)]

    def multiply() -> None:
        x = W
        for k in range(length):
            x = torch.bmm(x, W, out=buffers[k % 2])

    return multiply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    device = require_cuda()
    rows = {}
    for retraction in ("cayley", "exp", "qr", "polar"):
        length = products(retraction)
        stepper = optimizer(retraction, args.count, args.size, "cuda")
        try:
            jobs = {"step": captured(stepper.step), "chain": captured(chain(length, args.count, args.size))}
        except RuntimeError as error:
            print(f"{retraction} was not captured: {str(error).splitlines()[0]}", flush=True)
            continue
        seconds = interleaved_events(jobs, args.rounds)
        drift = max(float(mr.linalg.defect(p)) for group in stepper.param_groups for p in group["params"])
        rows[retraction] = {"products": length, **{f"{k} ms": 1e3 * s for k, s in seconds.items()}}
        rows[retraction] |= {"times": seconds["step"] / seconds["chain"], "defect": drift, "skipped": stepper.skipped}
        print(retraction.ljust(8), "  ".join(f"{k} {v:.3g}" for k, v in rows[retraction].items()), flush=True)
    write("optimizer_gpu", rows, device=device, count=args.count, size=args.size)


if __name__ == "__main__":
    main()
