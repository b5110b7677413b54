"""Context managers that restore the module, the data and the random state after a diagnostic."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from ..errors import ShapeError

_DRAWING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


@contextlib.contextmanager
def evaluating(module: object) -> Iterator[None]:
    """Context manager: the module is in evaluation mode, and random numbers come from copies of the generators."""
    parts = list(module.modules()) if isinstance(module, nn.Module) else []
    modes = [part.training for part in parts]
    devices = {p.device.index for part in parts for p in part.parameters(recurse=False) if p.is_cuda}
    if torch.cuda.is_initialized():
        devices.add(torch.cuda.current_device())
    # cuDNN kernels have no backward pass in evaluation mode
    cudnn = torch.backends.cudnn.flags(enabled=False) if torch.is_grad_enabled() else contextlib.nullcontext()
    with torch.random.fork_rng(devices=sorted(devices)), cudnn:
        try:
            for part in parts:
                part.training = False
            yield
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode


@contextlib.contextmanager
def reading(data: object) -> Iterator[None]:
    """Context manager that restores the generators of torch and of a `DataLoader` after reading data."""
    own = [data.generator] if isinstance(data, DataLoader) else []
    if isinstance(data, DataLoader) and isinstance(data.sampler, _DRAWING):
        own.append(data.sampler.generator)
    generators = [g for g in own if g is not None]
    states = [generator.get_state() for generator in generators]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def loaded(data: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of data. Raises `ShapeError` if a `DataLoader` cannot stack its items."""
    try:
        yield from data
    except RuntimeError as error:
        _, found, sizes = str(error).partition("equal size, but got ")
        if not found:
            raise
        raise ShapeError(
            "The items of the data cannot be stacked into a batch.\nExpected sequences of equal length in each batch. "
            f"Got {sizes:.80}.\nPad the sequences, or pass a DataLoader whose `collate_fn` pads them."
        ) from error
