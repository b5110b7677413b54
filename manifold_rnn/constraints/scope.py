"""Evaluation scopes: inside one, a trivialized weight is computed once, however often it is read."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from .._torch import autograd_context, drop_hook, storage_address, torch_cache
from . import optimizer_hooks
from .parametrization import Parametrization, with_hooks
from .registry import registry
from .repeats import Use, count

_M = TypeVar("_M", bound=nn.Module)
_Tensors: TypeAlias = dict[str, nn.Parameter | None] | dict[str, Tensor | None]


class _Frame:
    """Weights kept while their owners run, in one autograd context."""

    def __init__(self, context: tuple[object, ...]) -> None:
        self.context = context
        self.owners: list[int] = []
        self.kept: dict[tuple[Parametrization, tuple[bool, bool]], _Kept] = {}


class _Kept:
    """A weight, and what it was computed from."""

    def __init__(self, entry: Parametrization) -> None:
        self.weight: Tensor | None = None
        self.steps = optimizer_hooks.counter.steps  # fused optimizers write without a trace in the version
        tables = _tables(entry)
        self.sources = [(table, key, t, *_state(t)) for table in tables for key, t in table.items() if t is not None]

    def holds(self) -> bool:
        if self.weight is None or self.steps != optimizer_hooks.counter.steps:
            return False
        for table, key, t, version, place in self.sources:  # inlined, for it runs at every read
            if table.get(key) is not t or (place and t.data_ptr() != place):
                return False
            if version is not None and t._version != version:
                return False
        return True

    def value(self) -> Hashable:
        """Equal for two that are alive and were computed from the same numbers."""
        return self.steps, *((id(t), *state) for _, _, t, *state in self.sources)

    def forget(self) -> None:
        self.weight = None


def _tables(module: nn.Module) -> list[_Tensors]:
    """The parameters and buffers of a module and of those inside it; faster than ``modules()``."""
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
    """Return ``entry()``, computed once within a scope for the same free parameters, modes and autograd context."""
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
        kept.weight = weight
        frame.kept[entry, modes] = kept
    return weight


def scope(module: _M) -> _M:
    """Compute every trivialized weight inside ``module`` once per forward of ``module``, in place.

    `constrain` already does this for the module that owns the weight, if its forward may read it more than once. Call
    it on a whole model where a cell is called many times in one forward, or where a parent reads its child's weight.

    Parameters
    ----------
    module : nn.Module
        The root. Its forward opens a scope and closes it, also when it raises.

    Returns
    -------
    nn.Module
        The same module; a second call changes nothing.

    Notes
    -----
    A scope belongs to one thread. A checkpointed region does not look at the scopes around it, because it runs again
    without them: there pass the weight as an argument. Compiled code computes the weight at each read.

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
    """Undo `scope` where nothing inside is constrained any more."""
    if any(registry(child) for child in module.modules()):
        return
    drop_hook(module._forward_pre_hooks, _open)
    for key in drop_hook(module._forward_hooks, _close):
        module._forward_hooks_always_called.pop(key, None)


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Context in which every trivialized weight is computed once, for loops that are not the forward of one module.

    Put it around the time loop of a cell written by hand. A layer that is called in each step computes its weight in
    the first one. Gradients reach the weight from all steps and pass the map once, in the backward pass.
    ``torch.nn.utils.parametrize.cached()`` does the same for these weights.

    Warns
    -----
    UserWarning
        Outside of it, once for each weight, when 16 evaluations at one value are part of graphs that are still in use.
        An evaluation does not count without gradients, after a backward pass through it, when nothing holds its result
        any more, in a checkpointed region, or in a ``torch.func`` transform.

    Notes
    -----
    A weight is computed again after its free parameters have changed: by an optimizer, a load, a conversion, or an edit
    in place. It is also computed again after a backward pass through it, for gradients instead of none, and for a copy
    of the module. Edits of ``parameter.data`` in place are not seen. Contexts may be nested; the outermost one drops
    the values at its end, also after an error. It belongs to one thread. As with any shared part of a graph, two
    backward passes through one value need ``retain_graph=True`` in the first one.

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
    if torch.compiler.is_compiling():  # where every read is traced
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
    # A KeyboardInterrupt skips the closing hooks, so what it left above this owner goes too.
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
    """The frame of this thread inside ``torch.nn.utils.parametrize.cached()``, kept in torch's cache; else None."""
    cache = torch_cache()
    if cache is None or context[1:] != _NO_CONTEXT[1:]:  # a level may belong to another transform later
        return None
    key = threading.get_ident(), _TORCH_KEY
    frame = cache.get(key)
    if not isinstance(frame, _Frame) or (frame.context != context and not frame.owners):
        frame = cache[key] = _Frame(context)
    return frame if frame.context == context else None


# Checkpointed regions are told by their saved-tensor hooks or by the backward pass that runs them again,
# torch.func transforms by their level.
_NO_CONTEXT = (None, -1, None)
_context = autograd_context


def _forgetter(kept: _Kept) -> Callable[[], None]:
    reference = weakref.ref(kept)

    def forget() -> None:
        # After a backward pass the graph behind the weight may be freed.
        if (spent := reference()) is not None:
            spent.forget()

    return forget


def _modes() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def _state(x: Tensor) -> tuple[int | None, int]:
    """What changes with the numbers of a tensor; ``x.data = y`` leaves the version as it is."""
    return None if x.is_inference() else x._version, storage_address(x)
