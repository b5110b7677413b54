"""Time an orthogonal convolution against a plain one, and measure the distance of its singular values from 1.

Times of a forward and a backward pass are medians of one interleaved run on one thread in single precision. Both layers
have circular padding and the same input, which needs a gradient as inside a network. The computation of the kernel is
also timed separately for each retraction. The distance from 1 is the largest over all singular values on 32 x 32
images, after a random step from the initial weight.
"""

import argparse
from collections.abc import Callable

import torch
from timing import interleaved_medians, write
from torch import nn

import manifold_rnn as mr

CHANNELS, BATCH, SIZE = 64, 32, 32
CASES = {f"kernel {k}, stride {s}": (k, s) for s in (1, 2) for k in range(s, 6)}
STEP = 0.1  # standard deviation of the random step; for a 64 x 32 frame, its length is 4.5


def layer(taps: int, stride: int, dtype: torch.dtype = torch.float32) -> nn.Conv2d:
    padding = (taps - 1) // 2 if taps % 2 or stride > 1 else "same"
    return nn.Conv2d(
        CHANNELS, CHANNELS, taps, stride, padding=padding, padding_mode="circular", bias=False, dtype=dtype
    )


def constrained(plain: nn.Conv2d, retraction: str = "cayley") -> nn.Conv2d:
    constraint = mr.OrthogonalConv(retraction=retraction)
    return mr.constrain(plain, "weight", constraint, view="trivialized", init="haar")


def pass_through(conv: nn.Conv2d) -> Callable[[], None]:
    x = torch.randn(BATCH, CHANNELS, SIZE, SIZE, requires_grad=True)
    g = torch.randn_like(conv(x).detach())

    def job() -> None:
        conv(x).backward(g)
        conv.zero_grad()
        x.grad = None

    return job


def kernel(conv: nn.Conv2d) -> Callable[[], None]:
    g = torch.randn_like(conv.weight.detach())

    def job() -> None:
        conv.weight.backward(g)
        conv.zero_grad()

    return job


def times(taps: int, stride: int, rounds: int) -> dict[str, float]:
    jobs = {"plain": pass_through(layer(taps, stride)), "orthogonal": pass_through(constrained(layer(taps, stride)))}
    jobs |= {f"kernel, {r}": kernel(constrained(layer(taps, stride), r)) for r in mr.retractions.names()}
    return {name: 1e3 * seconds for name, seconds in interleaved_medians(jobs, rounds).items()}


@torch.no_grad()
def distance(taps: int, stride: int, dtype: torch.dtype) -> float:
    conv = constrained(layer(taps, stride, dtype))
    for p in conv.parameters():
        p.add_(torch.randn_like(p), alpha=STEP)
    values = mr.diagnostics.conv_singular_values(conv.weight, SIZE, stride=stride)
    return max(values.norm - 1, 1 - values.smallest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dry", action="store_true", help="Do not write a file.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, (taps, stride) in CASES.items():
        ms = times(taps, stride, args.rounds)
        off = {dtype: distance(taps, stride, getattr(torch, dtype)) for dtype in ("float32", "float64")}
        rows.append({"case": name, "ratio": ms["orthogonal"] / ms["plain"], "ms": ms, "off": off})
        kernels = "  ".join(f"{k.removeprefix('kernel, ')} {v:.1f}" for k, v in ms.items() if k.startswith("kernel"))
        print(
            f"{name:<20} plain {ms['plain']:7.1f} ms  orthogonal {ms['orthogonal']:7.1f} ms"
            f"  ratio {ms['orthogonal'] / ms['plain']:.3f}"
            f"  kernel: {kernels} ms  off {off['float32']:.1e} {off['float64']:.1e}",
            flush=True,
        )
    if not args.dry:
        write("orthogonal_conv", rows, rounds=args.rounds)


if __name__ == "__main__":
    main()
