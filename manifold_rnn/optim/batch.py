"""Parameters that an optimizer updates together: equal manifold, shape and dtype, stacked along a new first axis."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._kernels.small import SmallSteps, small_steps
from .._torch import copy_each, is_watched
from ..constraints.optimizer_hooks import renew
from ..errors import UnsupportedError
from ..linalg.checks import require_finite
from ..manifolds import Manifold, manifold_of
from ..manifolds.adapted import attached_manifold
from .options import StateKinds
from .plain import Plain, form, joined
from .preconditions import require_own_state, square_kind

State = dict[str, Any]
Held: TypeAlias = tuple[Tensor, list[Tensor]]  # a state of all parameters, and the view of each parameter
# devices with a fused implementation, or None if torch's functions cannot be used; and whether nothing may be read
Join: TypeAlias = tuple[tuple[str, ...] | None, bool]
Rule: TypeAlias = Callable[[Tensor, Tensor], Tensor]
_version = operator.attrgetter("_version")
_NOWHERE: list[int] = []


@dataclass
class Batch:
    """Equal parameters as one tensor, together with their optimizer states.

    A plain parameter is a batch of its own. Its coordinates are its entries (complex ones as pairs of reals).
    """

    params: list[Tensor]
    manifold: Manifold | None
    states: list[State]
    stacks: dict[str, Held] = field(default_factory=dict)
    packed: dict[str, list[Tensor | None]] = field(default_factory=dict)  # states checked by a compiled step
    buffers: dict[str, Tensor] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    before: dict[str, Held] = field(default_factory=dict)  # states before this step
    spares: dict[str, Held] = field(default_factory=dict)  # memory for the next step
    counts: list[int | None] = field(default_factory=list)
    created: set[str] = field(default_factory=set)  # states that did not exist before this step
    can_undo: bool = False
    written: tuple[list[int], int] = (_NOWHERE, 0)  # the value of `_found` after the last step
    found: tuple[list[int], int] = (_NOWHERE, 0)  # the value of `_found` before this step
    looked: int = 0  # steps since the numbers were last checked

    @functools.cached_property
    def small(self) -> SmallSteps | None:
        """The compiled step of small real matrices, or None if it does not support this batch."""
        return None if is_watched(*self.params) else small_steps(self.params)

    def is_untouched(self) -> bool:
        """Return whether nothing wrote to the parameters since the last step, without reading their numbers."""
        self.found = self._found()
        return self.found == self.written

    def trust(self) -> None:
        """Record the parameters as checked points, as `is_untouched` found them."""
        self.written = self.found

    def _found(self) -> tuple[list[int], int]:
        """Return the addresses of the parameters and the sum of their versions, which only grow."""
        return list(map(Tensor.data_ptr, self.params)), sum(map(_version, self.params))

    def require_finite_states(self, advice: str) -> None:
        """Raise `NonFiniteError`, with advice, if a moment contains NaN or infinity."""
        for state in (v for s in self.states for v in s.values() if isinstance(v, Tensor)):
            require_finite(state, "The optimizer's state", advice)

    def point(self) -> Tensor:
        """Return the stacked values of the parameters; do not write to it."""
        return self._stack("point", self.params)

    def gradient(self) -> Tensor:
        """Return the stacked gradients from autograd; do not write to it."""
        return self._stack("gradient", [p.grad for p in self.params if p.grad is not None])

    def _stack(self, name: str, tensors: list[Tensor]) -> Tensor:
        if len(tensors) == 1:
            return tensors[0].detach().unsqueeze(0)
        # the same memory at every step, since allocating pages costs more than the copy
        buffer = self.buffers.get(name)
        self.buffers[name] = torch.stack(tensors) if buffer is None else torch.stack(tensors, out=buffer)
        return self.buffers[name]

    def coordinates(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the coordinates of the Riemannian gradient at ``x``."""
        return _as_reals(g) if self.manifold is None else self.manifold.egrad2coordinates(x, g)

    def move(self, x: Tensor, c: Tensor, carried: Sequence[Tensor] = ()) -> Tensor:
        """Return the points at coordinates ``c`` from ``x``; ``carried`` coordinates are transported in place."""
        if self.manifold is None:
            return x + (torch.view_as_complex(c) if x.is_complex() else c)
        y, *moved = self.manifold.retr_transp_coordinates(x, c, *carried)
        for before, after in zip(carried, moved, strict=True):
            if after is not before:  # on groups, transport does not change coordinates
                before.copy_(after)
        return y

    def polished(self, y: Tensor, steps: int | Tensor, every: int | None) -> Tensor:
        """Return the points after a step, polished if this is due."""
        if self.manifold is None:
            return y
        every = self.manifold.polish_every if every is None else every
        due = every and (isinstance(steps, Tensor) or steps % every == 0)
        return self.manifold.polish(y) if due else y

    def square(self, x: Tensor, c: Tensor, how: str) -> Tensor:
        """Return the contribution of coordinates ``c`` to the second moment."""
        return c.square() if self.manifold is None else self.manifold.square_coordinates(x, c, how)

    def write(self, y: Tensor) -> None:
        """Write new values to the parameters."""
        copy_each(self.params, y.unbind())
        self.note_writing()

    def note_writing(self) -> None:
        """Record the values just written to the parameters as checked points."""
        places, count = self.written
        self.written = places, count + len(self.params)

    def write_where(self, sound: Tensor, y: Tensor, before: list[State]) -> None:
        """Write new values if the step is sound; otherwise restore the states from before it."""
        flag = sound.to(y.device)
        self.write(torch.where(flag, y, self.point()))
        for s, old in zip(self.states, before, strict=True):
            for k, v in s.items():
                v.copy_(torch.where(flag, v, old.get(k, self.starts.get(k, 0.0))))

    def undo(self) -> None:
        """Restore the states from before the last `count`."""
        for name in self.created:
            self.stacks.pop(name, None)
            for s in self.states:
                s.pop(name, None)
        for name, held in self.before.items():
            self.spares[name] = self._replace(name, held)
        for s, steps in zip(self.states, self.counts, strict=True):
            if steps is None:
                s.pop("step", None)
            else:
                s["step"] = steps
        self.before.clear()

    def count(self, *, on_device: bool) -> int | Tensor:
        """Count one more step; returns a number, or a tensor for coordinates if nothing may be read."""
        self.before.clear()
        self.created.clear()
        self.can_undo = not on_device and self.manifold is not None
        if not on_device:
            self.counts = [s.get("step") for s in self.states]
            for s, steps in zip(self.states, self.counts, strict=True):
                s["step"] = int(steps or 0) + 1
            return int(self.states[0]["step"])
        for p, s in zip(self.params, self.states, strict=True):
            # a count in half precision stops at 256, and powers of numbers near 1 are rounded to 1
            precision = torch.promote_types(p.dtype.to_real(), torch.float32)
            count = s.setdefault("step", torch.zeros((), dtype=precision, device=p.device))
            if not isinstance(count, Tensor) or count.dtype != precision:  # for example after load_state_dict
                s["step"] = torch.as_tensor(count, dtype=precision, device=p.device)
            s["step"].add_(1)
        p = self.params[0]
        axes = (
            p.ndim + p.is_complex() if self.manifold is None else len(self.manifold.coordinate_shape(p.shape, p.dtype))
        )
        return torch.stack([s["step"] for s in self.states]).reshape(-1, *[1] * axes)

    def updated(self, name: str, like: Tensor, rule: Rule, start: float = 0.0) -> Tensor:
        """Update the named state by ``rule(old, out)``, which writes to ``out``; `undo` restores the old one."""
        old = self.state(name, like, start)
        if not self.can_undo or name in self.created or name in self.before:
            return rule(old, old)
        # two buffers alternate, since a copy would cost more than some steps
        held = self.spares.get(name)
        if held is None or held[0].shape != old.shape or held[0].dtype != old.dtype:
            new = torch.empty_like(old)
            held = new, list(new.unbind())
        new = rule(old, held[0])
        self.spares[name] = self.before[name] = self._replace(name, held)
        return new

    def _replace(self, name: str, held: Held) -> Held:
        """Replace the state of this name, and return the previous one."""
        before, self.stacks[name] = self.stacks[name], held
        for s, view in zip(self.states, held[1], strict=True):
            s[name] = view
        return before

    def state(self, name: str, like: Tensor, start: float = 0.0) -> Tensor:
        """Return the named state of all parameters as one tensor, a view of their own states."""
        self.starts[name] = start
        buffer, views = self.stacks.get(name, (None, []))
        held = [s.get(name) for s in self.states]
        if buffer is not None and all(map(operator.is_, held, views)):
            return buffer
        # there is no state yet, or loaded or copied states are no longer views of the buffer
        if any(map(_is_none, held)):
            self.created.add(name)
            for s, c in zip(self.states, like.unbind(), strict=True):
                s.setdefault(name, torch.full_like(c, start))
        found: list[Tensor] = [s[name] for s in self.states]
        alone = len(found) == 1
        buffer = found[0].unsqueeze(0) if alone else torch.stack(found)
        views = found if alone else list(buffer.unbind())
        self.stacks[name] = buffer, views
        for s, view in zip(self.states, views, strict=True):
            s[name] = view
        return buffer


