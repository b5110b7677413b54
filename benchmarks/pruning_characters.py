"""Measure bits per character of an LSTM with 256 units on Shakespeare, dense and pruned to half of its units.

A dense network is first trained at a constant learning rate. Then it is trained further in two ways: dense, and with
unit gates. Both have the same data, number of steps, and first and last learning rate. The penalty of the gates rises
linearly over half of the steps with gates. It is active while more than half of the units are open. Then the gated
network is pruned, and the smaller network is trained for the remaining steps. Both networks are tested at the end.
"""

import argparse
import copy
import math
from pathlib import Path

import torch
from timing import interleaved_medians, write
from torch import nn

import manifold_rnn as mr
from manifold_rnn.training import SequenceData

TEXT, LENGTH, BATCH, UNITS, KEPT = "tinyshakespeare.txt", 64, 64, 256, 128
EPOCHS, GATED, MORE, RATE, CLIP = 5, 4, 8, 4e-3, 1.0
PENALTY, GATE_RATE, START = 4e-5, 5e-2, 1.0


def train(network: mr.zoo.Network, data: SequenceData, epochs: range, name: str, last: float = 1.0) -> None:
    """Train with Adam, and with a penalty if the network has gates. Prints a line for each epoch.

    The learning rate decays along half a cosine to ``last`` times its initial value.
    """
    *gates, weights = network.parameter_groups(RATE)
    optimizer = torch.optim.Adam([*({**group, "lr": GATE_RATE} for group in gates), weights])
    loader = data.train_dataloader()
    steps, done = len(epochs) * len(loader), 0
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: last + (1 - last) * 0.5 * (1 + math.cos(math.pi * s / steps))
    )
    for epoch in epochs:
        loader.set_epoch(epoch)
        network.train()
        state, total = None, 0.0
        for x, target in loader:
            outputs, state = network.carry_on(x, state, every_step=True)
            state = tuple(part.detach() for part in state)
            loss = data.task.loss(outputs, target)
            total += loss.item()
            if gates and units(network) > KEPT:
                loss = loss + PENALTY * min(1.0, 2 * done / steps) * mr.nn.l0_penalty(network)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            done += 1
            if gates and done % 50 == 0:
                print(f"step {done}   {units(network)} units open", flush=True)
        shown = f"{name} {epoch + 1}   loss {total / len(loader):.4f}"
        print(f"{shown}   validation {bits(network, data, data.val_dataloader()):.4f} bits", flush=True)


def units(network: mr.zoo.Network) -> int:
    """Return the number of open units."""
    return len(network.layer.unit_gates["l0"].open())


@torch.no_grad()
def bits(network: mr.zoo.Network, data: SequenceData, batches: object) -> float:
    """Return the bits per character. The state is kept from piece to piece."""
    network.eval()
    state, total, count = None, 0.0, 0
    for x, target in batches:
        outputs, state = network.carry_on(x, state, every_step=True)
        total += data.task.metric(outputs, target).item() * target.numel()
        count += target.numel()
    return total / count


def stage(network: mr.zoo.Network, name: str, folder: Path | None, *args: object, **options: float) -> mr.zoo.Network:
    """Train a network, or load the weights of this stage from the folder."""
    path = None if folder is None else folder / f"{name}.pt"
    if path is not None and path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network
    train(network, *args, name, **options)
    if path is not None:
        torch.save(network.state_dict(), path)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="Folder for the weights of finished stages.")
    parser.add_argument("--dry", action="store_true", help="Do not write a file.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = SequenceData(mr.tasks.Characters(TEXT, length=LENGTH), BATCH)
    task = data.task
    start = mr.zoo.Network(mr.nn.LSTM(task.input_size, UNITS, batch_first=True), task.output_size, rates={})
    stage(start, "start", args.keep, data, range(EPOCHS))
    gated = copy.deepcopy(start)
    mr.nn.gate_units(gated.layer, gated.readout, start=START)
    end = EPOCHS + GATED + MORE
    stage(gated, "gated", args.keep, data, range(EPOCHS, EPOCHS + GATED))
    pruned = mr.nn.prune(gated)
    print(f"pruned to {pruned.layer.hidden_size} units", flush=True)
    stage(pruned, "pruned", args.keep, data, range(EPOCHS + GATED, end), last=0.0)
    dense = stage(copy.deepcopy(start), "dense", args.keep, data, range(EPOCHS, end), last=0.0)
    networks = {"dense": dense, "gated": gated, "pruned": pruned}
    x = data.splits.test[:1][0]
    with torch.no_grad():
        times = interleaved_medians({name: lambda n=n: n(x, every_step=True) for name, n in networks.items()}, 31)
    rows = {}
    for name, network in {"start": start, **networks}.items():
        rows[name] = {
            "units": units(network) if network.layer.unit_gates is not None else network.layer.hidden_size,
            "weights": sum(p.numel() for p in network.parameters()),
            "validation": round(bits(network, data, data.val_dataloader()), 4),
            "test": round(bits(network, data, data.test_dataloader()), 4),
            "ms for one piece": round(1e3 * times.get(name, times["dense"]), 3),
        }
        print(f"{name:8} " + "   ".join(f"{key} {value}" for key, value in rows[name].items()), flush=True)
    if not args.dry:
        epochs = {"epochs": EPOCHS, "epochs with gates": GATED, "more epochs": MORE}
        settings = {"text": TEXT, "piece": LENGTH, "batch": BATCH, **epochs, "rate": RATE}
        write("pruning_characters", rows, **settings, penalty=PENALTY, seed=0)


if __name__ == "__main__":
    main()
