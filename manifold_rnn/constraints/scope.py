"""Evaluation scopes: inside a scope, a trivialized weight is computed only once."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from .._torch import autograd_context, drop_hook, storage_address, torch_cache, version
from . import optimizer_hooks
from .parametrization import Parametrization, with_hooks
from .registry import registry
from .repeats import Use, count

_M = TypeVar("_M", bound=nn.Module)
_Tensors: TypeAlias = dict[str, nn.Parameter | None] | dict[str, Tensor | None]


class _Frame:
    """Weights that are kept while the forward of their owner runs, in one autograd context."""

    def __init__(self, context: tuple[object, ...]) -> None:
        self.context = context
        self.owners: list[int] = []
        self.kept: dict[tuple[Parametrization, tuple[bool, bool]], _Kept] = {}


class _Kept:
    """A computed weight, and the tensors it was computed from."""

    def __init__(self, entry: Parametrization) -> None:
        self.weight: Tensor | None = None
        self.version: int | None = None
        self.steps = optimizer_hooks.counter.steps  # fused optimizers do not change the version of a parameter
        tables = _tables(entry)
        self.sources = [(table, key, t, *_state(t)) for table in tables for key, t in table.items() if t is not None]

    def keep(self, weight: Tensor) -> None:
        self.weight, self.version = weight, version(weight)

    def holds(self) -> bool:
        if self.weight is None or self.steps != optimizer_hooks.counter.steps:
            return False
        if self.version is not None and self.weight._version != self.version:  # an edit in place of the weight itself
            return False
        for table, key, t, edits, place in self.sources:  # inlined, since it runs at every read
            if table.get(key) is not t or (place and t.data_ptr() != place):
                return False
            if edits is not None and t._version != edits:
                return False
        return True

    def value(self) -> Hashable:
        """Return a key that is equal for two weights computed from the same values."""
        return self.steps, *((id(t), *state) for _, _, t, *state in self.sources)

    def forget(self) -> None:
        self.weight = None


def _tables(module: nn.Module) -> list[_Tensors]:
    """Return the tables of parameters and buffers of a module and its children; faster than ``modules()``."""
    tables: list[_Tensors] = [module._parameters, module._buffers]
    for child in module._modules.values():
        if child is not None:
            tables += _tables(child)
    return tables


class _Thread(threading.local):
    def __init__(self) -> None:
        self.frames: list[_Frame] = []


_thread = _Thread()


def evaluate(entry: Parametrization, owner: nn.Module, name: str) -> Tensor:
    """Return ``entry()``. In a scope, compute it once for the same free parameters, modes and autograd context."""
    entry.before_read(owner)
    if torch.compiler.is_compiling():
        return with_hooks(entry, entry())
    context, modes = _context(), _modes()
    frame = _thread.frames[-1] if _thread.frames else None
    if frame is None or frame.context != context:
        frame = _torch_frame(context)
    known = frame.kept.get((entry, modes)) if frame is not None else None
    if known is not None and known.holds():
        assert known.weight is not None
        return known.weight
    kept = _Kept(entry)
    weight = with_hooks(entry, entry())
    if weight.requires_grad and context[-1] is None:
        weight.register_hook(use := Use())
        if context == _NO_CONTEXT:
            count(entry, use, kept.value(), owner, name)
        if frame is not None:
            use.forget = _forgetter(kept)
    if frame is not None:
        kept.keep(weight)
        frame.kept[entry, modes] = kept
    return weight


def scope(module: _M) -> _M:
    """Compute every trivialized weight inside ``module`` once per forward of ``module``, in place.

    `constrain` already does this for the module that owns the weight, if its forward may read the weight more than
    once. Call `scope` on a whole model if one forward calls a cell many times, or if a module reads the weight of its
    child.

    Parameters
    ----------
    module : nn.Module
        The root. Its forward opens a scope, and closes it also after an error.

    Returns
    -------
    nn.Module
        The same module; a second call changes nothing.

    Notes
    -----
    A scope belongs to one thread. A checkpointed region ignores the scopes around it, because it runs again without
    them: pass the weight to it as an argument. Compiled code computes the weight at each read.

    Examples
    --------
    >>> cell = mr.constrain(torch.nn.RNNCell(2, 3), "weight_hh", mr.Orthogonal(), view="trivialized")
    >>> model = mr.constraints.scope(torch.nn.Sequential(cell))
    >>> assert model(torch.ones(1, 2)).shape == (1, 3)
    """
    if _open not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_open, prepend=True)
        module.register_forward_hook(_close, always_call=True)
    return module


def unscope_if_free(module: nn.Module) -> None:
    """Undo `scope` if the module contains no constrained weight any more."""
    if any(registry(child) for child in module.modules()):
        return
    drop_hook(module._forward_pre_hooks, _open)
    for key in drop_hook(module._forward_hooks, _close):
        module._forward_hooks_always_called.pop(key, None)


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Context in which every trivialized weight is computed only once, for loops over several forwards.

    Put it around a handwritten time loop. A layer that is called in each time step computes its weight in the first
    one. Gradients from all time steps are summed at the weight and pass the map once, in the backward pass.
    ``torch.nn.utils.parametrize.cached()`` has the same effect on these weights.

    Warns
    -----
    UserWarning
        Outside of this context, once for each weight, when graphs in use contain 16 evaluations at the same value. An
        evaluation does not count if it records no gradients, if a backward pass has reached it, or if its result was
        deleted. It also does not count in a checkpointed region or in a ``torch.func`` transform.

    Notes
    -----
    A weight is computed again if its free parameters change: by an optimizer step, a load, a conversion, or an edit in
    place. It is also computed again after a backward pass through it, when gradients are enabled again, and for a copy
    of the module. An edit of the weight itself in place is lost at the next read. Edits of ``parameter.data`` in place
    are not detected.

    Contexts may be nested; the outermost one drops the values at its end, also after an error. A context belongs to one
    thread. Two backward passes through one value need ``retain_graph=True`` in the first one, as for any shared graph.

    Examples
    --------
    >>> cell = mr.constrain(torch.nn.RNNCell(2, 3), "weight_hh", mr.Orthogonal(), view="trivialized")
    >>> h = torch.zeros(1, 3)
    >>> with mr.cached():
    ...     for x in torch.ones(5, 1, 2):
    ...         h = cell(x, h)
    ...     assert cell.weight_hh is cell.weight_hh
    >>> h.sum().backward()
    """
    if torch.compiler.is_compiling():  # the compiler traces every read
        yield
        return
    owner = object()
    _push(id(owner))
    try:
        yield
    finally:
        _pop(id(owner))