def _is_none(x: object) -> bool:
    return x is None


class Batches:
    """The batches of one parameter group, kept until a parameter, its manifold or its state is replaced."""

    def __init__(self, kinds: StateKinds) -> None:
        self._kinds = kinds
        self._seen: Sequence[object] = ()
        self._batches: list[Batch] = []
        self._plain: list[Plain] = []
        self._checked: dict[int, tuple[Hashable, ...]] = {}  # the frame of each parameter, and what else was checked
        self._options: list[object] = []
        self._how = ""  # the kind of second moment that the options give

    def accept_options(self, group: dict[str, Any], validate: Callable[[dict[str, Any]], None]) -> None:
        """Validate the options of the group if one has changed since the last call."""
        options = list(group.values())
        if options != self._options:
            validate(group)
            how = square_kind(group)
            if how != self._how:
                self._how, self._seen = how, ()
            self._options = options

    def of(self, params: list[Tensor], state: dict[Tensor, State], join: Join) -> tuple[list[Batch], list[Plain]]:
        """Return the parameters with a gradient, in batches of one manifold, shape, dtype and number of steps.

        Plain parameters are returned separately for torch's own functions, as far as ``join`` allows.
        """
        live = [p for p in params if p.grad is not None]
        seen = _seen(live, state, join)
        if seen != self._seen or not all(together.is_unchanged() for together in self._plain):
            renew(live)
            checked = {id(p): (_frame(p), self._how, p.shape, p.dtype, _shapes(state[p])) for p in live}
            for p in live:
                before, now = self._checked.get(id(p)), checked[id(p)]
                if before != now:
                    same_frame = before is None or before[0] == now[0]
                    require_own_state(p, manifold_of(p), state[p], self._kinds, self._how, same_frame=same_frame)
            self._checked |= checked
            self._batches, self._plain = _sorted(live, state, join)
            self._seen = _seen(live, state, join)
        return self._batches, self._plain


