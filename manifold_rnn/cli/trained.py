"""The network in a checkpoint, for the commands that look at one; imports neither Lightning nor matplotlib."""

from pathlib import Path
from typing import NamedTuple

import torch

from ..training import choices
from ..training.build import build_network
from ..training.checkpoint import RUN, load_weights, read_checkpoint
from ..training.mapping import read_run
from ..training.settings import RunSettings
from ..training.values import Value, Values
from ..zoo import Network


class Trained(NamedTuple):
    """A network with its weights, the settings of its run, and the content of the checkpoint."""

    network: Network
    settings: RunSettings
    content: Values


def trained_network(checkpoint: Value) -> Trained:
    """Read a checkpoint and build its network, or raise `OptionError`."""
    choices.require_path("checkpoint", checkpoint)
    path = Path(checkpoint)
    content = read_checkpoint(path)
    settings = read_run(content[RUN]["settings"])
    task, dtype = settings.task, torch.float64 if settings.precision == "float64" else torch.float32
    with torch.random.fork_rng(devices=[]):
        network = build_network(settings.network, task.input_size, task.output_size, dtype=dtype)
    load_weights(path, content, torch.nn.ModuleDict({"network": network}))
    return Trained(network, settings, content)
