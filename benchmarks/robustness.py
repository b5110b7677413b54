"""Measure the robustness of a network with five kinds of recurrent matrices.

The matrices are unconstrained, scaled by radius or norm, orthogonal, or block triangular. The scaled matrices are
divided by their radius or norm after each optimizer step. The network is an Elman cell with tanh and 32 units, which
reads handwritten digits by rows (8 time steps of 8 pixels). It is trained by Adam with a learning rate of 3e-3 for 60
epochs in batches of 32, with ten seeds.

A row has means over the seeds, with the smallest and largest value. The accuracies on the 360 test images are without
perturbation, under noise and attacks, and with perturbed matrices. The other numbers are spectral numbers of the
recurrent matrix.
"""

import argparse
from statistics import mean

import torch
from timing import write
from torch import nn

import manifold_rnn as mr

SIZE, RATE, EPOCHS, BATCH, SEEDS = 32, 3e-3, 60, 32, range(10)
SETTINGS = {"hidden size": SIZE, "rate": RATE, "epochs": EPOCHS, "batch": BATCH, "seeds": len(SEEDS)}
WEIGHTS: dict[str, tuple[mr.constraints.constraint.AnyConstraint | None, str]] = {
    "free": (None, "update"),
    "radius scaled": (mr.SpectralScaled("radius"), "update"),
    "norm scaled": (mr.SpectralScaled("norm"), "update"),
    "orthogonal": (mr.Orthogonal("cayley"), "update"),
    "ENRNN": (mr.block_triangular(mr.Orthogonal("cayley"), mr.StickyDisc()), "trivialized"),
}


def trained(name: str, seed: int, batch: int = BATCH, epochs: int = EPOCHS) -> mr.zoo.Network:
    """Return the network after training."""
    torch.manual_seed(seed)
    task = mr.tasks.Digits(by="rows")
    constraint, view = WEIGHTS[name]
    layer = mr.nn.RNN(task.input_size, SIZE, batch_first=True, constraint=constraint, view=view)
    network = mr.zoo.Network(layer, task.output_size)
    optimizer = mr.optim.RiemannianAdam(network.parameters(), lr=RATE)
    x, y = task.splits().train.tensors
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[part]), y[part]).backward()
            optimizer.step()
    return network


def measured(network: mr.zoo.Network) -> dict[str, float]:
    """Return accuracies on the test set and spectral numbers, by their names in the table."""
    task = mr.tasks.Digits(by="rows")
    r = mr.diagnostics.robustness(network, task.splits().test, noise=(0.2,), norms=("inf",))
    spectrum = mr.diagnostics.spectrum(network, eps=(0.1,))
    return {
        "clean": r.clean,
        "Gaussian 0.2": r.noise["gaussian", 0.2],
        "uniform 0.2": r.noise["uniform", 0.2],
        **{f"{n} step{'s' * (n > 1)} {radius}": score for (_, radius, n), score in r.attacks.items()},
        "random E 0.3": r.weights["random"],
        "worst E 0.3": r.weights["worst case"],
        "radius": spectrum.radius,
        "norm": spectrum.norm,
        "Henrici": spectrum.henrici,
        "commutator": spectrum.commutator,
        "radius with E 0.1": spectrum.pseudo[0.1],
        "largest growth": r.largest_growth or 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--weights", nargs="+", default=list(WEIGHTS), choices=list(WEIGHTS))
    parser.add_argument("--dry", action="store_true", help="Do not write a file.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name in args.weights:
        results = [measured(trained(name, seed, args.batch, args.epochs)) for seed in SEEDS]
        rows[name] = {
            key: {"mean": mean(values), "least": min(values), "most": max(values)}
            for key in results[0]
            if (values := [result[key] for result in results])
        }
        print(f"{name:<14}", "  ".join(f"{key} {row['mean']:.3f}" for key, row in rows[name].items()), flush=True)
    if not args.dry:
        settings = {**SETTINGS, "batch": args.batch, "epochs": args.epochs}
        write("robustness", [{"weights": name, **row} for name, row in rows.items()], **settings)


if __name__ == "__main__":
    main()
