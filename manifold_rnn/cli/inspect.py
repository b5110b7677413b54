"""``manifold-rnn inspect``: describe a checkpoint; imports neither Lightning nor matplotlib."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]

from ..constraints import degrees_of_freedom
from ..training import choices
from ..training.build import build_network
from ..training.checkpoint import RUN, load_weights, read_checkpoint
from ..training.folder import resume_command
from ..training.mapping import as_mapping, read_run
from ..training.settings import RunSettings
from .parsing import CommandParser, Values


@dataclass(frozen=True)
class InspectSettings:
    """What is inspected.

    Parameters
    ----------
    checkpoint : str
        The file, such as runs/a/last.ckpt.
    diagnostics : list of str, optional
        Names of functions in `manifold_rnn.diagnostics`. Default: all that describe a network.
    """

    checkpoint: str = ""
    diagnostics: list[str] | None = None


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of the command."""
    epilog = f"Diagnostics: {', '.join(choices.diagnostics())}."
    parser = CommandParser(description, InspectSettings, skip=frozenset({"checkpoint"}), epilog=epilog)
    parser.parser.add_argument("checkpoint", type=str, help="The file, such as runs/a/last.ckpt.")
    return parser


def execute(command: str, values: Values) -> int:
    """Print the description of a checkpoint and return the exit status."""
    settings = InspectSettings(**values)
    print(describe(Path(settings.checkpoint), settings.diagnostics))
    return 0


def describe(path: Path, diagnostics: list[str] | None = None) -> str:
    """Return the progress, the diagnostics and the settings of a checkpoint, and the command that resumes its run.

    Raises
    ------
    OptionError
        If the file is damaged or no checkpoint of this package, or a diagnostic is unknown.
    """
    known = choices.diagnostics()
    for name in diagnostics or ():
        choices.require_choice("diagnostics", name, known)
    content = read_checkpoint(path)
    settings = read_run(content[RUN]["settings"])
    task = settings.task
    dtype = torch.float64 if settings.precision == "float64" else torch.float32
    with torch.random.fork_rng(devices=[]):
        network = build_network(settings.network, task.input_size, task.output_size, dtype=dtype)
    load_weights(path, content, torch.nn.ModuleDict({"network": network}))
    parts = [
        _progress(content, settings),
        f"network: {degrees_of_freedom(network):,} trained degrees of freedom",
        *(known[name](network).table() for name in (known if diagnostics is None else diagnostics)),
        "settings:\n" + _indented(yaml.safe_dump(_set(as_mapping(settings)), sort_keys=False)),
        f"resume with:\n  {resume_command(path.parent)}",
    ]
    return "\n".join(part for part in parts if part)


def _progress(content: dict[str, Any], settings: RunSettings) -> str:
    state = content[RUN]
    history = state["history"]
    text = f"progress: {len(history)} of {settings.epochs} epochs are over"
    text += f", and {state['batch']} batches of the next" if state["batch"] else ""
    text += f"; {content['global_step']:,} steps"
    if history:
        last, lowest = history[-1], min(epoch["val_loss"] for epoch in history)
        text += f"\nlast epoch: training loss {last['train_loss']:.4g}, validation loss {last['val_loss']:.4g}, "
        text += f"{settings.task.metric_name} {last['val_metric']:.4g}; lowest validation loss {lowest:.4g}"
    return text


def _set(mapping: dict[str, Any]) -> dict[str, Any]:
    """The settings that have a value."""
    nested = {key: _set(value) if isinstance(value, dict) else value for key, value in mapping.items()}
    return {key: value for key, value in nested.items() if value not in (None, {})}


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
