"""Counts how often constrained weights are computed, how many functions are called, and how many bytes are alive."""

import contextlib
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_rnn.constraints import Trivialization
from manifold_rnn.manifolds import MatrixGroup, Parts


@contextlib.contextmanager
def evaluations(model: nn.Module) -> Iterator[Counter]:
    """Count, by the name of the weight, how often a trivialized weight inside ``model`` is computed."""
    counts: Counter = Counter()
    entries = {name: entry for name, entry in model.named_modules() if isinstance(entry, Trivialization)}
    handles = [
        entry.register_forward_hook(lambda *_, name=name: counts.update([name.split("constraints.")[-1]]))
        for name, entry in entries.items()
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def map_calls() -> Iterator[Counter]:
    """Count the calls of every map that could compute a weight, on any manifold of the package."""
    counts: Counter = Counter()

    def counted(original, name):
        def call(self, *args, **kwargs):
            counts.update([name])
            return original(self, *args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for kind in (MatrixGroup, Parts):
            for name in ("retr", "expmap", "projx", "polish", "retr_coordinates"):
                stack.enter_context(mock.patch.object(kind, name, counted(getattr(kind, name), name)))
        yield counts


def python_calls(function: Callable[[], object]) -> int:
    """Count the Python functions that a call of ``function`` runs: its overhead, whatever the load of the machine."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    previous = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(previous)
    return count


class AliveBytes(TorchDispatchMode):
    """Counts, in ``peak``, the bytes of tensors made under it that were alive at one time."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self.known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return result

    def count(self, storage):
        if storage not in self.known:
            self.known[storage] = size = storage.nbytes()
            weakref.finalize(storage, self.forget, size)
            self.alive += size
            self.peak = max(self.peak, self.alive)

    def forget(self, size):
        self.alive -= size
