"""Compare the closed form of steepest descent in the spectral norm on orthonormal columns with iterations.

A row has the gain and the time of each method. The gain is the inner product of the direction with the gradient, as a
fraction of the best possible one, which is the nuclear norm of skew(G W^H). Before that, the direction is projected
onto the tangent space, and divided by its spectral norm if that is above 1. Each iteration is written from its
published description, with the best of three step sizes. Times are medians of one interleaved run in single precision.
The gain of the closed form is computed in double precision, the others in single precision.

closed form: `manifold_rnn.manifolds.steepest`.
dual ascent: 100 subgradient steps on the symmetric multiplier L of the constraint, then msign(G + W L).
ADMM: 10 steps that split G + W L from a matrix whose nuclear norm is minimized.
alternating projection: project G on the tangent space, take msign, once.
unprojected: msign of G itself.
"""

import argparse
from collections.abc import Callable

import torch
from timing import interleaved_medians, write
from torch import Tensor

import manifold_rnn as mr
from manifold_rnn.linalg import msign
from manifold_rnn.manifolds.steepest import steepest

SHAPES = [(256, 256), (512, 64), (1024, 128)]
SPECTRA = {"flat": 0.0, "decaying": 3.0}  # decades between the largest and smallest singular value of the gradient


def symmetric(x: Tensor) -> Tensor:
    return 0.5 * (x + x.mT)


def tangent(W: Tensor, G: Tensor) -> Tensor:
    return G - W @ symmetric(W.mT @ G)


def closed_form(W: Tensor, G: Tensor, _: float) -> Tensor:
    return steepest(W, G).direction


def dual_ascent(W: Tensor, G: Tensor, rate: float) -> Tensor:
    size = torch.linalg.matrix_norm(G) / G.shape[-1] ** 0.5
    L = -symmetric(W.mT @ G)
    for k in range(100):
        L = L - rate * size * (1 - k / 100) * symmetric(W.mT @ msign(G + W @ L))
    return msign(G + W @ L)


def admm(W: Tensor, G: Tensor, rate: float) -> Tensor:
    size = rate * torch.linalg.matrix_norm(G) / G.shape[-1] ** 0.5  # threshold of the singular values
    L, dual = -symmetric(W.mT @ G), torch.zeros_like(G)
    for _ in range(10):
        B = G + W @ L + dual
        sign = msign(B)
        H = symmetric(sign.mT @ B)
        above = msign(H - size * torch.eye(len(H), dtype=H.dtype))
        X = (B - size * sign) @ (0.5 * (torch.eye(len(H), dtype=H.dtype) + above))
        L = symmetric(W.mT @ (X - dual - G))
        dual = dual + G + W @ L - X
    return msign(G + W @ L)


def alternating(W: Tensor, G: Tensor, _: float) -> Tensor:
    return msign(tangent(W, G))


def unprojected(W: Tensor, G: Tensor, _: float) -> Tensor:
    return msign(G)


WAYS: dict[str, tuple[Callable[[Tensor, Tensor, float], Tensor], tuple[float, ...]]] = {
    "closed form": (closed_form, (0.0,)),
    "dual ascent": (dual_ascent, (0.02, 0.1, 0.5)),
    "ADMM": (admm, (0.1, 0.3, 1.0)),
    "alternating projection": (alternating, (0.0,)),
    "unprojected": (unprojected, (0.0,)),
}


def gain(W: Tensor, G: Tensor, direction: Tensor) -> float:
    """Return the fraction of the best possible gain."""
    xi = tangent(W, direction)
    xi = xi / max(1.0, float(torch.linalg.matrix_norm(xi, 2)))
    best = torch.linalg.svdvals(0.5 * (G @ W.mT - W @ G.mT)).sum()
    return float((G * xi).sum() / best)


def problem(shape: tuple[int, int], decades: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    W = mr.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=generator))[0]
    U, _, Vh = torch.linalg.svd(torch.randn(shape, dtype=torch.float64, generator=generator), full_matrices=False)
    return W, U * torch.logspace(0, -decades, shape[1], dtype=torch.float64) @ Vh


def row(shape: tuple[int, int], rounds: int) -> dict[str, dict[str, float]]:
    """Return, for each method, the smallest gain over the spectra, and the milliseconds."""
    problems = [problem(shape, decades, seed) for seed, decades in enumerate(SPECTRA.values())]
    W, G = (z.float() for z in problems[0])
    best, jobs = {}, {}
    for name, (way, rates) in WAYS.items():
        dtype = torch.float64 if way is closed_form else torch.float32
        scores = {
            rate: min(gain(*p, way(*(z.to(dtype) for z in p), rate).double()) for p in problems) for rate in rates
        }
        rate = max(scores, key=scores.__getitem__)
        best[name] = scores[rate]
        jobs[name] = lambda way=way, rate=rate: way(W, G, rate)
    seconds = interleaved_medians(jobs, rounds)
    return {name: {"gain": best[name], "ms": 1e3 * seconds[name]} for name in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="Do not write a file.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with torch.no_grad():
        for shape in SHAPES:
            values = row(shape, args.rounds)
            rows.append({"shape": "x".join(map(str, shape)), **values})
            ours = values["closed form"]["ms"]
            for name, value in values.items():
                print(
                    f"{shape[0]:>5} x {shape[1]:<4} {name:<24} gain {value['gain']:.9f}  {value['ms']:9.1f} ms"
                    f"  {value['ms'] / ours:6.1f} x",
                    flush=True,
                )
    if not args.dry:
        write("muon", rows, rounds=args.rounds)


if __name__ == "__main__":
    main()
