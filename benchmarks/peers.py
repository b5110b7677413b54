"""Time steps of constrained weights against geoopt, geotorch, torch, and updates without a retraction.

Times are interleaved medians in float32 on one thread, with one parameter per measurement. The unit is the product of
the weight with a square matrix. Update steps use a given gradient and include the rounding correction. A trivialized
step is a forward pass, its backward pass and a step of plain SGD. `one Newton step` moves along the tangent and then
makes one Newton-Schulz step. This is the cheapest feasible update.
"""

import argparse
from collections.abc import Callable

import geoopt
import torch
from timing import interleaved_medians, write
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import manifold_rnn as mr

try:
    import geotorch
except ImportError:
    geotorch = None

SHAPES = [(64, 64), (128, 128), (256, 256), (512, 512), (512, 32), (1024, 16)]
LR = 1e-2
TURN = 5  # calls in a row, because the cache of the first call contains the data of another job
Job = Callable[[], object]


def point(n: int, p: int) -> Tensor:
    """Return a random matrix with orthonormal columns."""
    return mr.Stiefel().random(n, p, generator=torch.Generator().manual_seed(0))


def gradient(n: int, p: int) -> Tensor:
    """Return a gradient of norm one."""
    g = torch.randn(n, p, generator=torch.Generator().manual_seed(1))
    return g / g.norm()


def unit(n: int, p: int) -> Job:
    """Return the product that is the unit of time."""
    x, m = point(n, p), torch.randn(p, p)
    return lambda: x @ m


def step(kind: type, manifold: geoopt.Manifold, x: Tensor, g: Tensor) -> Job:
    """Return a step of an optimizer with one parameter."""
    p = geoopt.ManifoldParameter(x.clone(), manifold=manifold)
    p.grad = g.clone()
    return kind([p], lr=LR).step


def one_newton_step(x: Tensor, g: Tensor) -> Job:
    """Return the cheapest feasible update: along the tangent, then one Newton-Schulz step."""
    x = x.clone()

    def update() -> None:
        xg = x.mT @ g
        y = x - LR * (0.5 * (g - x @ xg.mT) if x.shape[0] > x.shape[1] else x @ (0.5 * (xg - xg.mT)))
        x.copy_(1.5 * y - 0.5 * (y @ (y.mT @ y)))

    return update


def updates(n: int, p: int) -> dict[str, Job]:
    """Return the steps of the update view, by name: ours, `geoopt ...`, and the others."""
    x, g = point(n, p), gradient(n, p)
    jobs: dict[str, Job] = {"matmul": unit(n, p), "one Newton step": one_newton_step(x, g)}
    for name in mr.retractions.names():
        ours = mr.Orthogonal(name) if n == p else mr.Stiefel(name, "canonical" if name == "cayley" else "euclidean")
        jobs[f"sgd {name}"] = step(mr.optim.RiemannianSGD, ours, x, g)
        jobs[f"adam {name}"] = step(mr.optim.RiemannianAdam, ours, x, g)
    jobs["landing"] = step(mr.optim.Landing, mr.Stiefel(), x, g)
    peers = {
        "qr": geoopt.EuclideanStiefel(),
        "cayley": geoopt.CanonicalStiefel(),
        "exp": geoopt.manifolds.EuclideanStiefelExact(),
    }
    for name, manifold in peers.items():
        jobs[f"geoopt sgd {name}"] = step(geoopt.optim.RiemannianSGD, manifold, x, g)
        jobs[f"geoopt adam {name}"] = step(geoopt.optim.RiemannianAdam, manifold, x, g)
    return jobs


def trained(layer: nn.Linear, g: Tensor) -> Job:
    """Return a training step of the layer's weight."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=LR)

    def train() -> None:
        optimizer.zero_grad()
        (layer.weight * g).sum().backward()
        optimizer.step()

    return train


def trivialized(n: int, p: int) -> dict[str, Job]:
    """Return the training steps of the trivialized view, by name."""
    g = gradient(n, p)

    def layer() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(p, n, bias=False)

    jobs: dict[str, Job] = {}
    for name in ("exp", "cayley"):
        ours = mr.Orthogonal(name) if n == p else mr.Stiefel(name, "canonical")
        jobs[f"trivialized {name}"] = trained(mr.constrain(layer(), "weight", ours, view="trivialized"), g)
        torchs = parametrizations.orthogonal(layer(), orthogonal_map={"exp": "matrix_exp"}.get(name, name))
        jobs[f"torch {name}"] = trained(torchs, g)
        if geotorch is not None:
            theirs = geotorch.orthogonal(layer(), "weight", triv={"exp": "expm"}.get(name, name))
            jobs[f"geotorch {name}"] = trained(theirs, g)
    return jobs


def ratios(row: dict[str, float]) -> dict[str, float]:
    """Return the speedup over the fastest peer with the same retraction, by name."""
    found = {}
    for name in row:
        kind, _, map_ = name.partition(" ")
        peers = {"sgd": ["geoopt sgd"], "adam": ["geoopt adam"], "trivialized": ["torch", "geotorch"]}.get(kind, [])
        times = [row[f"{peer} {map_}"] for peer in peers if f"{peer} {map_}" in row]
        if times:
            found[name] = min(times) / row[name]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=30, help="Rounds at the largest sizes. Smaller sizes have more rounds."
    )
    parser.add_argument(
        "--shapes", nargs="+", default=[f"{n}x{p}" for n, p in SHAPES], help="Shapes of the weights, such as 512x32."
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, float]] = {}
    for text in args.shapes:
        n, p = map(int, text.split("x"))
        cheap = interleaved_medians(updates(n, p), max(args.rounds, args.rounds * 512 // n), TURN)
        expensive = interleaved_medians({"matmul": unit(n, p)} | trivialized(n, p), 5, TURN)
        row = {name: seconds / cheap["matmul"] for name, seconds in cheap.items()}
        row |= {name: seconds / expensive["matmul"] for name, seconds in expensive.items()}
        table[text] = row | {f"faster: {name}": value for name, value in ratios(row).items()}
        table[text] |= {
            f"to one Newton step: {name}": row[f"sgd {name}"] / row["one Newton step"]
            for name in ("cayley", "qr", "polar")
        }
        print(f"\n{text}, in products of the same size")
        for name, value in table[text].items():
            print(f"  {name:32}{value:10.2f}", flush=True)
    write("peers", table)


if __name__ == "__main__":
    main()
