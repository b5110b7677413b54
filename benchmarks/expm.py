"""Time `expm_skew` forward and backward against `torch.matrix_exp`, and compare both gradients with double precision.

Times are interleaved medians in float32 on one thread. The unit is a matmul of the same size.
"""

import argparse

import torch
from timing import interleaved_medians, write
from torch import Tensor

from manifold_rnn.linalg import expm_skew, skew


def with_spectral_norm(n: int, norm: float) -> Tensor:
    """Return a random skew matrix in double precision."""
    A = skew(torch.randn(n, n, dtype=torch.float64))
    return A * (norm / torch.linalg.matrix_norm(A, 2))


def gradient(function: object, A: Tensor, G: Tensor) -> Tensor:
    """Return the skew part of the gradient of <function(A), G>."""
    A = A.detach().requires_grad_()
    return skew(torch.autograd.grad(function(A), A, G)[0])  # type: ignore[operator]


def compare(n: int, norm: float, rounds: int) -> dict[str, float]:
    """Return times in matmuls, their ratio, and both relative gradient errors."""
    A64, G64 = with_spectral_norm(n, norm), torch.randn(n, n, dtype=torch.float64)
    A, G = A64.float(), G64.float()
    exact = gradient(torch.matrix_exp, A.double(), G.double())
    errors = {
        name: float((gradient(f, A, G).double() - exact).norm() / exact.norm())
        for name, f in (("ours", expm_skew), ("torch", torch.matrix_exp))
    }
    seconds = interleaved_medians(
        {
            "matmul": lambda: A @ G,
            "ours": lambda: gradient(expm_skew, A, G),
            "torch": lambda: gradient(torch.matrix_exp, A, G),
        },
        rounds,
    )
    return {
        "ours": seconds["ours"] / seconds["matmul"],
        "torch": seconds["torch"] / seconds["matmul"],
        "faster": seconds["torch"] / seconds["ours"],
        "error ours": errors["ours"],
        "error torch": errors["torch"],
        "error ratio": errors["ours"] / errors["torch"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--norms", type=float, nargs="+", default=[2.0, 0.01])
    parser.add_argument(
        "--rounds",
        type=int,
        default=9,
        help="Rounds of interleaved timing at n = 1024. Smaller sizes have more rounds.",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = {
        f"n={n} norm={norm:g}": compare(n, norm, args.rounds * max(1, 1024 // n))
        for n in args.sizes
        for norm in args.norms
    }
    print(f"{'':18}" + "".join(f"{key:>13}" for key in next(iter(rows.values()))))
    for name, row in rows.items():
        print(f"{name:18}" + "".join(f"{value:13.3g}" for value in row.values()))
    write("expm", rows)


if __name__ == "__main__":
    main()
