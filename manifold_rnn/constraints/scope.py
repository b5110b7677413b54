"""Evaluation scopes: inside one, a trivialized weight is computed once, however often it is read."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from .._torch import drop_hook, saved_tensor_hooks, transform_level
from .parametrization import Parametrization, with_hooks
from .registry import registry

_M = TypeVar("_M", bound=nn.Module)


class _Frame:
    """Weights kept while their owners run, in one autograd context."""

    def __init__(self, context: tuple[object, ...]) -> None:
        self.context = context
        self.owners: list[int] = []
        self.kept: dict[Parametrization, _Kept] = {}


class _Kept:
    """A weight, and what it was computed from."""

    def __init__(self, entry: Parametrization) -> None:
        self.weight: Tensor | None = None
        self.modes = _modes()
        tables = [table for module in entry.modules() for table in (module._parameters, module._buffers)]
        self.sources = [(table, key, t, _version(t)) for table in tables for key, t in table.items() if t is not None]

    def holds(self) -> bool:
        if self.weight is None or self.modes != _modes():
            return False
        return all(table.get(key) is t and _version(t) == version for table, key, t, version in self.sources)


class _Thread(threading.local):
    def __init__(self) -> None:
        self.frames: list[_Frame] = []


_thread = _Thread()


def evaluate(entry: Parametrization) -> Tensor:
    """Return ``entry()``, computed once within a scope for the same free parameters, modes and autograd context."""
    frame = _thread.frames[-1] if not torch.compiler.is_compiling() and _thread.frames else None
    if frame is None or frame.context != _context():
        return with_hooks(entry, entry())
    kept = frame.kept.get(entry)
    weight = kept.weight if kept is not None and kept.holds() else None
    if weight is None:
        frame.kept[entry] = kept = _Kept(entry)
        weight = kept.weight = with_hooks(entry, entry())
        if weight.requires_grad and frame.context[-1] is None:
            weight.register_hook(_forgetter(kept))
    return weight


def scope(module: _M) -> _M:
    """Compute every trivialized weight inside ``module`` once per forward of ``module``, in place.

    `constrain` already does this for the module that owns the weight. Call it on a whole model where a cell is called
    many times in one forward, or where a parent reads its child's weight.

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
def evaluate_once() -> Iterator[None]:
    """Context in which every trivialized weight is computed once, for loops that are not the forward of one module.

    Examples
    --------
    >>> cell = mr.constrain(torch.nn.RNNCell(2, 3), "weight_hh", mr.Orthogonal(), view="trivialized")
    >>> with mr.constraints.evaluate_once(): assert cell.weight_hh is cell.weight_hh
    """
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
        frames.append(_Frame(context))
    frames[-1].owners.append(owner)


def _pop(owner: int) -> None:
    # A KeyboardInterrupt skips the closing hooks, so what it left above this owner goes too.
    frames = _thread.frames
    for depth in reversed(range(len(frames))):
        owners = frames[depth].owners
        if owner in owners:
            del owners[len(owners) - 1 - owners[::-1].index(owner) :]
            del frames[depth + bool(owners) :]
            return


def _context() -> tuple[object, ...]:
    # Checkpointed regions are told by their saved-tensor hooks, torch.func transforms by their level.
    return saved_tensor_hooks(), transform_level()


def _forgetter(kept: _Kept) -> Callable[[Tensor], None]:
    reference = weakref.ref(kept)

    def forget(_: Tensor) -> None:
        # After a backward pass the graph behind the weight may be freed.
        if (spent := reference()) is not None:
            spent.weight = None

    return forget


def _modes() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version
