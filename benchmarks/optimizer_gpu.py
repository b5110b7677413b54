"""One step of RiemannianAdam in a CUDA graph, against as many batched products as it makes, in a graph as well.

Float32, equal parameters with gradients at hand, on the orthogonal group with each retraction; medians of events on the
device, interleaved. The chain makes, one after the other, as many products of all parameters as the step does; an
inverse counts as one, a triangular solve as a half and a Cholesky factorisation as a sixth, as they do in operations.
"times" is the step over the chain.
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
    """Count the products of a step, and what comes to parts of one."""

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
    """Return how many products a step comes to."""
    small = optimizer(retraction, 2, 8, "cpu")
    small.step()
    with Products() as counter:
        small.step()
    return max(1, math.ceil(counter.count))


def chain(length: int, count: int, n: int) -> Job:
    """Return so many batched products, each of the last result."""
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