def _open(module: nn.Module, args: object) -> None:
    if not torch.compiler.is_compiling():
        _push(id(module))


def _close(module: nn.Module, args: object, output: object) -> None:
    if not torch.compiler.is_compiling():
        _pop(id(module))


def _push(owner: int) -> None:
    frames, context = _thread.frames, _context()
    if not frames or frames[-1].context != context:
        frames.append(_torch_frame(context) or _Frame(context))
    frames[-1].owners.append(owner)


def _pop(owner: int) -> None:
    # A KeyboardInterrupt skips the closing hooks, so frames above this owner are removed too.
    frames = _thread.frames
    if frames and frames[-1].owners[-1] == owner:
        frames[-1].owners.pop()
        if not frames[-1].owners:
            frames.pop()
        return
    for depth in reversed(range(len(frames))):
        owners = frames[depth].owners
        if owner in owners:
            del owners[len(owners) - 1 - owners[::-1].index(owner) :]
            del frames[depth + bool(owners) :]
            return


_TORCH_KEY = "manifold_rnn"


def _torch_frame(context: tuple[object, ...]) -> _Frame | None:
    """Return this thread's frame inside ``torch.nn.utils.parametrize.cached()``, stored in its cache; else None."""
    cache = torch_cache()
    if cache is None or context[1:] != _NO_CONTEXT[1:]:  # another transform may reuse a level later
        return None
    key = threading.get_ident(), _TORCH_KEY
    frame = cache.get(key)
    if not isinstance(frame, _Frame) or (frame.context != context and not frame.owners):
        frame = cache[key] = _Frame(context)
    return frame if frame.context == context else None


# Checkpointed regions are recognized by their saved-tensor hooks, or by the backward pass that runs them again;
# torch.func transforms are recognized by their level.
_NO_CONTEXT = (None, -1, None)
_context = autograd_context


def _forgetter(kept: _Kept) -> Callable[[], None]:
    reference = weakref.ref(kept)

    def forget() -> None:
        # after a backward pass, torch may free the graph of the weight
        if (spent := reference()) is not None:
            spent.forget()

    return forget


def _modes() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def _state(x: Tensor) -> tuple[int | None, int]:
    """Return values that change whenever the numbers of a tensor do; ``x.data = y`` does not change the version."""
    return version(x), storage_address(x)
