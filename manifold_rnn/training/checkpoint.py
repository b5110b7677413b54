"""Checkpoint files and random states. Reading a file never executes code in it."""

import hashlib
import io
import random
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import __version__
from ..constraints import load_checked
from ..errors import OptionError
from ..tasks.memory import require_memory
from .folder import BEST, previous, replacing
from .folder import LAST as LAST  # studies import it from here
from .formats import CHECKPOINT, KEY
from .mapping import as_mapping, read_run
from .settings import RunSettings
from .values import Value, Values, flat

RUN = "manifold_rnn"  # the key of the package's entry in Lightning's checkpoint
_DIGEST = b"manifold_rnn sha256 "  # follows torch's archive; the digest of all bytes so far follows it
_MAY_CHANGE = ("output", "epochs", "max_steps", "patience", "checkpoint_every", "log_every", "accelerator")
_MAPPINGS = ("optimizer.groups", "optimizer.options", "network.options", "network.constraint")


def write_checkpoint(path: Path, content: Values, *, keep: bool = False) -> None:
    """Write a checkpoint to the disk, then replace the old one. With ``keep``, the old one stays as `previous`."""
    buffer = io.BytesIO()  # on a full disk, Python raises an OSError, but torch an unclear RuntimeError
    torch.save(content, buffer)
    buffer.write(_DIGEST)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    with replacing(path, keep=keep) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path) -> Values:
    """Read a checkpoint as `read_generation` does, and warn if the newest cannot be used."""
    source, content, reason = read_generation(path)
    if reason:
        text = f"'{path}' {reason}. Read the checkpoint before it instead: '{source.name}'."
        warnings.warn(text, stacklevel=2)
    return content


def read_generation(path: Path) -> tuple[Path, Values, str]:
    """Read a Lightning checkpoint, whose entry "manifold_rnn" contains the settings and the history of the run.

    Returns the file that was read, its content, and the problem with the newest file, or "". The `previous` file is
    read if the newest is damaged or missing.

    Raises
    ------
    OptionError
        If there is no such file, both files are damaged, or this version of the package cannot read the format.
    """
    try:
        return path, _read(path), ""
    except _Unusable as error:
        try:
            return previous(path), _read(previous(path)), error.reason
        except _Unusable:
            raise error from None


def best_checkpoint(folder: Path, history: Sequence[Mapping[str, Value]]) -> tuple[Path, Values]:
    """Read the checkpoint with the lowest validation loss of this history: the newest or the `previous` one.

    If a run is killed between two writes, its best checkpoint may be newer than its last one.

    Raises
    ------
    OptionError
        If neither belongs to this history. It may belong to another run with equal settings.
    """
    lowest, reasons = min(epoch["val_loss"] for epoch in history), []
    for path in (folder / BEST, previous(folder / BEST)):
        try:
            content = _read(path)
        except _Unusable as error:
            reasons.append(f"{path.name} {error.reason}")
            continue
        own = content[RUN]["history"]
        is_of_run = bool(own) and _scores(own) == _scores(history[: len(own)])
        if is_of_run and own[-1]["val_loss"] == lowest and not content[RUN]["batch"]:
            return path, content
        reasons.append(f"{path.name} belongs to another run")
    raise OptionError(
        f"'{folder}' needs the checkpoint with its lowest validation loss, {lowest:.4g}.\n"
        f"Got none: {', '.join(reasons)}.\nPut {BEST} of this run back, or start again with --restart."
    )


