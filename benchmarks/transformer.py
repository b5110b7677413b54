"""Time a training step of a transformer whose query, key, value and output weights are orthogonal.

The model has six blocks and reads 8 sequences of 64 tokens in float32. A training step is a forward pass, a backward
pass and a step of the optimizer. Times are medians of interleaved runs, as multiples of the same step without a
constraint and with torch's fused Adam.
"""

import argparse
import copy
from collections.abc import Callable

import geoopt
import torch
from timing import interleaved_medians, write
from torch import Tensor, nn

import manifold_rnn as mr

try:
    import geotorch
except ImportError:
    geotorch = None

RETRACTIONS = ("qr", "cayley", "polar", "exp")
PATTERN = "*.[qkvo].weight"


class Block(nn.Module):
    """Attention with four separate weights, followed by two layers."""

    def __init__(self, size: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(size, size, bias=False) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.inner = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (part(y).unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(-2, -3).flatten(-2))
        return x + self.inner(self.norm2(x))


def weights(model: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    """Return the layers whose weights are constrained."""
    return [(module, module.weight) for name, module in model.named_modules() if name[-2:] in (".q", ".k", ".v", ".o")]


def ours(model: nn.Module, retraction: str, view: str) -> torch.optim.Optimizer:
    """Constrain the model with this package and return its optimizer."""
    mr.constrain_matching(model, {PATTERN: mr.Orthogonal(retraction)}, view=view)
    if view == "trivialized":
        return torch.optim.Adam(model.parameters(), fused=True)
    return mr.optim.RiemannianAdam(model.parameters())


def of_geoopt(model: nn.Module) -> torch.optim.Optimizer:
    """Put the weights on a manifold of geoopt and return the optimizer."""
    for layer, weight in weights(model):
        manifold = geoopt.EuclideanStiefel()
        layer.weight = geoopt.ManifoldParameter(manifold.projx(weight.detach()), manifold=manifold)
    return geoopt.optim.RiemannianAdam(model.parameters())


def of_torch(model: nn.Module, orthogonal_map: str) -> torch.optim.Optimizer:
    """Add torch's parametrization to the weights and return the optimizer."""
    for layer, _ in weights(model):
        nn.utils.parametrizations.orthogonal(layer, orthogonal_map=orthogonal_map)
    return torch.optim.Adam(model.parameters(), fused=True)


def of_geotorch(model: nn.Module) -> torch.optim.Optimizer:
    """Add geotorch's parametrization to the weights and return the optimizer."""
    for layer, _ in weights(model):
        geotorch.orthogonal(layer, "weight")
    return torch.optim.Adam(model.parameters(), fused=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    start = nn.Sequential(*(Block(args.size) for _ in range(args.layers))).to(args.device)
    x = torch.randn(8, 64, args.size, device=args.device)

    def job(make: Callable[[nn.Module], torch.optim.Optimizer]) -> Callable[[], None]:
        model = copy.deepcopy(start)
        optimizer = make(model)

        def run() -> None:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            if args.device != "cpu":
                torch.cuda.synchronize()

        return run

    jobs = {"free": job(lambda model: torch.optim.Adam(model.parameters(), fused=True))}
    for view in ("update", "trivialized"):
        for retraction in RETRACTIONS if view == "update" else ("cayley", "exp"):
            jobs[f"{view}, {retraction}"] = job(lambda model, r=retraction, v=view: ours(model, r, v))
    jobs["geoopt, qr"] = job(of_geoopt)
    jobs |= {f"torch, {kind}": job(lambda model, k=kind: of_torch(model, k)) for kind in ("cayley", "matrix_exp")}
    if geotorch is not None:
        jobs["geotorch, exp"] = job(of_geotorch)
    seconds = interleaved_medians(jobs, args.rounds)
    free = seconds.pop("free")
    row = {name: value / free for name, value in seconds.items()}
    print(f"free {1e3 * free:.1f} ms  ", "  ".join(f"{name} {ratio:.2f}" for name, ratio in row.items()))
    suffix = "" if args.device == "cpu" else "_gpu"
    about = {"device": args.device, "size": args.size, "blocks": args.layers}
    write(f"transformer{suffix}" + ("" if args.threads == 1 else f"_{args.threads}_threads"), row, **about)


if __name__ == "__main__":
    main()
