"""``manifold-rnn demo``: a built-in comparison of an LSTM and published networks on handwritten digits."""

import os
from collections.abc import Mapping
from importlib.resources import files

import torch

from .. import zoo
from ..constraints import degrees_of_freedom
from ..study.grid import Grid
from ..study.settings import CompareSettings
from ..tasks import Digits
from ..training.build import build_network
from ..training.choices import require, require_choice, takes
from ..training.settings import NetworkSettings
from ..training.values import Value, Values, flat, load_yaml, overridden
from .parsing import CommandParser

_RUN_FLAGS = {  # the key of a run that each flag overrides, its type and its help
    "epochs": ("epochs", int, "Number of epochs for every network."),
    "batch_size": ("batch_size", int, "Number of sequences in a batch."),
    "lr": ("optimizer.lr", float, "Peak learning rate of the unconstrained weights."),
    "hidden_size": ("network.hidden_size", int, "Units of the first published network. The others get equal budgets."),
    "seed": ("task.seed", int, "Random seed for the split, the initial weights and the order of the batches."),
}


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of the command."""
    parser, defaults = CommandParser(description), flat(_shipped()["base"])
    for name, (key, hint, about) in _RUN_FLAGS.items():
        parser.add_flag(name, hint, f"{about} Default: {defaults[key]}.")
    parser.add_flag("networks", str, 'Names of published networks, separated by commas, or "all".')
    parser.add_flag("retraction", str, "Retraction of every published network that has one. Default: its own.")
    parser.add_flag("output", str, "Folder for the report. It is created if it does not exist. Default: demo-results.")
    parser.add_flag("workers", int, "Number of processes. Default: one for each processor.")
    return parser


def execute(command: str, values: Values) -> int:
    """Run the comparison and return the exit status."""
    grid = demo_grid(values)
    from ..study.comparison import compare  # here, because Optuna and Lightning take seconds to import

    workers = values.get("workers", min(os.cpu_count() or 1, len(grid.cases())))
    return compare(CompareSettings("demo.yaml", values.get("output", "demo-results"), workers=workers), grid=grid)


def demo_grid(values: Mapping[str, Value]) -> Grid:
    """Return the built-in comparison, with the values of these flags."""
    shipped = _shipped()
    networks: list[Values] = shipped["grid"]["network"]
    if "networks" in values:
        names = [name.strip() for name in values["networks"].split(",") if name.strip()]
        require(bool(names), "networks", 'names of networks, separated by commas, or "all"', values["networks"])
        networks = [entry for entry in networks if "zoo" not in entry]
        for name in zoo.available() if names == ["all"] else names:
            require_choice("networks", name, zoo.available())
            networks += [entry for entry in shipped["grid"]["network"] if entry.get("zoo") == name] or [{"zoo": name}]
    for entry in networks:
        if "retraction" in values and "zoo" in entry and takes(getattr(zoo, entry["zoo"]), "retraction"):
            entry["retraction"] = values["retraction"]
    changes = {key: values[flag] for flag, (key, *_) in _RUN_FLAGS.items() if flag in values}
    base = overridden(shipped["base"], changes)
    size = base["network"]["hidden_size"]
    require(2 <= size <= 2048, "hidden_size", "an integer from 2 to 2048", size)
    first = NetworkSettings(**{**next(entry for entry in networks if "zoo" in entry), "hidden_size": size})
    with torch.random.fork_rng(devices=[]):
        base["network"]["budget"] = degrees_of_freedom(build_network(first, Digits().input_size, Digits().output_size))
    return Grid(base, {"network": networks}, seeds=[base["task"]["seed"]])


def _shipped() -> Values:
    return load_yaml(files("manifold_rnn.study").joinpath("demo.yaml").read_text(encoding="utf-8"))
