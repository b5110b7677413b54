"""Time layers of gated cells against torch.nn.LSTM: a forward and a backward pass with a loss on the last output.

Times are interleaved medians of process time, in float32, on one thread unless you pass --threads. There are 200 time
steps, a batch of 32 and 128 units. A ratio is the time of a layer, including its constraint, divided by that of
torch.nn.LSTM(features, 128). Momentum is measured with an LSTM and with an Elman cell. The loop is the plain loop over
time of the same cell, ``backend="reference"``. --profile prints the operations of one layer instead.
"""

import argparse
import time
from collections.abc import Callable

import torch
from timing import interleaved_medians, write
from torch import nn
from torch.profiler import ProfilerActivity, profile

import manifold_rnn as mr
from manifold_rnn.nn import cells

STEPS, BATCH, UNITS = 200, 32, 128
Make = Callable[[int, str], nn.Module]


def made_of(cell: cells.Cell, **options: object) -> Make:
    """Return a function that builds a layer of a cell for a number of features and a backend."""
    return lambda m, backend: mr.nn.Layer(cell, m, UNITS, backend=backend, **options)


LAYERS: dict[str, Make] = {
    "LSTM": made_of(cells.LSTM()),
    "complex LSTM": made_of(cells.LSTM(), dtype=torch.complex64),
    "GRU": made_of(cells.GRU()),
    "GRU, orthogonal blocks": made_of(cells.GRU(), constraint=mr.Orthogonal()),
    "GORU": made_of(cells.GORU(), constraint={"c": mr.Orthogonal()}),
    "LEM": made_of(cells.LEM()),
    "NRU": made_of(cells.NRU()),
    "momentum, LSTM": made_of(cells.Momentum(cells.LSTM())),
    "momentum, Elman": made_of(cells.Momentum(cells.Elman())),
}


def train(layer: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """Return a forward and a backward pass with a loss on the last output."""

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        h = layer(x, every_step=False)[1] if isinstance(layer, mr.nn.Layer) else layer(x)[1]
        last = h[0] if isinstance(h, tuple) else h
        (last * last.conj()).real.sum().backward()

    return step


def compare(features: int, rounds: int, loop: bool) -> dict[str, float]:
    """Return milliseconds of torch's LSTM, and ratios to it."""
    x = torch.randn(STEPS, BATCH, features)
    jobs = {"torch LSTM": train(nn.LSTM(features, UNITS), x), "torch GRU": train(nn.GRU(features, UNITS), x)}
    jobs |= {name: train(make(features, "auto"), x) for name, make in LAYERS.items()}
    if loop:
        jobs |= {f"{name}, loop": train(make(features, "reference"), x) for name, make in LAYERS.items()}
    times = interleaved_medians(jobs, rounds, clock=time.process_time)
    unit = times["torch LSTM"]
    return {"torch LSTM, ms": 1e3 * unit} | {
        name: seconds / unit for name, seconds in times.items() if name != "torch LSTM"
    }


def print_profile(name: str, features: int) -> None:
    """Print the process time of a forward and a backward pass, and the operations."""
    step = train(LAYERS[name](features, "auto"), torch.randn(STEPS, BATCH, features))
    step()
    start = time.process_time()
    step()
    print(f"{name}, {features} features: {1e3 * (time.process_time() - start):.1f} ms")
    with profile(activities=[ProfilerActivity.CPU]) as events:
        step()
    print(events.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=[1, 128], help="Input sizes.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", choices=LAYERS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.profile:
        print_profile(args.profile, args.features[0])
        return
    table: dict[str, dict[str, float]] = {}
    for features in args.features:
        row = table[f"{features} features"] = compare(features, args.rounds, loop=True)
        print(f"{features} features", "  ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)
    settings = {"steps": STEPS, "batch": BATCH, "units": UNITS, "rounds": args.rounds}
    write("cells" if args.threads == 1 else f"cells_{args.threads}_threads", table, **settings)


if __name__ == "__main__":
    main()
