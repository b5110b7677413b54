"""Time the recurrent scan on a GPU, one Triton kernel per direction, against cuDNN, the fused scan and loops.

A call is one training step (forward and backward) in float32 with input size 1 and a loss on the last output. Times are
interleaved medians of device events. cuDNN is ``torch.nn.RNN`` with relu. It is real with the same hidden size even if
our scan is complex. Ratios are times of the other divided by our times, so ours is faster above 1.

The floor is the larger of two times: bytes over bandwidth (states written once and read once), and operations over rate
(three products). Bandwidth and rate are measured here. The share is the floor divided by our time. "error" is the
largest difference of the gradient of the matrix from that of the fused scan, relative to its largest entry.
"""

import argparse
import sys

import torch
from gpu_timing import Job, ceilings, interleaved_events, require_cuda
from timing import write
from torch import Tensor, nn

import manifold_rnn as mr

SHAPES = ["784x128x128", "1000x20x128", "784x128x170", "1000x20x190", "784x128x256", "1000x20x512", "784x128x512"]
DEVICE = "cuda"
BACKENDS = {"loop": "reference", "compiled": "compiled", "fused": "fused", "triton": "triton"}


def layer(n: int, backend: str, dtype: torch.dtype) -> nn.Module:
    """Return a layer with modReLU and a norm-preserving matrix, equal for every backend."""
    torch.manual_seed(0)
    manifold = mr.Unitary() if dtype.is_complex else mr.Orthogonal()
    made = mr.nn.RNN(1, n, nonlinearity="modrelu", constraint=manifold, backend=backend, dtype=dtype)
    nn.init.uniform_(made.bias_l0, -0.01, 0)
    return made.to(DEVICE)


def train(module: nn.Module, x: Tensor) -> Job:
    """Return a forward and a backward pass."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        h = module(x, every_step=False)[1] if isinstance(module, mr.nn.Layer) else module(x)[1]
        h.abs().square().sum().backward()

    return step


def jobs(T: int, B: int, n: int, dtype: torch.dtype, skip: list[str]) -> tuple[dict[str, Job], float]:
    """Return the jobs to compare, without those that fail, and the error of our scan."""
    x, found, gradients = torch.rand(T, B, 1, device=DEVICE), {}, {}
    modules = {name: layer(n, backend, dtype) for name, backend in BACKENDS.items() if name not in skip}
    modules["cudnn"] = nn.RNN(1, n, nonlinearity="relu").to(DEVICE)
    for name, module in modules.items():
        try:
            train(module, x)()
            torch.cuda.synchronize()
        except (RuntimeError, mr.errors.UnsupportedError) as error:
            print(f"{name} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        found[name], gradients[name] = train(module, x), module.weight_hh_l0.grad
    if not {"triton", "fused"} <= gradients.keys():
        return found, float("nan")
    a, b = (torch.view_as_real(g) if g.is_complex() else g for g in (gradients["triton"], gradients["fused"]))
    return found, float((a - b).abs().max() / b.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="T x B x n")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--skip", nargs="*", default=[], choices=list(BACKENDS), help="Backends to leave out.")
    parser.add_argument("--precision", default="highest", choices=["highest", "high", "medium"])
    args = parser.parse_args()
    device = require_cuda()
    torch.set_float32_matmul_precision(args.precision)
    torch.backends.cudnn.allow_tf32 = args.precision != "highest"
    bandwidth, rate = ceilings()
    print(f"{device}: {bandwidth / 1e12:.2f} TB/s, {rate / 1e12:.1f} TFLOP/s, precision {args.precision}")
    table: dict[str, dict[str, float]] = {}
    for text in args.shapes:
        T, B, n = map(int, text.split("x"))
        for dtype in (torch.float32, torch.complex64):
            found, error = jobs(T, B, n, dtype, args.skip)
            seconds = interleaved_events(found, args.rounds)
            parts = 2 if dtype.is_complex else 1
            floor = max(2 * T * B * n * dtype.itemsize / bandwidth, 6 * T * B * n**2 * parts**2 / rate)
            row = {f"{k} ms": 1e3 * s for k, s in seconds.items()}
            if "triton" in seconds:
                ours = seconds["triton"]
                row |= {f"to {k}": s / ours for k, s in seconds.items() if k != "triton"}
                row |= {"us a step": 1e6 * ours / T, "share of floor": floor / ours, "error": error}
            name = f"T={T} B={B} n={n} {'complex' if dtype.is_complex else 'real'}"
            table[name] = row
            print(name.ljust(30), "  ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
    write("scan_gpu", table, device=device, bandwidth=bandwidth, rate=rate, precision=args.precision)


if __name__ == "__main__":
    main()
