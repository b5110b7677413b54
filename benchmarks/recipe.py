"""Compare constraints on layers of a transformer: losses, time and memory on the characters of Shakespeare.

A model of 4 blocks with 64 units and 4 heads is trained for 300 steps by RiemannianAdam, on batches of 8 pieces of 64
characters. Learning rates rise for a tenth of the steps, and then decay linearly to 0. The learning rate of the
unconstrained model is chosen from three, by the validation loss with a seed that is not among the reported ones. The
grid is extended by a factor of 3 while its best rate is the first or the last. Unconstrained weights have this rate in
all other rows. The rate of the constrained weights is chosen in the same way.

Fine-tuning starts from an unconstrained model that was trained on the first 70% of the training text. It continues for
150 steps on the last 10% in capital letters. It trains all weights, or orthogonal adapters on all projections. The
losses are those of the validation text in capital letters.

Losses are means of three seeds, with the smallest and the largest. Milliseconds are processor time of a training step
on one thread. Memory includes parameters, buffers, gradients, and the state of the optimizer. Rows are written as they
are measured. A second call measures only the missing rows.
"""

import argparse
import json
import time
from collections.abc import Mapping
from functools import cache, partial
from statistics import median
from typing import Any

import torch
from character_transformer import Text, Transformer
from muon_training import EVERY, SEEDS, TUNING, best_rate
from timing import RESULTS, write
from torch import Tensor, nn

import manifold_rnn as mr

SIZE, STEPS, MORE_STEPS, BATCH = 64, 300, 150, 8
RATES = (1e-3, 3e-3, 1e-2)

ATTENTION = {"*.attention.?_proj.weight": mr.Orthogonal()}
SPHERES = {
    "*.o_proj.weight": mr.Oblique(dim=-2),  # unit vectors along the axis of the model in every matrix
    "*.down_proj.weight": mr.Oblique(dim=-2),
    "*_proj.weight": mr.Oblique(dim=-1),
    "embedding.weight": mr.Oblique(dim=-1),
    "head.weight": mr.Oblique(dim=-1),
}
RECIPES: dict[str, Mapping[str, Any]] = {
    "unconstrained": {},
    "orthogonal attention": ATTENTION,
    "orthogonal attention, Stiefel MLP": {
        **ATTENTION,
        "*.up_proj.weight": mr.Stiefel(),
        "*.down_proj.weight": mr.Stiefel(),
    },
    "spheres on all matrices": SPHERES,
    "orthogonal attention, diagonal Gram MLP": {
        **ATTENTION,
        "*.up_proj.weight": mr.DiagonalGram(),
        "*.down_proj.weight": mr.DiagonalGram(),
    },
}
TUNED: dict[str, Mapping[str, Any]] = {
    "all weights": {},
    "orthogonal adapters, blocks of 16": {"*_proj.weight": mr.OrthogonalAdapter(block_size=16)},
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, sample: Any, text: Text, steps: int, seed: int) -> float:
    """Train, and return the milliseconds per step."""
    generator, times = torch.Generator().manual_seed(seed), []
    warm = steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / warm if s < warm else (steps - s) / (steps - warm)
    )
    for _ in range(steps):
        start = time.process_time()
        characters, after = sample(generator)
        optimizer.zero_grad()
        text.loss(model(characters), after).backward()
        optimizer.step()
        schedule.step()
        times.append(time.process_time() - start)
    return 1e3 * median(times)


@torch.no_grad()
def validation(model: nn.Module, text: Text, data: tuple[Tensor, Tensor]) -> float:
    return float(text.loss(model(data[0]), data[1]))


def kilobytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return the size of parameters, buffers, gradients, and the state of the optimizer."""
    parameters = list(model.parameters())
    tensors = [*parameters, *model.buffers(), *(p.grad for p in parameters if p.grad is not None)]
    tensors += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return round(sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1024)


def numbers(model: nn.Module, optimizer: torch.optim.Optimizer, loss: float, ms: float) -> dict[str, float]:
    freedom = mr.degrees_of_freedom(model)
    return {"loss": loss, "ms per step": ms, "kilobytes": kilobytes(model, optimizer), "degrees of freedom": freedom}


def from_random(text: Text, recipe: str, rate: float, seed: int, free_rate: float) -> dict[str, float]:
    """Return the results of a model with a recipe."""
    torch.manual_seed(seed)
    model = Transformer(text.characters, SIZE)
    if RECIPES[recipe]:
        mr.constrain_matching(model, RECIPES[recipe])
    chosen = {id(p) for p in mr.diagnostics.constrained_parameters(model)}
    groups = [
        {"params": [p for p in model.parameters() if id(p) in chosen], "lr": rate},
        {"params": [p for p in model.parameters() if id(p) not in chosen], "lr": free_rate},
    ]
    optimizer = mr.optim.RiemannianAdam([group for group in groups if group["params"]])
    ms = train(model, optimizer, text.sample, text, STEPS, seed)
    return numbers(model, optimizer, validation(model, text, text.validation()), ms)


class Capitals:
    """Converts characters to capital letters."""

    def __init__(self, text: Text) -> None:
        alphabet = text.task.alphabet
        self.table = torch.tensor([alphabet.index(a.upper()) for a in alphabet])

    def __call__(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.table[batch[0]], self.table[batch[1]]


@cache
def pretrained(rate: float) -> dict[str, Tensor]:
    """Return the weights of a model that was trained on the first part of the text."""
    torch.manual_seed(TUNING)
    text = Text(BATCH, 0.0, 0.7)
    model = Transformer(text.characters, SIZE)
    train(model, torch.optim.Adam(model.parameters(), lr=rate), text.sample, text, 2 * STEPS, TUNING)
    return model.state_dict()


def fine_tuned(text: Text, recipe: str, rate: float, seed: int, free_rate: float) -> dict[str, float]:
    """Return the results of the pretrained model on the text in capital letters."""
    capitals, part = Capitals(text), Text(BATCH, 0.9, 1.0)
    model = Transformer(text.characters, SIZE)
    model.load_state_dict(pretrained(free_rate))
    data = capitals(text.validation())
    before = validation(model, text, data)
    torch.manual_seed(seed)
    if TUNED[recipe]:
        mr.constrain_matching(model, TUNED[recipe], freeze_others=True)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    ms = train(model, optimizer, lambda g: capitals(part.sample(g)), text, MORE_STEPS, seed)
    return {**numbers(model, optimizer, validation(model, text, data), ms), "loss before": before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--share", type=float, default=1.0, help="Fraction of the training steps to run. A file is written only for 1."
    )
    parser.add_argument("--again", action="store_true", help="Measure rows again that are in the file.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    global STEPS, MORE_STEPS
    STEPS, MORE_STEPS = (max(EVERY, int(args.share * steps)) for steps in (STEPS, MORE_STEPS))
    path = RESULTS / "recipe.json"
    keep = path.exists() and args.share == 1 and not args.again
    rows: list[dict] = json.loads(path.read_text())["recipe"] if keep else []
    text = Text(BATCH)

    def measure(kind: str, recipe: str, rate: float, seed: int, free_rate: float | None) -> dict:
        key = {"kind": kind, "recipe": recipe, "rate": rate, "rate of the rest": free_rate or rate, "seed": seed}
        for row in rows:
            if all(row[k] == v for k, v in key.items()):
                return {"steps": None, "last loss": row["loss"]}
        found = (fine_tuned if kind == "fine-tuning" else from_random)(text, recipe, rate, seed, free_rate or rate)
        rows.append({"run for": "reported" if seed in SEEDS else "rate", **key, **found})
        print(
            "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True
        )
        if args.share == 1:
            write("recipe", rows, steps=STEPS, seeds=list(SEEDS))
        return {"steps": None, "last loss": found["loss"]}

    free_rate: float | None = None  # the rate of the first recipe
    for kind, recipes in (("training", RECIPES), ("fine-tuning", TUNED)):
        for recipe in recipes:
            run = partial(measure, kind, recipe, free_rate=free_rate)
            best = best_rate(lambda rate, run=run: run(rate, TUNING), RATES)
            for seed in SEEDS:
                run(best, seed)
            free_rate = free_rate or best


if __name__ == "__main__":
    main()
