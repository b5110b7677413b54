"""Time a RiemannianAdam step on equal parameters against geoopt's, with the same retraction and the rounding
correction.

Times are interleaved medians in float32 on one thread. geoopt's Cayley is the retraction of its CanonicalStiefel, and
its QR that of EuclideanStiefel. All get the same points and gradients.
"""

import argparse

import geoopt
import torch
from timing import interleaved_medians, write

import manifold_rnn as mr

PEERS = {"qr": geoopt.EuclideanStiefel(), "cayley": geoopt.CanonicalStiefel()}


def optimizer(kind: type, manifold: geoopt.Manifold, count: int, n: int) -> torch.optim.Optimizer:
    """Return an optimizer over ``count`` points with gradients in place."""
    generator = torch.Generator().manual_seed(0)
    points = mr.Orthogonal().random(count, n, n, generator=generator)
    params = [geoopt.ManifoldParameter(x.clone(), manifold=manifold) for x in points]
    for p in params:
        p.grad = torch.randn(n, n, generator=generator) / n
    return kind(params, lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, peer in PEERS.items():
        ours = optimizer(mr.optim.RiemannianAdam, mr.Orthogonal(name), args.count, args.size)
        theirs = optimizer(geoopt.optim.RiemannianAdam, peer, args.count, args.size)
        seconds = interleaved_medians({"ours": ours.step, "geoopt": theirs.step}, args.rounds)
        ms = {who: 1e3 * value for who, value in seconds.items()}
        rows[name] = {**ms, "faster": seconds["geoopt"] / seconds["ours"]}
        print(f"{name:8} ours {ms['ours']:.2f} ms   geoopt {ms['geoopt']:.2f} ms   {rows[name]['faster']:.1f}x")
    write("optimizer_step", rows, count=args.count, size=args.size)


if __name__ == "__main__":
    main()
