"""Files with everything that a run needs to go on as if it had never stopped; none is ever half written."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..constraints import load_checked
from ..errors import OptionError
from .files import replacing
from .run_settings import RunSettings, as_mapping, read_run

LAST, BEST = "last.ckpt", "best.ckpt"
FORMAT = "manifold-rnn run, 1"
_MAY_CHANGE = ("output", "epochs", "max_steps", "patience", "checkpoint_every", "log_every", "accelerator")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in the file is executed.

    Raises
    ------
    OptionError
        If it is not there, damaged, or something else.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip() is not None
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise OptionError(f"There is no checkpoint at '{path}'.\nExpected a {LAST} or {BEST} of a run.") from None
    except Exception as error:
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _damaged(path, "another content" if content is not None else "a wrong check sum")
    return content


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Put a checkpoint in the place of the old one, when it is on the disk."""
    buffer = io.BytesIO()  # torch answers a full disk by a RuntimeError about its archive, Python by an OSError
    torch.save(dict(content), buffer)
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def require_same_run(path: Path, content: Mapping[str, Any], settings: RunSettings) -> None:
    """Raise `OptionError`, with the first difference, unless a checkpoint is of a run with these settings."""
    saved, given = (_flat(as_mapping(s)) for s in (read_run(content["settings"]), settings))
    for key in [key for key in {**saved, **given} if key not in _MAY_CHANGE]:
        if saved.get(key) != given.get(key):
            raise OptionError(
                f"'{path}' is of another run.\nExpected {key}={given.get(key)}, got {key}={saved.get(key)}.\n"
                "Go on with its own settings, in run.yaml beside it, or choose another output."
            )


def load_network(path: Path, content: Mapping[str, Any], network: nn.Module) -> None:
    """Give the weights of a checkpoint to a network that was built from its settings."""
    try:
        load_checked(network, content["network"])
    except (RuntimeError, KeyError) as error:
        raise OptionError(
            f"'{path}' does not fit the network.\nGot {' '.join(str(error).split())[:200]}.\nIt is of another version."
        ) from error


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys with dots; options by name stay together."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        nested = isinstance(value, Mapping) and not prefix
        found |= _flat(value, f"{key}.") if nested else {f"{prefix}{key}": value}
    return found


def _damaged(path: Path, reason: str) -> OptionError:
    return OptionError(
        f"'{path}' is no checkpoint of this package, or damaged ({reason}).\nNothing was changed.\n"
        "Use another checkpoint of the run, or begin anew in another folder."
    )
