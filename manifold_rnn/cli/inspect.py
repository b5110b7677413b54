"""``manifold-rnn inspect``: describe a checkpoint; imports neither Lightning nor matplotlib."""

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml  # type: ignore[import-untyped]

from ..constraints import degrees_of_freedom
from ..training import choices
from ..training.build import build_network
from ..training.checkpoint import RUN, load_weights, read_checkpoint
from ..training.folder import resume_command
from ..training.mapping import as_mapping, read_run
from ..training.settings import RunSettings
from ..training.values import Values
from .parsing import CommandParser


@dataclass(frozen=True)
class InspectSettings:
    """Settings of the command.

    Parameters
    ----------
    checkpoint : str
        The file, such as runs/a/last.ckpt.
    diagnostics : list of str, optional
        Names of functions in `manifold_rnn.diagnostics`. Default: all that describe a network.
    """

    checkpoint: str
    diagnostics: list[str] | None = None


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of the command."""
    epilog = f"Diagnostics: {', '.join(choices.diagnostics())}."
    parser = CommandParser(description, InspectSettings, skip=("checkpoint",), epilog=epilog)
    parser.parser.add_argument("checkpoint", type=str, help="The file, such as runs/a/last.ckpt.")
    return parser


def execute(command: str, values: Values) -> int:
    """Print progress, diagnostics and settings of a checkpoint, and the command that resumes its run."""
    inspected = InspectSettings(**values)
    path, known = Path(inspected.checkpoint), choices.diagnostics()
    for name in inspected.diagnostics or ():
        choices.require_choice("diagnostics", name, known)
    content = read_checkpoint(path)
    settings = read_run(content[RUN]["settings"])
    task, double = settings.task, settings.precision == "float64"
    with torch.random.fork_rng(devices=[]):
        dtype = torch.float64 if double else torch.float32
        network = build_network(settings.network, task.input_size, task.output_size, dtype=dtype)
    load_weights(path, content, torch.nn.ModuleDict({"network": network}))
    print(_progress(content, settings))
    print(f"network: {degrees_of_freedom(network):,} trained degrees of freedom")
    for name in known if inspected.diagnostics is None else inspected.diagnostics:
        if table := known[name](network).table():
            print(table)
    text = yaml.safe_dump(_non_empty(as_mapping(settings)), sort_keys=False)
    print("settings:", *(f"  {line}" for line in text.splitlines()), sep="\n")
    print(f"resume with:\n  {resume_command(path.parent)}")
    return 0


def _progress(content: Values, settings: RunSettings) -> str:
    state, history = content[RUN], content[RUN]["history"]
    text = f"progress: {len(history)} of {settings.epochs} epochs are over"
    text += f", and {state['batch']} batches of the next" if state["batch"] else ""
    text += f"; {content['global_step']:,} steps"
    if history:
        last, lowest = history[-1], min(epoch["val_loss"] for epoch in history)
        text += f"\nlast epoch: training loss {last['train_loss']:.4g}, validation loss {last['val_loss']:.4g}, "
        text += f"{settings.task.metric_name} {last['val_metric']:.4g}; lowest validation loss {lowest:.4g}"
    return text


def _non_empty(mapping: Values) -> Values:
    nested = {key: _non_empty(value) if isinstance(value, dict) else value for key, value in mapping.items()}
    return {key: value for key, value in nested.items() if value not in (None, {})}
