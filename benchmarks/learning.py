"""Train every network of the zoo on the copying problem (delay 100) and the adding problem (200 time steps).

All networks have about the same number of parameters, but at most 264 real numbers in a state. They are trained with
one seed, by Adam with their own groups of learning rates. Gradients are clipped to norm 1, and batches have 64 fresh
sequences. The learning rate is the larger of two, unless the smaller one has a loss lower by a tenth after a third of
the steps. A row has the final loss on fresh sequences, and the loss of the baseline divided by it.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import torch
from timing import RESULTS, write
from torch import nn

import manifold_rnn as mr
from manifold_rnn.training import OptimizerSettings, build_optimizer

BUDGET = {"copying": 22_000, "adding": 15_000}
STEPS = {"copying": 1500, "adding": 3000}
TASKS: dict[str, mr.tasks.Task] = {"copying": mr.tasks.Copying(100), "adding": mr.tasks.Adding(200)}
RATES = (1e-3, 3e-3)
LARGEST = 264  # largest number of real numbers in a state
BATCH = 64
BACKENDS = {"nru": "compiled"}  # four times as fast as the loop


def build(name: str, task: mr.tasks.Task, size: int) -> mr.zoo.Network:
    """Return a network of the zoo, the same at every call. For copying, initial angles cover the circle where
    possible."""
    torch.manual_seed(0)
    maker: Callable[..., mr.zoo.Network] = getattr(mr.zoo, name)
    options = {"angles": mr.nn.init.henaff_} if name in ("exprnn", "dtriv") and task.every_step else {}
    network = maker(task.input_size, size, task.output_size, **options)
    network.layer.backend = BACKENDS.get(name, "auto")
    return network


def fitting_size(name: str, task: mr.tasks.Task, budget: int) -> int:
    """Return the largest valid hidden size within the budget."""
    found = 4
    for size in range(4, LARGEST + 1):
        try:
            network = build(name, task, size)
            numbers = size * (2 if network.layer.get_parameter("weight_ih_l0").is_complex() else 1)
            if mr.degrees_of_freedom(network) > 1.05 * budget or numbers > LARGEST:
                break
            found = size
        except mr.errors.ManifoldError:
            continue
    return found


def train(network: nn.Module, task: mr.tasks.Task, lr: float, marks: tuple[int, int]) -> Iterator[tuple[float, float]]:
    """Train to the last of two marks. At each, yield the loss on fresh sequences and the mean seconds per step."""
    optimizer = build_optimizer(network, OptimizerSettings(lr=lr))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.5 * (1 + math.cos(math.pi * s / marks[-1])))
    generator = torch.Generator().manual_seed(1)
    seconds = 0.0
    for step in range(1, marks[-1] + 1):
        start = time.perf_counter()
        inputs, targets = task.sample(BATCH, generator=generator)
        optimizer.zero_grad()
        loss = task.loss(outputs(network, task, inputs), targets)
        if not loss.isfinite():
            yield math.inf, math.nan
            return
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - start
        if step in marks:
            yield fresh_loss(network, task), seconds / step


def outputs(network: nn.Module, task: mr.tasks.Task, inputs: torch.Tensor) -> torch.Tensor:
    """Return the outputs of the network at the steps that the task scores."""
    return network(inputs, every_step=True) if task.every_step else network(inputs)


@torch.no_grad()
def fresh_loss(network: nn.Module, task: mr.tasks.Task) -> float:
    """Return the loss on sequences that were not used for training."""
    inputs, targets = task.sample(1000, generator=torch.Generator().manual_seed(2))
    return float(task.loss(outputs(network, task, inputs), targets))


def row(job: tuple[str, str, float]) -> dict[str, float | str]:
    """Return the results of one network on one task."""
    name, problem, share = job
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    task, steps = TASKS[problem], max(2, int(STEPS[problem] * share))
    size = fitting_size(name, task, BUDGET[problem])
    networks = {lr: build(name, task, size) for lr in RATES}
    runs = {lr: train(network, task, lr, (max(1, steps // 3), steps)) for lr, network in networks.items()}
    trials = {lr: next(run)[0] for lr, run in runs.items()}
    careful, bold = RATES
    lr = careful if trials[careful] < 0.9 * trials[bold] else bold
    loss, seconds = next(runs[lr], (math.inf, math.nan))
    baseline = task.baseline().loss
    return {
        "network": name,
        "task": problem,
        "hidden size": size,
        "parameters": mr.degrees_of_freedom(networks[lr]),
        "rate": lr,
        "loss": loss,
        "times better": baseline / loss,
        "ms a step": 1e3 * seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=mr.zoo.available())
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--share", type=float, default=1.0, help="Fraction of the training steps to run.")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [(name, task, args.share) for task in args.tasks for name in args.networks]
    path = RESULTS / "learning.json"
    rows = {(r["network"], r["task"]): r for r in json.loads(path.read_text())["learning"]} if path.exists() else {}
    with ProcessPoolExecutor(args.processes) as pool:
        for result in pool.map(row, jobs):
            rows[result["network"], result["task"]] = result
            print(
                "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v!s:>14}" for k, v in result.items()),
                flush=True,
            )
            write(
                "learning",
                list(rows.values()),
                batch=BATCH,
                steps=" or ".join(f"{n:,} ({task})" for task, n in STEPS.items()),
            )


if __name__ == "__main__":
    main()
