"""Time a step on unconstrained parameters of a Transformer encoder against torch's and geoopt's optimizers.

The parameters are float32 with given gradients, and none is on a manifold. Times are interleaved medians, as multiples
of torch's fused step. If torch has no fused step on this device, its foreach step is the unit.
"""

import argparse
import copy

import geoopt
import torch
from timing import interleaved_medians, write

import manifold_rnn as mr

OPTIMIZERS = {
    "Adam": {},
    "SGD": {"momentum": 0.9},
    "Adagrad": {},
    "RMSprop": {},
}


def parameters(layers: int, size: int, device: str) -> list[torch.nn.Parameter]:
    """Return the parameters of an encoder, 12 for each layer, with gradients in place."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(size, nhead=4, dim_feedforward=4 * size, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).to(device)
    for p in model.parameters():
        p.grad = 0.01 * torch.randn_like(p)
    return list(model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    params, rows = parameters(args.layers, args.size, args.device), {}

    def job(kind: type[torch.optim.Optimizer], **options: object):
        step = kind(copied(params), lr=1e-4, **options).step

        def run() -> None:
            step()
            if args.device != "cpu":
                torch.cuda.synchronize()

        return run

    for name, options in OPTIMIZERS.items():
        plain, ours = getattr(torch.optim, name), getattr(mr.optim, f"Riemannian{name}")
        fast = {"fused": True} if args.device in ours.fused_on else {"foreach": True}
        jobs = {"torch, fastest": job(plain, **fast, **options), "ours": job(ours, **options)}
        jobs["torch, default"] = job(plain, **options)
        if args.device != "cpu":
            jobs["ours, capturable"] = job(ours, capturable=True, **options)
        if name in ("Adam", "SGD"):
            peer = geoopt.optim.RiemannianAdam if name == "Adam" else geoopt.optim.RiemannianSGD
            jobs["geoopt"] = job(peer, **options)
        seconds = interleaved_medians(jobs, args.rounds)
        best = seconds.pop("torch, fastest")
        rows[name] = {who: value / best for who, value in seconds.items()}
        print(f"{name:8} {1e6 * best:.0f} us  ", "  ".join(f"{who} {ratio:.2f}" for who, ratio in rows[name].items()))
    about = {"device": args.device, "parameters": len(params), "numbers": sum(p.numel() for p in params)}
    write("plain_parameters" if args.device == "cpu" else "plain_parameters_gpu", rows, **about)


def copied(params: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Return copies of the parameters, with copies of their gradients."""
    copies = copy.deepcopy(params)
    for p, q in zip(params, copies, strict=True):
        q.grad = p.grad.clone()
    return copies


if __name__ == "__main__":
    main()
