"""The environment of a run: the data, versions, threads, device and scan that its numbers depend on."""

import hashlib
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from .. import __version__
from ..errors import OptionError
from ..tasks.base import Splits
from .values import Values

_ROWS = 4096  # a set may be an expanded tensor, so it is copied in parts for its digest
_NUMBERS = ["WORLD_SIZE", "RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "JSM_NAMESPACE_RANK"]
_NUMBERS += ["SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"]
_SCANS = logging.getLogger("manifold_rnn.nn.scan.run")


def environment(splits: Splits) -> Values:
    """Return the environment of this process, with a digest of all data."""
    digest = hashlib.sha256()
    for tensor in (tensor for part in splits for tensor in part.tensors):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        for rows in tensor.split(_ROWS):
            digest.update(rows.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    versions = {"manifold_rnn": __version__, "torch": str(torch.__version__)}
    return {**versions, "threads": torch.get_num_threads(), "data": digest.hexdigest()}


def process_numbers() -> dict[str, int]:
    """Return the numbers of the process, which torchrun and batch systems set, by the name of the variable.

    Raises `OptionError` for a value that is not a number. Lightning would read it when it is imported.
    """
    found = {name: os.environ[name] for name in _NUMBERS if name in os.environ}
    for name, value in found.items():
        if not re.fullmatch("[0-9]{1,9}", value):
            raise OptionError(
                f"The environment variable {name} needs a whole number.\nGot {value!r:.60}.\n"
                "Unset it, or start the processes with torchrun."
            )
    return {name: int(value) for name, value in found.items()}


def hardware(device: torch.device) -> str:
    """Return the name of a device. For a CPU, return the vector instructions that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


@contextmanager
def scans_used() -> Iterator[set[str]]:
    """Collect the names of the scans that run in the block, from the debug log of `nn.scan.run`."""
    names: set[str] = set()

    def collect(record: logging.LogRecord) -> bool:
        names.add(str(record.args[0]) if isinstance(record.args, tuple) else record.getMessage())
        return level <= logging.DEBUG  # pass it on only to users who log at debug level

    level = _SCANS.getEffectiveLevel()
    own = _SCANS.level
    _SCANS.addFilter(collect)
    _SCANS.setLevel(logging.DEBUG)
    try:
        yield names
    finally:
        _SCANS.setLevel(own)
        _SCANS.removeFilter(collect)


def joined(earlier: Sequence[Values], current: Values) -> list[Values]:
    """Return the environments of a run in order. The current one is added if it differs from the last."""
    if earlier and earlier[-1] == {**earlier[-1], **current}:
        return [*earlier]
    return [*earlier, current]


def warn_of_changes(earlier: Sequence[Values], current: Values) -> None:
    """Warn in one line about changes since the last part of a run."""
    before = earlier[-1] if earlier else {}
    changes = [f"{key} {current[key]} (was {old})" for key, old in before.items() if current.get(key, old) != old]
    if changes:
        text = f"The run resumes with {', '.join(changes)}. Its numbers may differ from those of an uninterrupted run."
        warnings.warn(text, stacklevel=2)
