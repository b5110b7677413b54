"""Loads the network of a checkpoint for several commands. It imports neither Lightning nor matplotlib."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from ..training import choices
from ..training.build import build_for_run
from ..training.checkpoint import RUN, load_weights, read_checkpoint
from ..training.folder import replacing
from ..training.mapping import read_run
from ..training.settings import RunSettings
from ..training.values import Value, Values, presentable
from ..zoo import Network

_PAGE_START = b"<!DOCTYPE html>"


class Trained(NamedTuple):
    """A network with its weights, the settings of its run, and the path and the content of the checkpoint."""

    path: Path
    network: Network
    settings: RunSettings
    content: Values


def trained_network(checkpoint: Value) -> Trained:
    """Read a checkpoint and build its network. Raises `OptionError` if the file cannot be used."""
    path = choices.require_path("checkpoint", checkpoint)
    content = read_checkpoint(path)
    settings = read_run(content[RUN]["settings"])
    with torch.random.fork_rng(devices=[]):
        network = build_for_run(settings)
    load_weights(path, content, torch.nn.ModuleDict({"network": network}))
    return Trained(path, network, settings, content)


def in_its_precision(network: Network, x: torch.Tensor) -> torch.Tensor:
    """Return inputs or targets in the precision of a network. Symbols and classes stay integers."""
    return x.to(network.readout.weight.dtype) if x.is_floating_point() else x


def required_report(path: Value) -> Path | None:
    """Return the path of a wanted report. Raises `OptionError` if it cannot be written there."""
    if path is None:
        return None
    report = choices.require_path("report", path)
    choices.require(not report.is_dir(), "report", "the path of a file", f"the folder '{report}'")
    require_replaceable("report", report, _PAGE_START, "an earlier report")
    return report


def require_replaceable(key: str, path: Path, start: bytes, kind: str) -> None:
    """Raise `OptionError` if a path is another file than an empty one or one that begins with ``start``."""
    if not os.path.lexists(path):
        return
    found = b"" if path.is_file() and not path.is_symlink() else None
    if found is not None:
        with open(path, "rb") as file:
            found = file.read(len(start))
    choices.require(
        found in (b"", start), key, f"a new file or {kind}", f"'{path}', which is another file. Choose another `{key}`"
    )


def write_page(path: Path, html: str) -> None:
    """Write a page atomically."""
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")


def presentable_lines(text: str) -> str:
    """Return a text without passwords and without characters that cannot be shown."""
    return "\n".join(presentable(line) for line in text.splitlines())
