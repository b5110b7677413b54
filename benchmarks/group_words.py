"""Train networks on words of groups, to see how many reflections a step needs.

Every network is one layer of 16 units with a linear readout at every step. It is trained on new words of 128 elements
with Adam and a cosine schedule. It is tested on 200 new words of 512 elements. The table has the accuracy over all
steps for both lengths. Chance level is 1 / |G|. Recurrences with a nonlinearity are measured for comparison.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timing import write
from torch import nn

import manifold_rnn as mr
from manifold_rnn.nn import cells

LENGTH, LONGER, UNITS, BATCH, RATE = 128, 512, 16, 32, 2e-2


@dataclass(frozen=True)
class Start:
    """A layer. ``acting`` means that inputs only multiply the trained initial state, and add nothing to it."""

    cell: Callable[[], cells.Cell]
    acting: bool = True
    constraint: Any = None


NETWORKS = {
    "two reflections": Start(lambda: cells.HouseholderProduct(2, "up to 2", bias=False)),
    "one reflection": Start(lambda: cells.HouseholderProduct(1, "up to 2", bias=False)),
    "two reflections, eigenvalues above 0": Start(lambda: cells.HouseholderProduct(2, "up to 1", bias=False)),
    "two reflections of beta 2": Start(lambda: cells.HouseholderProduct(2, bias=False)),
    "rotating units": Start(lambda: cells.Rotating(bias=False)),
    "DeltaProduct, two rules": Start(lambda: cells.DeltaProduct(2, heads=2), acting=False),
    "DeltaProduct, one rule": Start(lambda: cells.DeltaProduct(1, heads=2), acting=False),
    "two reflections and modReLU": Start(lambda: cells.HouseholderProduct(2, "up to 2", "modrelu"), acting=False),
    "two reflections and tanh": Start(lambda: cells.HouseholderProduct(2, "up to 2", "tanh"), acting=False),
    "orthogonal Elman, modReLU": Start(lambda: cells.Elman("modrelu"), acting=False, constraint=mr.Orthogonal()),
    "LSTM": Start(cells.LSTM, acting=False),
}


class Tracker(nn.Module):
    """A layer with a readout at every step."""

    def __init__(self, start: Start, elements: int) -> None:
        super().__init__()
        cell = start.cell()
        dtype = torch.complex64 if cell.complex_by_default else torch.float32
        options: dict[str, Any] = {"constraint": start.constraint, "train_initial_state": start.acting}
        self.layer = mr.nn.Layer(cell, elements, UNITS, batch_first=True, dtype=dtype, **options)
        self.readout = nn.Linear(UNITS * (1 + dtype.is_complex), elements, bias=not start.acting)
        if start.acting:
            nn.init.zeros_(self.layer.get_parameter("weight_ih_l0")).requires_grad_(False)
            nn.init.normal_(self.layer.get_parameter("initial_state_l0"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of every step."""
        out: torch.Tensor = self.readout(mr.nn.real_features(self.layer(x)[0]))
        return out

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups with a threefold learning rate for the strengths, which reach 2 only in the limit."""
        split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, p in self.named_parameters():
            split["beta" in name].append(p)
        groups = [{"params": split[False], "lr": RATE}, {"params": split[True], "lr": 3 * RATE}]
        return [group for group in groups if group["params"]]


def train(name: str, group: Any, *, seed: int = 0, steps: int = 1000) -> tuple[float, float]:
    """Train one network, and return its accuracy on new words of the trained length and of the longer one."""
    task = mr.tasks.GroupWords(group, length=LENGTH, test_length=LONGER, sizes=(1, 200, 200))
    torch.manual_seed(seed)
    network = Tracker(NETWORKS[name], task.input_size)
    optimizer = mr.optim.RiemannianAdam(network.parameter_groups())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(1000 + seed)
    for _ in range(steps):
        x, target = task.sample(BATCH, generator=generator)
        optimizer.zero_grad()
        task.loss(network(x), target).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    splits = task.splits()
    with torch.no_grad():
        short, longer = (task.metric(network(x), target).item() for x, target in (splits[1][:], splits[2][:]))
    return short, longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="+", default=["S3"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NETWORK")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table: dict[str, dict[str, float]] = {}
    for group in args.groups:
        for name in args.networks:
            for seed in range(args.seeds):
                short, longer = train(name, group, seed=seed, steps=args.steps)
                row = {f"accuracy at {LENGTH}": short, f"accuracy at {LONGER}": longer}
                table[f"{group}, {name}, seed {seed}"] = row
                print(f"{group} {name}, seed {seed}".ljust(52), *(f"{k} {v:.4f} " for k, v in row.items()), flush=True)
    write("group_words", table, steps=args.steps, batch=BATCH, units=UNITS, rate=RATE)


if __name__ == "__main__":
    main()
