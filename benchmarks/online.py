"""Measure RFLO: the published experiment, real data, and the cost of a step for larger networks and sequences.

There are three tables. In *periodic*, 50 leaky units without inputs learn a sum of three sines over 100 steps. They are
trained by plain gradient steps after each trial, with three seeds. In *digits*, 64 units with a time constant of 4
steps read handwritten digits row by row. They are trained by Adam, and the table has the test accuracy of each seed.
*cost* has the milliseconds of an online step for 64 to 1,024 units and one sequence, and the exponent in the number of
units. It also has the peak memory of tensors in 100 and in 10,000 steps.
"""

import argparse
import math
import sys
from pathlib import Path
from statistics import mean

import torch
from timing import interleaved_medians, write
from torch import Tensor, nn

import manifold_rnn as mr

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from support.counting import AliveBytes

SEEDS = (0, 1, 2)
SIZES = (64, 128, 256, 512, 1024)


def periodic(seed: int, rule: str, trials: int, constraint: bool = False) -> list[tuple[float, float]]:
    """Return the loss and the alignment of every trial of the published experiment."""
    generator, T, n = torch.Generator().manual_seed(seed), 100, 50
    time = 2 * math.pi * torch.arange(T) / T
    target = (time.sin() + 0.5 * (2 * time).sin() + 0.25 * (4 * time).sin()).view(1, T, 1)
    network = mr.zoo.rflo(1, n, 1, generator=generator)
    layer = network.layer
    if constraint:
        layer = mr.constrain(layer, "weight_hh_l0", mr.Orthogonal("qr"), init="haar")
    learner = mr.online.RFLO(layer, network.readout, generator=generator)
    learner.train(rule == "rflo")
    for fixed in (layer.get_parameter("weight_ih_l0"), network.readout.bias):
        fixed.requires_grad_(False)
    trained = [p for p in learner.parameters() if p.requires_grad]
    optimizer = mr.optim.RiemannianSGD(trained, lr=0.03)
    x, start, found = torch.zeros(1, T, 1), torch.full((1, 1, n), 0.1), []
    for _ in range(trials):
        optimizer.zero_grad()
        y, _ = learner.carry_on(x, start, every_step=True)
        assert isinstance(y, Tensor)
        loss = 0.5 * (y - target).square().mean()
        loss.backward()
        optimizer.step()
        found.append((loss.item(), learner.alignment()))
    return found


def digits(seed: int, learner: str, epochs: int, n: int = 64) -> float:
    """Return the test accuracy of one network. "readout" trains only the readout of the same network."""
    task = mr.tasks.Digits(by="rows")
    splits = task.splits()
    (images, labels), (unseen, truth) = splits.train.tensors, splits.test.tensors
    torch.manual_seed(seed)
    constraint = mr.Orthogonal() if "orthogonal" in learner else None
    layer = mr.nn.Layer(mr.nn.cells.LeakyElman(leak=0.25), 8, n, batch_first=True, constraint=constraint)
    network: nn.Module = mr.zoo.Network(layer, 10)
    if "rflo" in learner:
        options = {"influence": "diagonal" if "diagonal" in learner else "local"}
        options |= {"feedback": "transpose" if "transpose" in learner else "random"}
        network = mr.online.RFLO(layer, network.readout, generator=torch.Generator().manual_seed(seed), **options)
    layer.requires_grad_(learner != "readout")
    optimizer = mr.optim.RiemannianAdam([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(32):
            optimizer.zero_grad()
            task.loss(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return float(task.metric(network.eval()(unseen), truth))


LEARNERS = (
    *("readout", "rflo", "rflo diagonal", "rflo transpose", "rflo orthogonal"),
    *("backpropagation", "backpropagation orthogonal"),
)


def online(n: int) -> mr.online.RFLO:
    torch.manual_seed(0)
    return mr.online.RFLO(mr.nn.Layer(mr.nn.cells.LeakyElman(), 1, n), nn.Linear(n, 1))


def peak(steps: int, n: int = 64) -> int:
    """Return the peak bytes of tensors in this number of online steps."""
    network = online(n)
    with AliveBytes() as alive:
        for _ in range(steps):
            network.step(torch.ones(1, 1), torch.ones(1, 1))
    return alive.peak


def cost(rounds: int) -> dict[str, float]:
    """Return the milliseconds per step by number of units, their growth, and the peak bytes."""
    networks = {n: online(n) for n in SIZES}
    x, target = torch.ones(1, 1), torch.ones(1, 1)
    jobs = {str(n): lambda net=net: net.step(x, target) for n, net in networks.items()}
    times = interleaved_medians(jobs, rounds, turn=20)
    row = {f"ms, {n} units": 1e3 * seconds for n, seconds in times.items()}
    large = [times[str(n)] for n in SIZES[-2:]]
    peak(2)
    return {
        **row,
        "exponent in units, last two": math.log2(large[1] / large[0]),
        "bytes, 100 steps": peak(100),
        "bytes, 10,000 steps": peak(10_000),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, float]] = {"cost": cost(args.rounds)}
    print("cost", table["cost"], flush=True)
    for learner in LEARNERS:
        scores = [digits(seed, learner, args.epochs) for seed in SEEDS]
        table[f"digits, {learner}"] = {
            **{f"seed {s}": a for s, a in zip(SEEDS, scores, strict=True)},
            "mean": mean(scores),
        }
        print("digits", learner, scores, flush=True)
    kinds = {"rflo": ("rflo", False), "backpropagation": ("backpropagation", False), "rflo, orthogonal": ("rflo", True)}
    for name, (rule, constraint) in kinds.items():
        for seed in SEEDS:
            found, row = periodic(seed, rule, args.trials, constraint), {}
            for trial in sorted({1, min(100, args.trials), args.trials}):
                row |= dict(zip((f"loss, trial {trial}", f"alignment, trial {trial}"), found[trial - 1], strict=True))
            table[f"periodic, {name}, seed {seed}"] = row
            print("periodic", name, seed, row, flush=True)
    write("online", table, trials=args.trials, epochs=args.epochs)


if __name__ == "__main__":
    main()
