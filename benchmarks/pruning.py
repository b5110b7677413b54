"""Measure unit gates: a table of penalties on the handwritten digits, and the speed of a pruned LSTM.

An LSTM with 64 units reads digits by rows (8 time steps of 8 pixels). It has gates for units and inputs. It is trained
for 80 epochs in batches of 64 by Adam, with a learning rate of 3e-3, and 2e-2 for the gates. The warm-up lasts a third
of the steps. A row has the means over the seeds.

The speed is that of an LSTM with 512 units, 64 of them open, before and after pruning. Times are interleaved medians on
one thread.
"""

import argparse
from statistics import mean

import torch
from timing import interleaved_medians, write

import manifold_rnn as mr

UNITS, RATE, GATE_RATE, EPOCHS, BATCH, WARMUP = 64, 3e-3, 2e-2, 80, 64, 1 / 3
PENALTIES, SEEDS = (3e-5, 5e-5, 1e-4, 2e-4), (0, 1)
LARGE, SMALL, STEPS, SEQUENCES = 512, 64, 50, 32


def trained(penalty: float, seed: int, epochs: int = EPOCHS) -> mr.zoo.Network:
    """Return a network with gates after training."""
    torch.manual_seed(seed)
    task = mr.tasks.Digits(by="rows")
    network = mr.zoo.Network(mr.nn.LSTM(task.input_size, UNITS, batch_first=True), task.output_size, rates={})
    mr.nn.gate_units(network.layer, network.readout, inputs=True)
    gates, weights = network.parameter_groups(RATE)
    optimizer = torch.optim.Adam([{**gates, "lr": GATE_RATE}, weights])
    x, y = task.splits().train.tensors
    steps, done = epochs * -(-len(x) // BATCH), 0
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(BATCH):
            strength = penalty * min(1.0, done / (WARMUP * steps))
            loss = task.loss(network(x[part]), y[part]) + strength * mr.nn.l0_penalty(network)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
    return network.eval()


@torch.no_grad()
def measured(network: mr.zoo.Network) -> dict[str, float]:
    """Return the accuracy and the size of a network after pruning."""
    task = mr.tasks.Digits(by="rows")
    x, y = task.splits().test.tensors
    smaller, gates = mr.nn.prune(network), network.layer.unit_gates
    assert gates is not None
    assert torch.allclose(smaller(x), network(x), atol=1e-5)
    return {
        "test accuracy": float(task.metric(smaller(x), y)),
        "units": smaller.layer.hidden_size,
        "inputs": len(gates["inputs"].open()),
        "expected weights": float(mr.nn.l0_penalty(network)),
    }


def speed() -> dict[str, float]:
    """Return milliseconds of a forward pass before and after pruning."""
    torch.manual_seed(0)
    layer = mr.nn.gate_units(mr.nn.LSTM(64, LARGE)).eval()
    with torch.no_grad():
        layer.unit_gates["l0"].log_alpha[SMALL:] = -4.0
        smaller, dense, x = mr.nn.prune(layer), mr.nn.LSTM(64, LARGE), torch.randn(STEPS, SEQUENCES, 64)
        jobs = {"dense": lambda: dense(x), "gated": lambda: layer(x), "pruned": lambda: smaller(x)}
        return {name: round(1e3 * seconds, 3) for name, seconds in interleaved_medians(jobs, 21).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--penalties", type=float, nargs="*", default=PENALTIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--dry", action="store_true", help="Do not write a file.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    times = speed()
    print("ms  " + "   ".join(f"{name} {value}" for name, value in times.items()))
    print(f"pruned {times['dense'] / times['pruned']:.1f} times faster than dense", flush=True)
    table: dict[str, dict[str, float]] = {"ms of 32 sequences, 512 to 64 units": times}
    for penalty in args.penalties:
        results = [measured(trained(penalty, seed)) for seed in args.seeds]
        row = {key: round(mean(each[key] for each in results), 4) for key in results[0]}
        row["least accuracy"] = round(min(each["test accuracy"] for each in results), 4)
        row["most units"] = max(each["units"] for each in results)
        table[f"penalty {penalty:g}"] = row
        print(f"{penalty:g}  " + "   ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if not args.dry:
        write("pruning", table, penalties=list(args.penalties), seeds=len(args.seeds), epochs=EPOCHS, batch=BATCH)


if __name__ == "__main__":
    main()
