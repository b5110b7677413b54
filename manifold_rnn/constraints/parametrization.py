"""The one type that `constrain` attaches to a module, whatever the constraint and the view."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..errors import DtypeError, OptionError, UnsupportedError
from ..linalg.checks import require_finite
from ..retractions import Retraction
from . import optimizer_hooks

_lineages = itertools.count()


class Parametrization(nn.Module, ABC):
    """A constrained weight: how it is computed, assigned, moved, checked and saved.

    Consumers (layers, optimizer hooks, loading, diagnostics) call these methods, and never ask what the object is. A
    subclass is final and overrides what it can do; what it cannot do is said by the defaults here.

    Attributes
    ----------
    is_stored_by_module : bool
        Whether the weight is the module's own parameter (update view), not computed from parameters here.
    is_diagonal : bool
        Whether the weight is always diagonal, so that a scan may run in parallel over time.
    has_linear : bool
        Whether `linear` may be called in the place of ``torch.nn.functional.linear`` with the dense weight.
    takes_complex32 : bool
        Whether the weight can be computed in complex32, for which torch has few functions.
    name : str
        Of the weight in its module, in the update view.
    gradient_hooks : mapping, optional
        What ``register_hook`` has put on the weight before it was constrained, in the trivialized view.
    on_load : "raise" or "project"
        What `check` does with a point that is off its manifold.
    rebase_every : int or None
        Optimizer steps between two moves of the base; None if there is none that moves.

    Notes
    -----
    Three laws: ``forward()`` is on the set up to rounding error, whatever the parameters are. ``assign(W)`` makes
    ``forward()`` return ``W``, or raises and changes nothing. ``state_dict()`` holds all that is needed to go on.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Rotations(), view="trivialized")
    >>> assert isinstance(layer.constraints["weight"], mr.constraints.Parametrization)
    """

    is_stored_by_module: ClassVar[bool] = False
    is_diagonal: ClassVar[bool] = False
    has_linear: ClassVar[bool] = False
    takes_complex32: ClassVar[bool] = False
    name: str = ""
    gradient_hooks: dict[int, Callable[[Tensor], Tensor | None]] | None = None
    on_load: str = "raise"
    rebase_every: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self._constants: dict[str, Tensor] = {}
        self.lineage = next(_lineages)  # which copies share
        optimizer_hooks.track(self)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "gradient_hooks": None}  # as a parameter, whose hooks are not copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        optimizer_hooks.track(self)

    # --- the weight ---

    @abstractmethod
    def forward(self) -> Tensor:
        """Return the dense weight."""

    def prefers_linear(self, x: Tensor) -> bool:
        """Return whether `linear` takes less work for these inputs than the dense weight."""
        return False

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x W^T + bias`` for inputs of shape (..., columns), without the dense weight where it can."""
        return nn.functional.linear(x, self(), bias)

    def assign(self, weight: Tensor) -> None:
        """Make ``weight`` the value of ``forward()``; raises and changes nothing where that cannot be."""
        raise UnsupportedError(
            f"{type(self).__name__} cannot be solved for its parameters.\n"
            "Expected a constraint with an inverse.\nConstrain the weight again with init=."
        )

    def assign_nearest(self, weight: Tensor) -> None:
        """Make the weight of the set that is nearest to ``weight``, or near it, the value of ``forward()``."""
        self.assign(weight)

    def defect(self) -> Tensor | None:
        """Return the largest distance of a matrix of the weight from its set, in double precision.

        None where every matrix is in the set, or no distance is defined.
        """
        return None

    def degrees_of_freedom(self) -> int:
        """Count the real numbers that training can change."""
        dimensions = self.dimensions()
        return sum(dimensions.get(p, real_numbers(p)) for p in self.parameters() if p.requires_grad)

    def dimensions(self) -> dict[nn.Parameter, int]:
        """Return the real dimension of the set that a parameter stands for, where that is not its number of reals."""
        return {p: count for part in self.parts().values() for p, count in part.dimensions().items()}

    def freeze(self) -> None:
        """Follow a weight that was frozen: nothing is trained, but for adapters, which are there to be trained."""
        for p in self._own_parameters():
            p.requires_grad_(False)
        for part in self.parts().values():
            part.freeze()

    def freeze_base(self) -> None:
        """Take the weight that an adapter keeps for frozen, so that a release leaves it frozen."""
        for part in self.parts().values():
            part.freeze_base()

    @property
    def is_trained(self) -> bool:
        """Whether training changes the weight, and goes on to do so once it is released."""
        parts = self.parts().values()
        return any(p.requires_grad for p in self._own_parameters()) or any(part.is_trained for part in parts)

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that the constraint is about: what is free in the weight is not among them."""
        parts = (p for part in self.parts().values() for p in part.trained())
        stored = self.watched if self.is_stored_by_module else None
        return [*([] if stored is None else [stored]), *self._own_parameters(), *parts]

    def _own_parameters(self) -> Iterator[nn.Parameter]:
        inside = {p for part in self.parts().values() for p in part.parameters()}
        return (p for p in self.parameters() if p not in inside)

    # --- retractions and steps ---

    @property
    def retraction(self) -> Retraction | None:
        """The retraction by which the weight moves; None if it has none, or one that cannot be changed."""
        return None

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Use another retraction from here on, with the same weight."""
        raise UnsupportedError(
            f"{type(self).__name__} has no retraction that could be changed.\n"
            f"Expected a manifold such as Orthogonal(), or FixedBase; got retraction={retraction!r}.\n"
            "Release the weight and constrain it anew."
        )

    @property
    def watched(self) -> nn.Parameter | None:
        """The parameter whose optimizer is watched, if any, to refuse it, to advise on it, or to call `after_step`."""
        return None

    @property
    def counts_steps(self) -> bool:
        """Whether `after_step` must be called after each step that trained the watched parameter."""
        return self.rebase_every is not None

    def after_step(self) -> None:
        """React to an optimizer step that trained the watched parameter; bases move here."""

    def refresh(self) -> None:
        """Repair what a load or a move has taken from the module's parameter; called after a load and before a step."""

    def look_into(self, table: dict[str, nn.Parameter | None]) -> None:
        """Take the module's parameters from another table than before."""

    def before_forward(self, table: dict[str, nn.Parameter | None]) -> None:
        """Raise if something has taken the weight from its module, whose table this is; called before each forward."""

    def before_read(self, owner: nn.Module) -> None:
        """Raise if ``owner`` was changed so that it uses the weight in another way; called before each read of it."""

    def require_point(self) -> None:
        """Raise if the weight has been overwritten by something that is not in the set; called where one may have."""

    # --- loading and conversion ---

    def parts(self) -> dict[str, Parametrization]:
        """Return the parametrizations inside this one, by their path."""
        return dict(_nearest(self, ""))

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        """Return the tensors to load, projected where `on_load` asks for it; raises before anything is changed.

        Parameters
        ----------
        loaded : mapping from str to Tensor
            By the keys of ``self.state_dict()``; some may be missing.
        path : str
            What comes before these keys in messages.
        """
        checked = dict(loaded)
        for name, value in loaded.items():
            if name in self._parameters and isinstance(value, Tensor) and not value.is_meta:
                require_finite(value, path + name, NOT_LOADED)
        for key, part in self.parts().items():
            prefix = f"{key}."
            own = {k.removeprefix(prefix): value for k, value in loaded.items() if k.startswith(prefix)}
            checked |= {prefix + k: value for k, value in part.check(own, path + prefix).items()}
        return checked

    @property
    def weight_dtype(self) -> torch.dtype:
        """The dtype of the dense weight."""
        with torch.no_grad():
            weight: Tensor = self()
        return weight.dtype

    def converted_dtype(self, x: Tensor, after: torch.dtype) -> torch.dtype:
        """Return the dtype of a parameter or buffer after a conversion of the weight to ``after``."""
        return after if x.is_complex() else after.to_real()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert as a dense weight would be: its real parameters and complex buffers follow it together."""
        before = self.weight_dtype
        after = fn(torch.empty(0, dtype=before)).dtype
        if after.is_complex != before.is_complex:
            raise DtypeError(
                f"A weight under a constraint stays {'complex' if before.is_complex else 'real'}: another kind of "
                f"number makes another set.\nExpected a conversion of {before} to the like, got one to {after}. "
                "This weight was not changed.\nRelease it, convert the module, and constrain it anew."
            )

        if after == torch.complex32 and not self.takes_complex32:
            raise DtypeError(
                f"{type(self).__name__} computes its weight by functions that torch does not have for complex32.\n"
                "Expected complex64 or complex128, got complex32. This weight was not changed.\n"
                "Keep complex64 and use autocast."
            )

        def follow(x: Tensor) -> Tensor:
            y = fn(x)
            dtype = self.converted_dtype(x, after)
            return y if y.dtype == dtype or not (x.is_complex() or x.is_floating_point()) else x.to(y.device, dtype)

        super()._apply(follow, recurse)
        for name, value in self._constants.items():  # whose numbers `to_empty` would lose
            self._buffers[name] = value.to(getattr(self, name).device)
        return self

    def keep_constant(self, name: str, value: Tensor, device: torch.device) -> None:
        """Register a buffer that follows from the shape alone: no state dict has it, and no conversion loses it."""
        self._constants[name] = value
        self.register_buffer(name, value.to(device), persistent=False)

    def extra_repr(self) -> str:
        """Say which view this is."""
        return 'view="trivialized"'


NOT_LOADED = "Nothing in its module was changed. Use an earlier checkpoint."


def _nearest(module: nn.Module, path: str) -> Iterator[tuple[str, Parametrization]]:
    """The parametrizations below a module that are not inside another one."""
    for name, child in module.named_children():
        if isinstance(child, Parametrization):
            yield path + name, child
        else:
            yield from _nearest(child, f"{path}{name}.")


def with_hooks(entry: Parametrization, weight: Tensor) -> Tensor:
    """Put the hooks of a weight on what was computed for it."""
    if (hooks := entry.gradient_hooks) and weight.requires_grad:

        def call(gradient: Tensor) -> Tensor:
            for hook in hooks.values():
                changed = hook(gradient)
                gradient = gradient if changed is None else changed
            return gradient

        weight.register_hook(call)
    return weight


def real_numbers(p: Tensor) -> int:
    """Count the real numbers in a tensor; a complex entry counts 2."""
    return p.numel() * (2 if p.is_complex() else 1)


def require_shape(like: Tensor, weight: Tensor) -> None:
    """Raise unless ``weight`` can replace ``like``."""
    if weight.shape != like.shape:
        raise OptionError(
            f"The assigned weight must keep its shape.\nExpected {tuple(like.shape)}, got {tuple(weight.shape)}.\n"
            "Build a new module for another size."
        )
