"""What ``manifold-rnn inspect`` says of a checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]

from ..constraints import degrees_of_freedom
from .building import build_network
from .checkpoints import load_network, read_checkpoint
from .inspection import defects, recurrent_matrix, spectrum
from .run_settings import RunSettings, as_mapping, read_run
from .sessions import dtype_of, go_on


def describe(path: Path) -> str:
    """Return what a checkpoint holds: its run, how far that is, how far weights are off, the spectrum, how to go on.

    Raises
    ------
    OptionError
        If it is damaged, or none of this package.
    """
    content = read_checkpoint(path)
    settings = read_run(content["settings"])
    task = settings.task
    with torch.random.fork_rng(devices=[]):
        network = build_network(settings.network, task.input_size, task.output_size, dtype=dtype_of(settings))
    load_network(path, content, network)
    parts = [
        _progress(content, settings),
        f"network: {degrees_of_freedom(network):,} trained degrees of freedom",
        *_weights(network),
        "settings:\n" + _indented(yaml.safe_dump(_changed(settings), sort_keys=False)),
        f"go on with:\n  {go_on(path.parent)}",
    ]
    return "\n".join(parts)


def _progress(content: dict[str, Any], settings: RunSettings) -> str:
    where, history = content["position"], content["history"]
    words = f"position: {where['epoch']} of {settings.epochs} epochs are over"
    words += f", and {where['batch']} batches of the next" if where["batch"] else ""
    words += f"; {where['step']:,} steps"
    if history:
        last = history[-1]
        words += f"\nlast epoch: training loss {last['train_loss']:.4g}, validation loss {last['val_loss']:.4g}, "
        words += f"{settings.task.metric_name} {last['val_metric']:.4g}; lowest validation loss {content['best']:.4g}"
    return words


def _weights(network: Any) -> Iterator[str]:
    for name, defect in defects(network).items():
        yield f"defect of {name}: {defect:.1e}"
    name, _ = recurrent_matrix(network)
    moduli = sorted(map(abs, spectrum(network)))
    if moduli:
        middle = moduli[len(moduli) // 2]
        yield f"spectrum of {name}: moduli from {moduli[0]:.4g} to {moduli[-1]:.4g}, median {middle:.4g}"


def _changed(settings: RunSettings) -> dict[str, Any]:
    """Settings that are given, without the many that are not."""
    mapping = as_mapping(settings)
    return {key: _without_empty(value) for key, value in mapping.items() if value not in (None, {})}


def _without_empty(value: Any) -> Any:
    return {k: v for k, v in value.items() if v not in (None, {})} if isinstance(value, dict) else value


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
