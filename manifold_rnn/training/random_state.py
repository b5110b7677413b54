"""All sources of random numbers: their states, and a seed for a while."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .values import Values


def random_state() -> Values:
    """Return the states of all sources of random numbers, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the state that everybody shares
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
