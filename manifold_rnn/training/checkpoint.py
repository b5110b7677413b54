"""Checkpoint files: written at once, with a digest of the whole file, and read without executing anything in them."""

import hashlib
import io
from pathlib import Path

import torch
from torch import nn

from .. import __version__
from ..constraints import load_checked
from ..errors import OptionError
from .folder import replacing
from .mapping import as_mapping, read_run
from .settings import RunSettings
from .values import Values, flat

LAST, BEST = "last.ckpt", "best.ckpt"
RUN = "manifold_rnn"  # the key of what the package adds to Lightning's checkpoint
_DIGEST = b"manifold_rnn sha256 "  # stands after the archive of torch, before the digest of all bytes up to here
_FORMAT = 2
_MAY_CHANGE = ("output", "epochs", "max_steps", "patience", "checkpoint_every", "log_every", "accelerator")
_MAPPINGS = ("optimizer.groups", "optimizer.options", "network.options", "network.constraint")


def write_checkpoint(path: Path, content: Values) -> None:
    """Replace a checkpoint by a new one, once the new one is on the disk; at an `OSError` the old one is kept."""
    buffer = io.BytesIO()  # a full disk makes torch raise a RuntimeError about its archive, and Python an OSError
    torch.save(content, buffer)
    buffer.write(_DIGEST)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path) -> Values:
    """Read a checkpoint of Lightning, whose entry "manifold_rnn" holds the settings and the history of the run.

    Raises
    ------
    OptionError
        If there is no such file, its digest does not hold, or it is no checkpoint of this package.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OptionError(f"There is no checkpoint at '{path}': {error.strerror or error}.") from error
    body, digest = data[:-32], data[-32:]
    if not body.endswith(_DIGEST) or hashlib.sha256(body).digest() != digest:
        raise _damaged(path, "the digest of the file does not hold")
    try:
        content = torch.load(io.BytesIO(body[: -len(_DIGEST)]), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader raises for an archive that it cannot read
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(content, dict) or content.get(RUN, {}).get("format") != _FORMAT:
        raise _damaged(path, "it has another content")
    return content


def run_entry(settings: RunSettings, state: Values) -> Values:
    """Return the entry "manifold_rnn" of a checkpoint: the settings of the run, and the state of its record."""
    return {"format": _FORMAT, "version": __version__, "settings": as_mapping(settings), **state}


def require_same_run(path: Path, content: Values, settings: RunSettings) -> None:
    """Raise `OptionError`, with the first difference, unless a checkpoint is from a run with these settings."""
    saved, current = (flat(as_mapping(s), _MAPPINGS) for s in (read_run(content[RUN]["settings"]), settings))
    for key in [key for key in {**saved, **current} if key not in _MAY_CHANGE]:
        if saved.get(key) != current.get(key):
            raise OptionError(
                f"'{path}' is a checkpoint of another run.\n"
                f"Expected {key}={current.get(key)}, got {key}={saved.get(key)}.\n"
                "Resume with its own settings, in run.yaml beside it, or choose another `output`."
            )


def load_weights(path: Path, content: Values, module: nn.Module) -> None:
    """Load the weights of a checkpoint, or raise `OptionError` and leave the module as it is."""
    try:
        load_checked(module, content["state_dict"])
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OptionError(f"'{path}' does not fit the network.\nGot {reason}.\nIt is from another version.") from error


def _damaged(path: Path, reason: str) -> OptionError:
    return OptionError(
        f"'{path}' is damaged or no checkpoint of this package: {reason}.\nNothing was changed.\n"
        "Use another checkpoint of the run, or start again in another folder."
    )
