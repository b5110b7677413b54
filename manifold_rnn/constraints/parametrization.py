"""The one type that `constrain` attaches to a module, for every constraint and view."""

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
    """A constrained weight: computes, assigns, moves, checks and saves it.

    Layers, optimizer hooks, loading and diagnostics call these methods and never inspect the subclass. A subclass is
    final and overrides what it supports. The defaults here raise errors for everything else.

    Attributes
    ----------
    is_stored_by_module : bool
        Whether the weight is the module's own parameter (update view), instead of computed from parameters here.
    is_diagonal : bool
        Whether the weight is always diagonal, so that a scan may run in parallel over time.
    has_linear : bool
        Whether `linear` can replace ``torch.nn.functional.linear`` with the dense weight.
    takes_complex32 : bool
        Whether the weight can be computed in complex32, for which torch has few functions.
    name : str
        Name of the weight in its module, in the update view.
    gradient_hooks : mapping, optional
        The hooks that ``register_hook`` put on the weight before it was constrained, in the trivialized view.
    on_load : "raise" or "project"
        Whether `check` raises for a point that is off its manifold, or projects it.
    rebase_every : int or None
        Optimizer steps between two moves of the base; None if the base never moves.

    Notes
    -----
    Every subclass follows three laws. ``forward()`` is in the constrained set up to rounding error, for all parameters.
    After ``assign(W)``, ``forward()`` returns ``W``; otherwise ``assign`` raises and changes nothing. ``state_dict()``
    contains everything that is needed to resume training.

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
        self.lineage = next(_lineages)  # equal for all copies
        optimizer_hooks.track(self)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "gradient_hooks": None}  # like a parameter, whose hooks are not copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        optimizer_hooks.track(self)

    # --- the weight ---

    @abstractmethod
    def forward(self) -> Tensor:
        """Return the dense weight."""

    def prefers_linear(self, x: Tensor) -> bool:
        """Return whether `linear` is less work for these inputs than the dense weight."""
        return False

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x W^T + bias`` for inputs of shape (..., columns), if possible without the dense weight."""
        return nn.functional.linear(x, self(), bias)

    def assign(self, weight: Tensor) -> None:
        """Change the parameters so that ``forward()`` returns ``weight``; otherwise raise and change nothing."""
        raise UnsupportedError(
            f"{type(self).__name__} cannot be solved for its parameters.\n"
            "Expected a constraint with an inverse.\nConstrain the weight again with init=."
        )

    def assign_nearest(self, weight: Tensor) -> None:
        """Change the parameters so that ``forward()`` returns a weight nearest to ``weight``, or near it."""
        self.assign(weight)

    def defect(self) -> Tensor | None:
        """Return the largest distance of a matrix of the weight from its set, in double precision.

        Returns None if every matrix is in the set, or no distance is defined.
        """
        return None

    def degrees_of_freedom(self) -> int:
        """Count the real numbers that training can change."""
        dimensions = self.dimensions()
        return sum(dimensions.get(p, real_numbers(p)) for p in self.parameters() if p.requires_grad)

    def dimensions(self) -> dict[nn.Parameter, int]:
        """Return the dimension of the set that a parameter represents, if it differs from its count of real numbers."""
        return {p: count for part in self.parts().values() for p, count in part.dimensions().items()}

    def freeze(self) -> None:
        """Freeze the parameters of a weight that was frozen. Adapters override this, since they are to be trained."""
        for p in self._own_parameters():
            p.requires_grad_(False)
        for part in self.parts().values():
            part.freeze()

    def freeze_base(self) -> None:
        """Mark the weight that an adapter stores as frozen, so that `release` leaves it frozen."""
        for part in self.parts().values():
            part.freeze_base()

    @property
    def is_trained(self) -> bool:
        """Return whether training changes the weight now, and will do so after its release."""
        parts = self.parts().values()
        return any(p.requires_grad for p in self._own_parameters()) or any(part.is_trained for part in parts)

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters of the constrained parts of the weight; free parts are not included."""
        parts = (p for part in self.parts().values() for p in part.trained())
        stored = self.watched if self.is_stored_by_module else None
        return [*([] if stored is None else [stored]), *self._own_parameters(), *parts]

    def _own_parameters(self) -> Iterator[nn.Parameter]:
        inside = {p for part in self.parts().values() for p in part.parameters()}
        return (p for p in self.parameters() if p not in inside)

    # --- retractions and steps ---

    @property
    def retraction(self) -> Retraction | None:
        """The retraction by which the weight moves; None if there is none or it cannot be changed."""
        return None

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction and keep the weight."""
        raise UnsupportedError(
            f"{type(self).__name__} has no retraction that can be changed.\n"
            f"Expected a manifold such as Orthogonal(), or FixedBase; got retraction={retraction!r}.\n"
            "Release the weight and constrain it again."
        )

    @property
    def watched(self) -> nn.Parameter | None:
        """The parameter whose optimizers are watched, or None. The hooks may raise, warn or call `after_step`."""
        return None

    @property
    def counts_steps(self) -> bool:
        """Whether `after_step` must be called after each step that trained the watched parameter."""
        return self.rebase_every is not None

    def after_step(self) -> None:
        """Update the state after an optimizer step that trained the watched parameter, for example move the base."""

    def refresh(self) -> None:
        """Mark the module's parameter again after a load or a move; called after loads and before steps."""

    def look_into(self, table: dict[str, nn.Parameter | None]) -> None:
        """Use another table of module parameters from here on."""

    def before_forward(self, table: dict[str, nn.Parameter | None]) -> None:
        """Raise if the weight was removed from its module, which owns this table; called before each forward."""

    def before_read(self, owner: nn.Module) -> None:
        """Raise if ``owner`` now uses the weight in another way; called before each read of the weight."""

    def require_point(self) -> None:
        """Raise if the weight was overwritten by a value outside of the set."""

    # --- loading and conversion ---

    def parts(self) -> dict[str, Parametrization]:
        """Return the parametrizations inside this one, by path."""
        return dict(_nearest(self, ""))

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        """Return the tensors to load, projected if `on_load` says so. Raise before anything is changed.

        Parameters
        ----------
        loaded : mapping from str to Tensor
            Tensors by the keys of ``self.state_dict()``; some may be missing.
        path : str
            The prefix of these keys in messages.
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
        """Convert like a dense weight: real parameters and complex buffers change together."""
        before = self.weight_dtype
        after = fn(torch.empty(0, dtype=before)).dtype
        if after.is_complex != before.is_complex:
            raise DtypeError(
                f"A weight under a constraint stays {'complex' if before.is_complex else 'real'}, because real and "
                f"complex weights form different sets.\nExpected a conversion of {before} to the same kind, got one "
                f"to {after}. This weight was not changed.\nRelease it, convert the module, and constrain it again."
            )

        if after == torch.complex32 and not self.takes_complex32:
            raise DtypeError(
                f"{type(self).__name__} uses torch functions that do not support complex32.\n"
                "Expected complex64 or complex128, got complex32. This weight was not changed.\n"
                "Keep complex64 and use autocast."
            )

        def follow(x: Tensor) -> Tensor:
            y = fn(x)
            dtype = self.converted_dtype(x, after)
            return y if y.dtype == dtype or not (x.is_complex() or x.is_floating_point()) else x.to(y.device, dtype)

        super()._apply(follow, recurse)
        for name, value in self._constants.items():  # `to_empty` would lose their numbers
            self._buffers[name] = value.to(getattr(self, name).device)
        return self

    def keep_constant(self, name: str, value: Tensor, device: torch.device) -> None:
        """Register a buffer that depends only on the shape. No state dict contains it, and conversions keep it."""
        self._constants[name] = value
        self.register_buffer(name, value.to(device), persistent=False)

    def extra_repr(self) -> str:
        """Return the view."""
        return 'view="trivialized"'


NOT_LOADED = "Nothing in its module was changed. Use an earlier checkpoint."


def _nearest(module: nn.Module, path: str) -> Iterator[tuple[str, Parametrization]]:
    """Yield the parametrizations below a module that are not inside another one."""
    for name, child in module.named_children():
        if isinstance(child, Parametrization):
            yield path + name, child
        else:
            yield from _nearest(child, f"{path}{name}.")


def with_hooks(entry: Parametrization, weight: Tensor) -> Tensor:
    """Register the hooks of a weight on its computed value."""
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
