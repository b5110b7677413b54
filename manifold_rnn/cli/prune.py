"""``manifold-rnn prune``: remove the closed units of a network that was trained with ``pruning``."""

import time
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from shlex import quote
from statistics import median

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..nn import prune
from ..nn.pruning import folded
from ..nn.unit_gates import LayerGates
from ..training.build import build_for_run
from ..training.checkpoint import RUN, require_same_data, run_entry, write_checkpoint
from ..training.choices import require, require_folder
from ..training.environment import environment
from ..training.folder import BEST, CONFIG, open_folder, replacing
from ..training.formats import KEY, SETTINGS
from ..training.mapping import as_mapping
from ..training.methods import PruningSettings
from ..training.settings import NetworkSettings, RunSettings
from ..training.values import Values, dump_yaml, say
from ..zoo import Network
from .parsing import CommandParser
from .trained import Trained, in_its_precision, trained_network

_BATCH, _ROUNDS = 32, 21


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser(description)
    parser.parser.add_argument("checkpoint", type=str, help="Checkpoint file, such as runs/a/best.ckpt.")
    parser.add_flag("output", str | None, f"New folder for {CONFIG} and {BEST} of the smaller network.")
    return parser


def execute(command: str, values: Values) -> int:
    """Prune the network, write it, and print how much smaller and faster it became."""
    output = values.get("output")
    require(output is not None, "output", "a new folder for the smaller network", "none")
    folder = require_folder("output", output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"`output` needs a new folder or an empty one. Got '{folder}'. Choose another `output`.")
    trained = trained_network(values["checkpoint"])
    require(
        trained.settings.pruning.active,
        "checkpoint",
        "a run that was trained with `pruning.penalty`",
        f"'{trained.path}', which has none",
    )
    splits = trained.settings.task.splits()
    require_same_data(trained.path, trained.content, environment(splits))
    gated, smaller = trained.network.eval(), prune(trained.network).eval()
    settings = _settings(trained.settings, smaller, str(folder))
    dense = _rebuilt(settings, smaller)
    inputs = in_its_precision(gated, splits.test[:_BATCH][0])
    _write(folder, trained, settings, dense)
    say(_report(gated, dense, inputs))
    say(f"Written to {folder}")
    say(f"Test it with:\n  manifold-rnn test --config {quote(f'{folder}/{CONFIG}')} --output {quote(str(folder))}")
    return 0


def _settings(settings: RunSettings, smaller: Network, output: str) -> RunSettings:
    """The settings of the smaller network, which has no constraint and no gates."""
    layer = smaller.layer
    options = {name: getattr(layer.cell, name) for name in layer.cell.options()}
    defaults = {f.name: f.default for f in fields(layer.cell) if f.default is not MISSING}
    network = NetworkSettings(
        cell=type(layer.cell).__name__,
        hidden_size=layer.hidden_size,
        num_layers=layer.num_layers,
        nonlinearity=options.pop("nonlinearity", None),
        numbers="complex" if layer.get_parameter("weight_ih_l0").is_complex() else "real",
        backend=settings.network.backend,
        recompute=settings.network.recompute,
        options={name: value for name, value in options.items() if value != defaults.get(name)},
    )
    names = [name for name, _ in smaller.named_parameters()]
    groups = {part: group for part, group in settings.optimizer.groups.items() if any(part in name for name in names)}
    optimizer = replace(settings.optimizer, constrained=None, constrained_lr=None, groups=groups)
    return replace(settings, network=network, optimizer=optimizer, pruning=PruningSettings(), output=output)


def _rebuilt(settings: RunSettings, smaller: Network) -> Network:
    """A network built from the settings, as other commands build it, with the weights of ``smaller``."""
    with torch.random.fork_rng(devices=[]):
        network = build_for_run(settings)
    network.load_state_dict(smaller.state_dict())
    return network.eval()


def _write(folder: Path, trained: Trained, settings: RunSettings, network: Network) -> None:
    """Write the settings and the checkpoint of the smaller network."""
    open_folder(folder)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(dump_yaml({KEY: SETTINGS.current, **as_mapping(settings)}), encoding="utf-8")
    state = {key: value for key, value in trained.content[RUN].items() if key not in (KEY, "version", "settings")}
    content = {key: trained.content[key] for key in ("epoch", "global_step", "pytorch-lightning_version")}
    weights = nn.ModuleDict({"network": network}).state_dict()
    write_checkpoint(folder / BEST, {**content, "state_dict": weights, RUN: run_entry(settings, state)})


@torch.no_grad()
def _report(gated: Network, dense: Network, inputs: Tensor) -> str:
    """The text about the sizes, the times and the largest difference of the outputs."""
    gates, large = gated.layer.unit_gates, folded(gated).eval()
    assert gates is not None
    n, levels = gated.layer.hidden_size, [str(len(gates.units(suffix).open())) for suffix in gated.layer.suffixes]
    each = f" (open in each level: {', '.join(levels)})" if len(levels) > 1 else ""
    weights = [_weights(network) for network in (large, dense)]
    distance = float((gated(inputs) - dense(inputs)).abs().max())
    before, after = _milliseconds(lambda: large(inputs), lambda: dense(inputs))
    rows, steps = inputs.shape[:2]
    return (
        f"hidden units: {n} -> {dense.layer.hidden_size}{each}\n"
        f"{_closed_inputs(gates)}"
        f"weights: {weights[0]:,} -> {weights[1]:,}, {weights[0] / weights[1]:.1f} times smaller\n"
        f"forward pass of {rows} sequences of {steps} steps: {before:.2f} -> {after:.2f} ms, "
        f"{before / after:.1f} times faster than a dense network of {n} units, without gates or constraint\n"
        f"largest difference between the outputs with gates and those of the smaller network: {distance:.1e}"
    )


def _closed_inputs(gates: LayerGates) -> str:
    """The line about input features, if they have gates."""
    if "inputs" not in gates:
        return ""
    held = gates.units("inputs")
    still, number = set(held.open().tolist()), len(held.log_alpha)
    closed = [str(i) for i in range(number) if i not in still]
    which = f" ({', '.join(closed[:20])}{', ...' if len(closed) > 20 else ''})" if closed else ""
    return f"inputs: {number}, of which {len(closed)} closed{which}\n"


def _weights(network: Network) -> int:
    """The number of entries of all weights, without gates. A constrained weight counts as a dense matrix."""
    layer = [weight for suffix in network.layer.suffixes for weight in network.layer.weights(suffix).values()]
    return sum(weight.numel() for weight in [*layer, *network.readout.parameters()])


def _milliseconds(*jobs: Callable[[], object]) -> list[float]:
    """Median times of the jobs, measured alternately after one warm-up round."""
    times: list[list[float]] = [[] for _ in jobs]
    for _ in range(_ROUNDS + 1):
        for job, seconds in zip(jobs, times, strict=True):
            start = time.perf_counter()
            job()
            seconds.append(time.perf_counter() - start)
    return [1e3 * median(seconds[1:]) for seconds in times]
