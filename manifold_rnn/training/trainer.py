"""The Lightning trainer of a run: its hardware, its processes, and its messages."""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed

from ..errors import OptionError
from .callbacks import SafeCheckpointIO
from .checkpoint import is_out_of_memory
from .environment import process_numbers
from .settings import RunSettings
from .values import Value


class RunLog(TensorBoardLogger):
    """The TensorBoard log of a run. It is written to exactly its folder, where Lightning would expand ``$``."""

    @property
    def log_dir(self) -> str:
        """The folder of the log."""
        return str(self.root_dir)


def build_trainer(
    settings: RunSettings,
    callbacks: Sequence[Callback] = (),
    checkpoint_io: SafeCheckpointIO | None = None,
    **options: Value,
) -> Trainer:
    """Return the trainer for these settings. Without a checkpoint callback it writes no files.

    Raises `OptionError` if this machine or its batch system does not allow these settings.
    """
    try:
        return _build_trainer(settings, callbacks, checkpoint_io, **options)
    except MisconfigurationException as error:
        got = f"{settings.accelerator}: {_one_line(error)}"
        raise OptionError(f"`accelerator` needs one that this machine has. Got {got}") from error
    except (ValueError, RuntimeError) as error:  # mostly about the variables of a batch system
        if is_out_of_memory(error):
            raise
        raise OptionError(f"Lightning cannot set up the processes of this run. Got: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _build_trainer(
    settings: RunSettings, callbacks: Sequence[Callback], checkpoint_io: SafeCheckpointIO | None, **options: Value
) -> Trainer:
    many = settings.devices * settings.nodes > 1
    return Trainer(
        max_epochs=settings.epochs,
        gradient_clip_val=settings.clip,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp" if many else settings.strategy,
        precision="bf16-mixed"
        if settings.precision == "bfloat16"
        else "32-true",  # the module converts the batches itself
        plugins=[checkpoint_io or SafeCheckpointIO()],
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, RichProgressBar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"logger": False, **options},
    )


def require_hardware(settings: RunSettings) -> None:
    """Raise `OptionError` if this machine does not have the accelerator."""
    build_trainer(settings)


def process_rank(settings: RunSettings) -> int:
    """Return the rank of this process. Raises `OptionError` if torchrun started another number of processes."""
    numbers = process_numbers()
    expected, started = settings.devices * settings.nodes, numbers.get("WORLD_SIZE", 1)
    if expected != started:
        raise OptionError(
            f"`devices` times `nodes` needs to be the number of processes.\nExpected {started}, got {expected}.\n"
            "Start them with torchrun --nproc-per-node DEVICES -m manifold_rnn fit ..."
        )
    return numbers.get("RANK", 0) if expected > 1 else 0


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notes and warnings about settings, and tracebacks of TensorBoard's thread."""
    with ExitStack() as stack:
        for logger in (logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module="lightning")
        stack.callback(setattr, threading, "excepthook", threading.excepthook)
        threading.excepthook = _said_elsewhere(threading.excepthook)
        yield


def _said_elsewhere(hook: Callable[[threading.ExceptHookArgs], object]) -> Callable[[threading.ExceptHookArgs], None]:
    """Ignore a failed write in TensorBoard's thread, because the next call from this thread raises it."""

    def called(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError):
            hook(args)

    return called


@contextmanager
def lack_of_memory_named() -> Iterator[None]:
    """Convert a lack of memory to a `MemoryError`. On a CPU, torch raises a RuntimeError for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            "There is not enough memory for this run. Checkpoints are unchanged.\n"
            f"Got {type(error).__name__}: {' '.join(str(error).split())[:150] or 'no message'}.\n"
            "Use a smaller `batch_size` or network."
        ) from error


@contextmanager
def own_process_group() -> Iterator[None]:
    """Destroy the process group that was created in the block, after the slowest process has finished.

    A group that still exists at the end of the program may abort it, because its threads read from a dead process.
    """
    if not distributed.is_available() or distributed.is_initialized():
        yield
        return
    try:
        yield
        if distributed.is_initialized():
            distributed.barrier()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