def _seen(params: list[Tensor], state: dict[Tensor, State], join: Join) -> Sequence[object]:
    """Return everything on which the division into batches depends."""
    manifolds = [attached_manifold(p) for p in params]
    return [join] + [
        (id(p), id(manifold), id(state[p]), form(p, constrained=manifold is not None))
        for p, manifold in zip(params, manifolds, strict=True)
    ]


def _shapes(state: State) -> Hashable:
    return tuple((name, s.shape) for name, s in state.items() if isinstance(s, Tensor))


def _frame(p: Tensor) -> Hashable:
    """Return a key of the coordinates of tangent vectors at a parameter."""
    manifold = manifold_of(p)
    return None if manifold is None else (manifold.frame, manifold.coordinate_shape(tuple(p.shape), p.dtype))


def _sorted(params: list[Tensor], state: dict[Tensor, State], join: Join) -> tuple[list[Batch], list[Plain]]:
    batches: dict[Hashable, Batch] = {}
    plain: dict[Hashable, Plain] = {}
    fused_on, on_device = join
    for p in params:
        manifold, steps = manifold_of(p), state[p].get("step", 0)
        kind: Hashable = id(p)
        if manifold is not None:
            # a count on the device can only be compared if it may be read
            steps = (-1 if on_device else int(steps)) if isinstance(steps, Tensor) else steps
            kind = (manifold.key(), p.shape, p.dtype, p.device, steps)
        elif fused_on is not None:
            fused = joined(p, state[p], fused_on)
            if fused is not None and (fused or not on_device):
                together = plain.setdefault((fused, p.dtype, p.device), Plain(fused))
                together.params.append(p)
                together.states.append(state[p])
                continue
        batch = batches.setdefault(kind, Batch([], manifold, []))
        batch.params.append(p)
        batch.states.append(state[p])
    return list(batches.values()), list(plain.values())


def require_fixed_work(manifold: Manifold | None) -> None:
    """Raise `UnsupportedError` if a step on the manifold must wait for the device."""
    if manifold is not None and manifold.reads_device:
        raise UnsupportedError(
            "A step with capturable=True cannot read numbers from the device.\n"
            f"Expected a manifold without eigenvalues or singular values, got {manifold}.\n"
            "Pass capturable=False, or constrain in the trivialized view."
        )


def _as_reals(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
