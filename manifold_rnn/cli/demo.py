"""``manifold-rnn demo``: a shipped comparison of an LSTM and published networks, on handwritten digits."""

import os
from dataclasses import dataclass
from importlib.resources import files

import torch

from .. import retractions, zoo
from ..constraints import degrees_of_freedom
from ..study.grid import Grid
from ..study.settings import CompareSettings
from ..tasks import Digits
from ..training.build import build_network
from ..training.choices import require, require_choice, takes
from ..training.settings import NetworkSettings
from ..training.values import Values, load_yaml, merged
from .parsing import CommandParser


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo; they override those of the shipped comparison.

    Parameters
    ----------
    epochs : int
        Passes over the training set, for every network.
    hidden_size : int
        Units of the first published network. All others, the LSTM included, get as many degrees of freedom.
    seed : int
        Seed of the split, the initial weights and the order of the batches.
    output : str
        Folder for the report; made if missing.
    retraction : str, optional
        Retraction of every published network that has one. Default: each network's own.
    batch_size : int
        Sequences in a batch.
    lr : float
        Peak learning rate of the unconstrained weights.
    networks : str
        Published networks, with commas between, or all.
    workers : int
        Processes; 0 for one for each processor.
    """

    epochs: int = 30
    hidden_size: int = 64
    seed: int = 0
    output: str = "demo-results"
    retraction: str | None = None
    batch_size: int = 32
    lr: float = 0.01
    networks: str = "dtriv,enrnn,exprnn,full_urnn,scornn,scurnn"
    workers: int = 0

    def __post_init__(self) -> None:
        require(2 <= self.hidden_size <= 2048, "hidden_size", "an integer from 2 to 2048", self.hidden_size)
        require(self.workers >= 0, "workers", "an integer of at least 0", self.workers)
        if self.retraction is not None:
            require_choice("retraction", self.retraction, retractions.names())
        require(bool(self.chosen()), "networks", 'names of networks, with commas between, or "all"', self.networks)
        for name in self.chosen():
            require_choice("networks", name, zoo.available())

    def chosen(self) -> list[str]:
        """Return the names of the published networks."""
        names = [name.strip() for name in self.networks.split(",") if name.strip()]
        return zoo.available() if names == ["all"] else names


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of the command."""
    return CommandParser(description, DemoSettings)


def execute(command: str, values: Values) -> int:
    """Run the comparison and return the exit status."""
    settings = DemoSettings(**values)
    grid = demo_grid(settings)
    from ..study.comparison import compare  # here, because Optuna and Lightning take seconds to import

    workers = settings.workers or min(os.cpu_count() or 1, len(grid.cases()))
    return compare(CompareSettings("demo.yaml", output=settings.output, workers=workers), grid=grid)


def demo_grid(settings: DemoSettings) -> Grid:
    """Return the shipped comparison with these settings."""
    shipped = load_yaml(files("manifold_rnn.study").joinpath("demo.yaml").read_text(encoding="utf-8"))
    networks: list[Values] = [entry for entry in shipped["grid"]["network"] if "zoo" not in entry]
    for name in settings.chosen():
        networks += [entry for entry in shipped["grid"]["network"] if entry.get("zoo") == name] or [{"zoo": name}]
    published = [entry for entry in networks if "zoo" in entry]
    for entry in published:
        if settings.retraction is not None and takes(getattr(zoo, entry["zoo"]), "retraction"):
            entry["retraction"] = settings.retraction
    first = NetworkSettings(**{**published[0], "hidden_size": settings.hidden_size})
    with torch.random.fork_rng(devices=[]):
        budget = degrees_of_freedom(build_network(first, Digits().input_size, Digits().output_size))
    override = {
        "task": {"seed": settings.seed},
        "network": {"hidden_size": settings.hidden_size, "budget": budget},
        "optimizer": {"lr": settings.lr},
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
    }
    return Grid(merged(shipped["base"], override), {"network": networks}, seeds=[settings.seed])
