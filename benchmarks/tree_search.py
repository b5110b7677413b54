"""Search for the tree of a cell on the characters of a text, and compare the resulting cell with a GRU.

The text is Shakespeare in pieces of 20 characters. Each piece starts from a zero state. The cell has 32 units and trees
of 5 nodes with 3 slots. The activations do not include relu, which would tie with the identity. The loss of the search
is the cross-entropy plus a weight times the margin loss. The weight rises from 0 over the first half of the steps, so
that no tree is chosen too early.

Then the most frequent tree of the validation pieces becomes a fixed cell, which is trained further. There are two GRUs:
with the reset gate after the product, as in torch, and before it, as a tree. They are trained for as many steps as the
search and the tree together. Losses are those of the validation pieces, in nats per character. There is one row for
each seed.
"""

import argparse
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from timing import write
from torch import Tensor

import manifold_rnn as mr

SIZE, LENGTH, BATCH, STEPS, FURTHER, RATE = 32, 20, 8, 1000, 200, 1e-2
MARGIN, WEIGHT, TEMPERATURE = 3.0, 0.1, 0.2
ACTIVATIONS = ("sigmoid", "tanh", "one_minus", "identity")
SCORED = 256  # number of pieces of the validation part


def batches(pieces: tuple[Tensor, Tensor], steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield random batches of pieces."""
    generator = torch.Generator().manual_seed(seed)
    x, y = pieces
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        yield x[chosen], y[chosen]


def train(network: mr.zoo.Network, task: mr.tasks.Characters, pieces, steps: int, seed: int, weight: float) -> float:
    """Train, and return the seconds per step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, RATE / 10)
    start, mean, margins = time.process_time(), 0.0, 0.0
    for step, (x, y) in enumerate(batches(pieces, steps, seed), 1):
        optimizer.zero_grad()
        with mr.nn.trees.recording() as choices:
            loss = task.loss(network(one_hot(x, task), every_step=True), y)
        mean += float(loss.detach()) / 50
        if choices:
            margins += float(torch.stack([c.margins for c in choices]).mean().detach()) / 50
            loss = loss + min(1.0, 2 * step / steps) * weight * mr.nn.trees.margin_loss(choices, MARGIN)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"  step {step:>5}  loss {mean:.3f}  margin {margins:.2f}", flush=True)
            mean = margins = 0.0
    return (time.process_time() - start) / steps


def one_hot(x: Tensor, task: mr.tasks.Characters) -> Tensor:
    return torch.nn.functional.one_hot(x.long(), task.input_size).float()


@torch.no_grad()
def scored(network: mr.zoo.Network, task: mr.tasks.Characters, pieces) -> float:
    """Return the loss on the validation pieces."""
    x, y = pieces
    parts = zip(x.split(64), y.split(64), strict=True)
    return sum(float(task.loss(network(one_hot(a, task), every_step=True), b)) * len(a) for a, b in parts) / len(x)


def cut(text: mr.tasks.base.TensorDataset, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Return symbols and the next symbols, without one-hot vectors."""
    x, y = text.tensors if hasattr(text, "tensors") else text[:]
    x = x.argmax(-1) if x.is_floating_point() else x
    return x[:most], y[:most].long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="tinyshakespeare.txt")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--further", type=int, default=FURTHER)
    parser.add_argument("--weight", type=float, default=WEIGHT)
    parser.add_argument("--choice", default="soft", choices=("soft", "straight-through"))
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--dry", action="store_true", help="Do not write a file.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = mr.tasks.Characters(args.text, length=LENGTH)
    splits = task.splits()
    training, validation = cut(splits.train), cut(splits.validation, SCORED)
    rows = []
    for seed in args.seeds:
        for row in measured(args, seed, task, training, validation):
            rows.append({"network": row.pop("network"), "seed": seed, **row})
            print(rows[-1], flush=True)
    if not args.dry:
        settings = {"hidden size": SIZE, "length": LENGTH, "batch": BATCH, "steps": args.steps, "further": args.further}
        settings |= {"rate": RATE, "weight": args.weight, "margin": MARGIN, "temperature": args.temperature}
        write("tree_search", rows, **settings)


def measured(args: argparse.Namespace, seed: int, task: mr.tasks.Characters, training, validation) -> Iterator[dict]:
    """Yield the rows of one seed."""

    def network(cell: mr.nn.cells.Cell) -> mr.zoo.Network:
        torch.manual_seed(seed)
        return mr.zoo.Network(mr.nn.Layer(cell, task.input_size, SIZE, batch_first=True), task.output_size)

    options = {"choice": args.choice, "activations": ACTIVATIONS, "temperature": args.temperature}
    search = network(mr.nn.cells.TreeSearch(5, 3, **options))
    seconds = train(search, task, training, args.steps, seed, args.weight)
    soft, hard = (_with_choice(search, choice, task, validation) for choice in ("soft", "hard"))
    found = mr.diagnostics.structures(search, one_hot(validation[0], task))
    print(found.table())
    yield {
        "network": "search",
        "parameters": mr.degrees_of_freedom(search),
        "soft": soft,
        "hard": hard,
        "gap": abs(hard - soft),
        "margin": found.margin,
        "least margin": min(found.margins),
        "different trees": len(found.counts),
        "share of the first": found.shares[0],
        "tree": found.expressions[0],
        "seconds per step": seconds,
    }
    tree = mr.zoo.Network(fixed(search.layer, found), task.output_size)
    tree.readout.load_state_dict(search.readout.state_dict())
    before = scored(tree, task, validation)
    seconds = train(tree, task, training, args.further, seed + 1, 0)
    count = {"parameters": mr.degrees_of_freedom(tree)}
    yield {
        "network": "tree",
        **count,
        "before": before,
        "hard": scored(tree, task, validation),
        "seconds per step": seconds,
    }
    for name, cell in {"GRU": mr.nn.cells.GRU(), "GRU as a tree": mr.nn.cells.Tree("gru")}.items():
        gru = network(cell)
        seconds = train(gru, task, training, args.steps + args.further, seed, 0)
        count = {"parameters": mr.degrees_of_freedom(gru)}
        yield {"network": name, **count, "hard": scored(gru, task, validation), "seconds per step": seconds}


def fixed(layer: mr.nn.Layer, found: mr.diagnostics.Structures) -> mr.nn.Layer:
    """Return a layer with the most frequent valid tree, which uses the input, the state and a matrix."""
    for structure in found.examples:
        with contextlib.suppress(mr.errors.OptionError):
            return mr.nn.trees.fix_structure(layer, structure)
    raise SystemExit("No tree that was found is a valid cell.")


def _with_choice(network: mr.zoo.Network, choice: str, task: mr.tasks.Characters, pieces) -> float:
    """Return the loss with another value of ``choice``."""
    cell = network.layer.cell
    network.layer.cell = replace(cell, choice=choice)
    loss = scored(network, task, pieces)
    network.layer.cell = cell
    return loss


if __name__ == "__main__":
    main()
