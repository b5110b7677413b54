"""Detects weights that are computed many times with the same parameters, and warns once."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Hashable

from torch import Tensor, nn

from .._torch import is_traced
from .parametrization import Parametrization
from .registry import own_class

LIMIT = 16  # evaluations at the same value, each part of a graph that may still be differentiated


class Use:
    """A hook on one computed weight. A backward pass calls it, and it lives as long as the graph."""

    __slots__ = ("__weakref__", "forget", "is_over")
    __torch_unserializable__ = True  # else torch.save warns that hooks are not saved

    def __init__(self) -> None:
        self.is_over = False
        self.forget: Callable[[], object] | None = None

    def __call__(self, gradient: Tensor) -> None:
        self.is_over = True
        if self.forget is not None:
            self.forget()


class _Thread(threading.local):
    def __init__(self) -> None:
        self.uses: weakref.WeakKeyDictionary[Parametrization, list[tuple[weakref.ref[Use], Hashable]]] = (
            weakref.WeakKeyDictionary()
        )


_thread = _Thread()
_warned: weakref.WeakSet[Parametrization] = weakref.WeakSet()


def count(entry: Parametrization, use: Use, value: Hashable, owner: nn.Module, name: str) -> None:
    """Warn once for each weight if `LIMIT` graphs in use contain evaluations at the same value.

    An evaluation counts if its graph is still in use and no backward pass has reached it. Evaluations without gradients
    do not count, and neither does gradient accumulation over many batches. Each thread counts on its own.
    """
    if entry in _warned or is_traced():
        return
    uses = _thread.uses.setdefault(entry, [])
    while uses and not _counts(uses[-1], value):  # in ordinary training none is left
        uses.pop()
    uses.append((weakref.ref(use), value))
    if len(uses) < LIMIT:
        return
    uses[:] = [pair for pair in uses if _counts(pair, value)]
    if len(uses) < LIMIT:
        return
    _warned.add(entry)
    del _thread.uses[entry]
    warnings.warn(
        f"The constrained weight {name!r} of {own_class(owner).__name__} was computed {LIMIT} times at the same value "
        "for one graph: every call of its module computes it again.\nExpected one evaluation for each forward pass.\n"
        "Put the loop inside `with manifold_rnn.cached():`, or call manifold_rnn.constraints.scope(model) once.",
        UserWarning,
        stacklevel=2,
    )


def _counts(pair: tuple[weakref.ref[Use], Hashable], value: Hashable) -> bool:
    """Return whether an evaluation had this value, and its graph is in use and not yet differentiated."""
    use = pair[0]()
    return use is not None and not use.is_over and pair[1] == value
