"""A constraint with the weight on which it is checked."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import geoopt
import torch
from torch import Tensor, nn

from ..constraints import Constraint, Parametrization, constrain, parametrizations
from ..errors import DtypeError, ManifoldError, UnsupportedError
from ..optim import RiemannianAdam
from .sample import largest, worst

_STEPS, _RATE = 3, 0.05
_LOOSE = 1e-4  # the distance from the set of weights of any shape, which may be ill-conditioned


class _Holder(nn.Module):
    """A module that owns one weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def example(constraint: geoopt.Manifold | Constraint, shape: Sequence[int], dtype: torch.dtype | None) -> nn.Module:
    """Return a module with a random weight, which is real unless the constraint refuses real ones."""
    holder = _Holder(torch.randn(tuple(shape), dtype=dtype or torch.float64))
    if dtype is None:
        try:
            constrain(copy.deepcopy(holder), "weight", constraint)
        except DtypeError:
            return _Holder(torch.randn(tuple(shape), dtype=torch.complex128))
    return holder


class Constrained:
    """A constraint with the module whose weight it constrains."""

    def __init__(
        self,
        constraint: geoopt.Manifold | Constraint,
        owner: nn.Module,
        distance: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.constraint, self.owner, self._distance = constraint, owner, distance
        self.views = {view: self._view_error(view) for view in ("trivialized", "update")}
        if all(self.views.values()):
            raise UnsupportedError(f"{self.views['trivialized']}")

    def _view_error(self, view: str) -> ManifoldError | None:
        try:
            self.made(view)
        except UnsupportedError as error:
            return error
        return None

    def has(self, view: str) -> bool:
        """Return whether the constraint has this view."""
        return self.views[view] is None

    def made(self, view: str, weight: Tensor | None = None) -> nn.Module:
        """Return a constrained copy of the module, with another weight if one is given."""
        module = copy.deepcopy(self.owner)
        if weight is not None:
            module.weight = nn.Parameter(weight.detach().clone())
        return constrain(module, "weight", self.constraint, view="update" if view == "update" else "trivialized")

    def move(self, module: nn.Module) -> float | None:
        """Move the weight by some optimizer steps, and return the largest distance from the set."""
        optimizer = RiemannianAdam([p for p in module.parameters() if p.requires_grad], lr=_RATE)
        distances = [self.distance(module)]
        for _ in range(_STEPS):
            optimizer.zero_grad()
            with torch.enable_grad():
                real_sum(weight_of(module), torch.randn_like(weight_of(module))).backward()
            try:
                optimizer.step()
            except ManifoldError:  # the optimizer found the weight off its set
                return math.inf
            distances.append(self.distance(module))
        numbers = [d for d in distances if d is not None]
        return largest(numbers) if numbers else None

    def distance(self, module: nn.Module) -> float | None:
        """Return the distance of the weight from its set, or None if it is not defined."""
        if self._distance is not None:
            return worst(self._distance(weight_of(module).detach().as_subclass(Tensor)))
        defect = entry_of(module).defect()
        return None if defect is None else worst(defect)

    def accepts(self, value: float) -> bool:
        """Return whether a weight with such an entry is neither refused nor replaced by a finite one."""
        weight = weight_of(self.owner).detach().clone()
        weight.view(-1)[-1] = value
        views = [view for view in self.views if self.has(view)]
        return any(self._misuses(view, weight) for view in views)

    def misuses(self, shape: tuple[int, ...]) -> bool:
        """Return whether the constraint neither refuses a weight of this shape nor puts it on the set."""
        weight = torch.randn(shape, dtype=weight_of(self.owner).dtype)
        return any(self._misuses(view, weight) for view in self.views if self.has(view))

    def _misuses(self, view: str, weight: Tensor) -> bool:
        try:
            module = self.made(view, weight)
            computed, distance = weight_of(module).detach(), self.distance(module)
        except ManifoldError:
            return False
        except (LookupError, RuntimeError, TypeError, ValueError):
            return True
        return computed.shape != weight.shape or not bool(computed.isfinite().all()) or not (distance or 0.0) <= _LOOSE


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight, whether it is a parameter or computed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def entry_of(module: nn.Module) -> Parametrization:
    """Return the parametrization of the only constrained weight."""
    (entry,) = (entry for _, entry in parametrizations(module))
    return entry


def real_sum(x: Tensor, weight: Tensor) -> Tensor:
    """Return the real inner product of two tensors."""
    return (weight.conj() * x).real.sum()