class _Unusable(OptionError):
    """Raised if a file is missing or damaged, so that the previous one may be read instead."""

    def __init__(self, path: Path, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _read(path: Path) -> Values:
    try:
        _require_end(path)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _Unusable(path, "is missing", f"There is no checkpoint at '{path}': {error.strerror}.") from error
    except OSError as error:
        raise OptionError(f"The checkpoint '{path}' cannot be read: {error.strerror or error}.") from error
    body, digest = data[:-32], data[-32:]
    if not body.endswith(_DIGEST) or hashlib.sha256(body).digest() != digest:
        raise _damaged(path, "its digest does not match its content")
    try:
        content = torch.load(io.BytesIO(body[: -len(_DIGEST)]), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a damaged archive
        if is_out_of_memory(error):
            raise
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(content, dict) or KEY not in content.get(RUN, {}):
        raise _damaged(path, "it does not contain the expected entries")
    CHECKPOINT.require(content[RUN][KEY], f"'{path}'")
    return content


def _require_end(path: Path) -> None:
    """Raise unless the kind and the last bytes of a file are those of a checkpoint, before reading all of it."""
    state = path.stat()
    if stat.S_ISDIR(state.st_mode):
        example = path / LAST
        raise OptionError(
            f"'{path}' is a folder.\nExpected a checkpoint, such as '{example}'.\nPass the path of the file."
        )
    if not stat.S_ISREG(state.st_mode):
        raise _damaged(path, "it is not a regular file")
    with open(path, "rb") as file:
        file.seek(max(0, state.st_size - len(_DIGEST) - 32))
        if not file.read(len(_DIGEST)).startswith(_DIGEST):
            raise _damaged(path, "its digest does not match its content")
    require_memory("checkpoint", 2 * state.st_size, "a file", f"'{path}'")  # for the bytes, and for the tensors


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory. Torch has no error class for it on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def is_resumable(content: Values) -> bool:
    """Whether a checkpoint has the state of an optimizer, so that a run can resume from it."""
    return "optimizer_states" in content


def run_entry(settings: RunSettings, state: Values) -> Values:
    """Return the entry "manifold_rnn" of a checkpoint: the settings of the run, and the state of its record."""
    return {KEY: CHECKPOINT.current, "version": __version__, "settings": as_mapping(settings), **state}


def require_same_run(path: Path, content: Values, settings: RunSettings) -> None:
    """Raise `OptionError` with the first difference, unless a checkpoint belongs to a run with these settings."""
    saved, current = (flat(as_mapping(s), _MAPPINGS) for s in (read_run(content[RUN]["settings"]), settings))
    for key in [key for key in {**saved, **current} if key not in _MAY_CHANGE]:
        if saved.get(key) != current.get(key):
            raise OptionError(
                f"'{path}' is a checkpoint of another run.\n"
                f"Expected {key}={current.get(key)}, got {key}={saved.get(key)}.\n"
                "Resume it with its own settings, which are in run.yaml in its folder, or choose another `output`."
            )


def require_same_data(path: Path, content: Values, current: Values) -> None:
    """Raise `OptionError` if the digest of a checkpoint's training data differs from that of this environment."""
    for known in content[RUN].get("environments", [])[-1:]:
        if known["data"] != current["data"]:
            raise OptionError(
                f"'{path}' is a checkpoint of a run on other data.\n"
                f"Expected the digest {known['data'][:12]}, got {current['data'][:12]}.\n"
                "Restore the files of the task, or train in another `output`."
            )


def load_weights(path: Path, content: Values, module: nn.Module) -> None:
    """Load the weights of a checkpoint. If they do not fit, raises `OptionError` and leaves the module unchanged."""
    try:
        load_checked(module, content["state_dict"])
    except (RuntimeError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise OptionError(
            f"'{path}' does not fit the network.\nGot {reason}.\nIt was written by another version."
        ) from error


def random_state() -> Values:
    """Return the states of all sources of random numbers, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - numpy's global state
    version, words, gauss = random.getstate()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Values) -> None:
    """Set all sources of random numbers to states that `random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all sources of random numbers for the block, and restore their states after it."""
    before = random_state()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_state(before)


def _scores(history: Sequence[Mapping[str, Value]]) -> list[Values]:
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in history]


def _damaged(path: Path, reason: str) -> _Unusable:
    return _Unusable(
        path,
        "is damaged",
        f"'{path}' is damaged or not a checkpoint of this package: {reason}.\nNothing was changed.\n"
        "Use another checkpoint of the run, or start a new run in another folder.",
    )
