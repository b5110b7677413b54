"""Measure the coverage of an LSTM on handwritten digits by the training set, by random mutants and by search.

Torch's layer is trained from 16 initial weights, and this package's layer from the first 3 of them. Each is an LSTM
with 64 units that reads the digits by rows. It is trained with Adam at 3e-3 for 60 epochs, in batches of 64, on 1437
images. The window has all 8 time steps. Words have 4 letters from an alphabet of 3. A search has 50 mutants of each of
4 survivors in 10 generations.

The coverage depends on the initial weights, so each number is given as mean, smallest and largest value. The rows "of
100 images" use mutants of 100 training images, 10 of each digit, instead of all. "flips" is the number of changed
answers for 10,000 mutants of 100 test images. "search" is the final fitness of a search for each uncovered step of
boundary coverage. The feature is reached at 0.

The last rows compare with ONE_NETWORK, which was measured once, on one network of this kind. They contain the fraction
of networks within 0.15 of each of its 12 numbers, and for how many of these numbers a network is within 0.15.
"""

import argparse
from statistics import mean

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timing import write
from torch import Tensor, nn

import manifold_rnn as mr
from manifold_rnn import diagnostics

METRICS = ("boundary", "change", "temporal")
CASES = (1000, 5000, 10_000)
ONE_NETWORK = {  # boundary, stepwise and temporal coverage
    "training set": (0.50, 0.50, 0.37),
    "1,000 random": (0.25, 0.50, 0.38),
    "5,000 random": (0.38, 0.62, 0.47),
    "10,000 random": (0.50, 0.62, 0.53),
}
NEAR = 0.15
RADIUS = 0.24  # 0.03 times the square root of 64, which is 0.03 for a distance divided by the number of entries


class TorchNetwork(nn.Module):
    """Torch's LSTM with a readout of its last state."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer, self.readout = nn.LSTM(8, size, batch_first=True), nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.readout(self.layer(x)[0][:, -1])


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images (N, 8, 8) with their digits, and the test set."""
    bunch = load_digits()
    x, y = torch.tensor(bunch.images, dtype=torch.float32) / 16, torch.tensor(bunch.target)
    train, test = train_test_split(range(len(y)), test_size=360, stratify=y, random_state=0)
    return x[train], y[train], x[test], y[test]


def trained(kind: str, seed: int, x: Tensor, y: Tensor, size: int = 64, epochs: int = 60) -> nn.Module:
    """Train torch's layer, or this package's with the same initial weights."""
    torch.manual_seed(seed)
    network: nn.Module = TorchNetwork(size)
    if kind == "mr.nn.LSTM":
        start, network = network, mr.zoo.Network(mr.nn.LSTM(8, size, batch_first=True), 10)
        network.load_state_dict(start.state_dict())
    optimizer, order = torch.optim.Adam(network.parameters(), 3e-3), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(y), generator=order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    return network


def mutants(x: Tensor, count: int) -> Tensor:
    """Return random mutants of images: noise with a variance between 0.005 and 0.02, clamped to [0, 1]."""
    generator = torch.Generator().manual_seed(count)
    seeds = x[torch.randint(len(x), (count,), generator=generator)]
    variances = 0.005 + 0.015 * torch.rand(count, 1, 1, generator=generator)
    return (seeds + variances.sqrt() * torch.randn(seeds.shape, generator=generator)).clamp(0, 1)


def row(covered: diagnostics.Coverage) -> dict[str, float]:
    """Return boundary, stepwise and temporal coverage."""
    return {metric: covered.by_metric[metric] for metric in METRICS}


def measure(kind: str, seed: int) -> dict[str, dict[str, float]]:
    """Return the rows of the table for one network."""
    x, y, x_test, y_test = digits()
    network = trained(kind, seed, x, y)
    with torch.no_grad():
        accuracy = float((network(x_test).argmax(-1) == y_test).float().mean())
    known = diagnostics.coverage(network, x, x, pieces=4)
    rows = {"network": {"test accuracy": accuracy}, "training set": row(known)}
    few = torch.cat([x[y == digit][:10] for digit in range(10)])
    for name, images in (("random", x), ("of 100 images", few)):
        random = mutants(images, max(CASES))
        for cases in CASES:
            rows[f"{cases:,} {name}"] = row(diagnostics.coverage(network, x, random[:cases], pieces=4))
    near = {
        name: {m: float(abs(rows[name][m] - value) <= NEAR) for m, value in zip(METRICS, values, strict=True)}
        for name, values in ONE_NETWORK.items()
    }
    rows |= {f"{name}: near": values for name, values in near.items()}
    count = sum(sum(values.values()) for values in near.values())
    rows["near one network"] = {"of 12": count, "all": float(count == len(METRICS) * len(ONE_NETWORK))}
    start = diagnostics.coverage(network, x, pieces=4)
    found = diagnostics.campaign(network, start, x_test[:100], 10_000, 1, generations=0, radius=RADIUS)
    rows["10,000 of 100 seeds"] = {"flips": found.adversarial or 0, "seeds broken": len(found.broken)}
    unreached = [feature for feature in known.unreached if feature.metric == "boundary"]
    searches = [diagnostics.search(network, known, x_test[:100], feature=f, offspring=50) for f in unreached]
    rows["search"] = {f"step {s.feature.at}": s.fitness[-1] for s in searches}
    rows["search reached"] = {f"step {s.feature.at}": float(s.reached) for s in searches}
    return rows


def summary(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return mean, smallest and largest value of each column."""
    columns = {key: [row[key] for row in rows if key in row] for key in sorted({key for row in rows for key in row})}
    return {key: [round(part(values), 3) for part in (mean, min, max)] for key, values in columns.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    for kind, seeds in (("torch.nn.LSTM", options.seeds), ("mr.nn.LSTM", min(3, options.seeds))):
        networks = [measure(kind, seed) for seed in range(seeds)]
        table[kind] = {name: summary([rows[name] for rows in networks]) for name in networks[0]}
        for name, values in table[kind].items():
            print(f"{kind:<14} {name:<22}", "  ".join(f"{key} {value}" for key, value in values.items()), flush=True)
    write("coverage", [{"layer": kind, **rows} for kind, rows in table.items()], seeds=options.seeds)
