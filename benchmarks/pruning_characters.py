"""Bits per character of an LSTM with 256 units on Shakespeare, dense and pruned to half of its units.

A dense network is trained first. From there it is trained further in two ways, dense and with gates over its units,
with the same data, steps and learning rates. The penalty of the gates rises linearly with the steps, and acts while
more than half of the units are open. At the end the gated network is pruned, and both are tested.
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
EPOCHS, MORE, RATE, CLIP = 6, 3, 4e-3, 1.0
PENALTY, GATE_RATE, START = 1.5e-5, 5e-2, 1.0


def train(network: mr.zoo.Network, data: SequenceData, epochs: int, rate: float, name: str) -> None:
    """Train with Adam and half a cosine, with a penalty if the network has gates; print a line for each epoch."""
    *gates, weights = network.parameter_groups(rate)
    optimizer = torch.optim.Adam([*({**group, "lr": GATE_RATE} for group in gates), weights])
    loader = data.train_dataloader()
    steps, done = epochs * len(loader), 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.5 * (1 + math.cos(math.pi * s / steps)))
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        network.train()
        state, total = None, 0.0
        for x, target in loader:
            outputs, state = network.carry_on(x, state, every_step=True)
            state = tuple(part.detach() for part in state)
            loss = data.task.loss(outputs, target)
            total += loss.item()
            if gates and units(network) > KEPT:
                loss = loss + PENALTY * done / steps * mr.nn.l0_penalty(network)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            done += 1
            if gates and done % 50 == 0:
                print(f"step {done}   {units(network)} units open", flush=True)
        shown = f"{name} {epoch + 1}/{epochs}   loss {total / len(loader):.4f}"
        print(f"{shown}   validation {bits(network, data, data.val_dataloader()):.4f} bits", flush=True)


def units(network: mr.zoo.Network) -> int:
    """Return the number of open units."""
    return len(network.layer.unit_gates["l0"].open())


@torch.no_grad()
def bits(network: mr.zoo.Network, data: SequenceData, batches: object) -> float:
    """Return the bits per character, with the state carried from piece to piece."""
    network.eval()
    state, total, count = None, 0.0, 0
    for x, target in batches:
        outputs, state = network.carry_on(x, state, every_step=True)
        total += data.task.metric(outputs, target).item() * target.numel()
        count += target.numel()
    return total / count


def stage(network: mr.zoo.Network, name: str, folder: Path | None, *args: object) -> mr.zoo.Network:
    """Train a network, or load what the folder has of this stage."""
    path = None if folder is None else folder / f"{name}.pt"
    if path is not None and path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network
    train(network, *args, name)
    if path is not None:
        torch.save(network.state_dict(), path)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="folder that keeps the weights of finished stages")
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = SequenceData(mr.tasks.Characters(TEXT, length=LENGTH), BATCH)
    task = data.task
    start = mr.zoo.Network(mr.nn.LSTM(task.input_size, UNITS, batch_first=True), task.output_size, rates={})
    stage(start, "start", args.keep, data, EPOCHS, RATE)
    gated = copy.deepcopy(start)
    mr.nn.gate_units(gated.layer, gated.readout, start=START)
    stage(gated, "gated", args.keep, data, MORE, RATE / 2)
    pruned = mr.nn.prune(gated)
    print(f"pruned to {pruned.layer.hidden_size} units", flush=True)
    dense = stage(copy.deepcopy(start), "dense", args.keep, data, MORE, RATE / 2)
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
        settings = {"text": TEXT, "piece": LENGTH, "batch": BATCH, "epochs": EPOCHS, "more epochs": MORE, "rate": RATE}
        write("pruning_characters", rows, **settings, penalty=PENALTY, seed=0)


if __name__ == "__main__":
    main()
