"""Measure steps and seconds to a fixed validation loss for RiemannianMuon, RiemannianAdam and RiemannianSGD.

rows of MNIST: an orthogonal network of 128 units that reads an image in 28 time steps, batches of 64.
copying: an orthogonal network of 64 units, a delay of 100 time steps, batches of 64.
characters of Shakespeare: a transformer with 4 blocks of 128 units and orthogonal projections q, k, v and o; batches of
    8 pieces of 64 characters.

The tested optimizer moves the orthogonal weights, with momentum in RiemannianSGD. Adam moves all other weights, at the
same learning rate in all rows. Learning rates decay linearly to 0. The retraction is Cayley's, except for Muon, which
uses the geodesic.

The learning rate of the orthogonal weights is chosen from three. It reaches the loss in the fewest steps, with a seed
that is not among the reported ones. The grid is extended by a factor of 3 while its best rate is the first or the last.
Seconds are processor time on one thread: the number of steps times the median time of a step. Rows are written as they
are measured. A second call measures only the missing rows.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from character_transformer import Text, Transformer
from timing import RESULTS, write
from torch import Tensor, nn

import manifold_rnn as mr

Sample = Callable[[torch.Generator], tuple[Tensor, Tensor]]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
TUNING, SEEDS, EVERY, EXTENSIONS = 100, (0, 1, 2), 20, 2
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, float], tuple[float, ...]]] = {
    "RiemannianMuon": (mr.optim.RiemannianMuon, {}, (0.003, 0.01, 0.03)),
    "RiemannianAdam": (mr.optim.RiemannianAdam, {}, (1e-3, 3e-3, 1e-2)),
    "RiemannianSGD": (mr.optim.RiemannianSGD, {"momentum": 0.9}, (0.03, 0.1, 0.3)),
}


@dataclass
class Problem:
    """A network with orthogonal weights, its data, and the target loss."""

    build: Callable[[], nn.Module]
    sample: Sample
    validation: tuple[Tensor, Tensor]
    loss: Loss
    steps: int
    free_rate: float
    target: float


def rows_of_mnist() -> Problem:
    task = mr.tasks.PixelMNIST()
    splits = task.splits()

    def part(pieces: torch.utils.data.TensorDataset, rows: Tensor) -> tuple[Tensor, Tensor]:
        images, digits = pieces[rows]
        return images.view(-1, 28, 28), digits

    return Problem(
        lambda: mr.zoo.exprnn(28, 128, 10, retraction="cayley", view="update"),
        lambda generator: part(splits.train, torch.randint(len(splits.train), (64,), generator=generator)),
        part(splits.validation, torch.arange(1000)),
        lambda network, x, y: task.loss(network(x), y),
        steps=500,
        free_rate=3e-3,
        target=0.4,
    )


def copying() -> Problem:
    task = mr.tasks.Copying(100)

    def build() -> nn.Module:
        return mr.zoo.exprnn(10, 64, 9, angles=mr.nn.init.henaff_, retraction="cayley", view="update")

    return Problem(
        build,
        lambda generator: task.sample(64, generator=generator),
        task.sample(200, generator=torch.Generator().manual_seed(TUNING + 1)),
        lambda network, x, y: task.loss(network(x, every_step=True), y),
        steps=300,
        free_rate=3e-3,
        target=0.05,
    )


def characters() -> Problem:
    text = Text(8)

    def build() -> nn.Module:
        return mr.constrain_matching(Transformer(text.characters), {"*.attention.?_proj.weight": mr.Orthogonal()})

    return Problem(
        build,
        text.sample,
        text.validation(32),
        lambda network, x, y: text.loss(network(x), y),
        steps=200,
        free_rate=2e-3,
        target=2.6,
    )


PROBLEMS = {"rows of MNIST": rows_of_mnist, "characters": characters, "copying": copying}


def train(problem: Problem, name: str, rate: float, seed: int, steps: int) -> dict[str, object]:
    """Return the curve of one run, and the time of a step."""
    torch.manual_seed(seed)
    network, generator = problem.build(), torch.Generator().manual_seed(seed)
    points = mr.diagnostics.constrained_parameters(network)
    chosen = {id(p) for p in points}
    kind, options, _ = OPTIMIZERS[name]
    optimizers = [
        kind(points, lr=rate, **options),
        torch.optim.Adam([p for p in network.parameters() if id(p) not in chosen], lr=problem.free_rate),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 1 - s / steps) for optimizer in optimizers]
    curve, times = [], []
    for step in range(1, steps + 1):
        start = time.process_time()
        inputs, targets = problem.sample(generator)
        loss = problem.loss(network, inputs, targets)
        if not loss.isfinite():
            break
        network.zero_grad()
        loss.backward()
        for part in (*optimizers, *schedules):
            part.step()
        times.append(time.process_time() - start)
        if step % EVERY == 0:
            with torch.no_grad():
                curve.append(float(problem.loss(network, *problem.validation)))
    finished = len(times) == steps
    return {
        "rate": rate,
        "seed": seed,
        "last loss": curve[-1] if finished else math.inf,
        "ms per step": 1e3 * median(times),
        "defect": max(float(mr.linalg.defect(p.detach())) for p in points),
        "curve": curve,
    }


def with_target(row: dict, target: float) -> dict:
    """Return a row with the steps and the seconds to the target, or None."""
    steps = next((EVERY * k for k, loss in enumerate(row["curve"], 1) if loss <= target), None)
    return {**row, "steps": steps, "seconds": None if steps is None else 1e-3 * steps * row["ms per step"]}


def rank(row: dict) -> tuple[float, float]:
    """Return a key that is smaller for a better rate: the steps to the target, then the last loss."""
    return math.inf if row["steps"] is None else row["steps"], row["last loss"]


def best_rate(measure: Callable[[float], dict], rates: tuple[float, ...]) -> float:
    """Return the rate of the best run. The grid is extended if its best rate is at an end."""
    found = {rate: rank(measure(rate)) for rate in rates}
    for _ in range(EXTENSIONS):
        best = min(found, key=found.__getitem__)
        if min(found) < best < max(found):
            break
        rate = float(f"{best / 3:.1g}" if best == min(found) else f"{best * 3:.1g}")
        found[rate] = rank(measure(rate))
    return min(found, key=found.__getitem__)


def draw(rows: list[dict], targets: dict[str, float]) -> None:
    """Draw the validation losses of all reported runs, a panel for each problem."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        return
    figure, panels = plt.subplots(1, len(targets), figsize=(4 * len(targets), 3.5), squeeze=False, layout="constrained")
    for axes, (problem, target) in zip(panels.flat, targets.items(), strict=True):
        for number, name in enumerate(OPTIMIZERS):
            for row in rows:
                if (row["problem"], row["optimizer"]) == (problem, name) and row["run for"] == "reported":
                    steps = [EVERY * (k + 1) for k in range(len(row["curve"]))]
                    axes.plot(steps, row["curve"], f"C{number}", label=name if row["seed"] == SEEDS[0] else None)
        axes.axhline(target, color="gray", linestyle=":")
        axes.set(title=problem, xlabel="steps", ylabel="validation loss", yscale="log")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    figure.savefig(RESULTS / "muon_training.png", dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument(
        "--share", type=float, default=1.0, help="Fraction of the training steps to run. A file is written only for 1."
    )
    parser.add_argument("--again", action="store_true", help="Measure rows again that are in the file.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "muon_training.json"
    known = json.loads(path.read_text()) if path.exists() and args.share == 1 else {}
    rows: list[dict] = known.get("muon_training", [])
    rows = [row for row in rows if not (args.again and row["problem"] in args.problems)]
    targets: dict[str, float] = known.get("settings", {}).get("targets", {})
    for title in args.problems:
        problem = PROBLEMS[title]()
        targets[title] = problem.target
        rows[:] = [with_target(row, problem.target) if row["problem"] == title else row for row in rows]
        steps = max(EVERY, int(args.share * problem.steps) // EVERY * EVERY)

        def measure(name: str, rate: float, seed: int, problem=problem, title=title, steps=steps) -> dict:
            key = {"problem": title, "optimizer": name, "rate": rate, "seed": seed}
            for row in rows:
                if all(row[k] == v for k, v in key.items()):
                    return row
            purpose = "reported" if seed in SEEDS else "rate"
            row = {"run for": purpose, **key, **train(problem, name, rate, seed, steps)}
            row = with_target(row, problem.target)
            rows.append(row)
            print(
                "  ".join(
                    f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "curve"
                ),
                flush=True,
            )
            if args.share == 1:
                settings = {"seeds": list(SEEDS), "seed of the rates": TUNING, "targets": targets}
                write("muon_training", rows, **settings)
                draw(rows, targets)
            return row

        for name, (_, _, rates) in OPTIMIZERS.items():
            rate = best_rate(lambda rate, name=name: measure(name, rate, TUNING), rates)
            # remove rows of a rate that was better before
            other = {"run for": "reported", "problem": title, "optimizer": name}
            rows[:] = [r for r in rows if r["rate"] == rate or any(r[k] != v for k, v in other.items())]
            for seed in SEEDS:
                measure(name, rate, seed)


if __name__ == "__main__":
    main()
