"""Check of a constraint on a weight."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor, nn

from ..constraints import Constraint, Parametrization, release
from ..errors import ManifoldError, UnsupportedError
from ..manifolds import manifold_of
from .constrained import Constrained, entry_of, example, real_sum, weight_of
from .report import Report, at_most
from .sample import difference, directional_error, or_infinite, seeded, worst

_ODD_SHAPES = ((), (3,), (1, 1), (3, 5), (5, 3), (2, 3, 3))
_RANK = 1e-8  # singular values below this, relative to the largest, are 0


@dataclass(frozen=True)
class ConstraintReport(Report):
    """The result of `check_constraint`.

    Attributes
    ----------
    rtol : float
        Bound of the relative error of derivatives.
    reach : float
        Bound of ``start`` and ``assigned``.

    Examples
    --------
    >>> report = mr.testing.check_constraint(mr.Orthogonal())
    >>> assert report.on_set < 1e-12 and report.gradient < 1e-8
    """

    rtol: float
    reach: float
    on_set: float | None = at_most("largest distance of a computed weight from its set, over some steps")
    start: float | None = at_most("|start - weight| for a weight of the set, relative", "reach")
    assigned: float | None = at_most("|weight after assign(W) - W| for a weight of the set, relative", "reach")
    gradient: float | None = at_most("relative error of the derivative by the parameters", "rtol")
    repeated: float | None = at_most("difference of two evaluations", 0.0)
    unreached: float | None = at_most(
        "degrees of freedom minus the coordinates that have a gradient, or are declared", 0.0
    )
    beyond_coordinates: float | None = at_most("degrees of freedom minus the number of coordinates", 0.0)
    below_rank: float | None = at_most("rank of the derivative minus degrees of freedom", 0.0)
    state_dict: float | None = at_most("difference of the weight after saving and loading", 0.0)
    copied: float | None = at_most("difference of the weight of a copy", 0.0)
    released: float | None = at_most("difference of the weight after release", 0.0)
    update_view: float | None = at_most("distance from the set after steps of RiemannianAdam in the update view")
    accepted: float = at_most("values, NaN or infinity, with neither a finite weight nor a ManifoldError", 0.0)
    bad_shapes: float = at_most("shapes with neither a weight of the set nor a ManifoldError", 0.0)


def check_constraint(
    constraint: geoopt.Manifold | Constraint,
    shape: Sequence[int] = (4, 4),
    *,
    dtype: torch.dtype | None = None,
    owner: nn.Module | None = None,
    distance: Callable[[Tensor], Tensor] | None = None,
    uses_weight: bool = True,
    saves_start: bool = True,
    without_gradient: int = 0,
    reach: float | None = None,
    atol: float = 1e-9,
    rtol: float = 1e-6,
    seed: int = 0,
    strict: bool = False,
) -> ConstraintReport:
    r"""Measure whether a constraint keeps a weight on its set, and computes, saves and releases it correctly.

    The check constrains a weight in the trivialized view and moves the parameters by some steps of an optimizer. A
    manifold is also checked in the update view. Numbers of a view that the constraint does not have are None.

    Parameters
    ----------
    constraint : geoopt.Manifold or Constraint
        The constraint.
    shape : sequence of int
        Shape of the weight.
    dtype : torch.dtype, optional
        ``torch.float64`` or ``torch.complex128``. Default: complex if the constraint accepts only complex weights.
    owner : nn.Module, optional
        A module whose parameter ``weight`` is constrained, such as a convolution. Its copies are used, and ``shape``
        and ``dtype`` are ignored. Default: a module with a random weight.
    distance : callable, optional
        Maps a weight to its distance from the set, a real tensor. Default: `Parametrization.defect`. Without both,
        ``on_set`` is None, and only ``start`` checks that computed weights are in the set.
    uses_weight : bool
        Whether the start depends on the given weight. Pass False for a constraint that uses only its shape and dtype.
        Then ``start`` is None.
    saves_start : bool
        Whether the state dict determines the weight. Pass False for an adapter that does not save the weight that it
        adapts. Then the state is loaded into a module with the same initial weight, otherwise into one with another.
    without_gradient : int
        Number of coordinates that have no gradient, but count as degrees of freedom, such as the sign of a weight.
    reach : float, optional
        Bound of ``start`` and ``assigned``. Pass it for a constraint that moves a given weight by a small distance, for
        example away from the boundary of an open set. Default: ``atol``.
    atol : float
        Bound of the numbers that are 0 up to rounding errors.
    rtol : float
        Bound of the relative error of derivatives.
    seed : int
        Seed of the random numbers; the state of torch's generator is restored.
    strict : bool
        Whether to raise `CheckError` if a number is out of bounds.

    Returns
    -------
    ConstraintReport

    Raises
    ------
    CheckError
        With ``strict``, if a number is out of bounds.
    UnsupportedError
        If the constraint has neither view of this weight.

    Notes
    -----
    Let :math:`r` be the rank of the derivative of the weight by its coordinates, and :math:`N` the number of real
    coordinates. The degrees of freedom :math:`d` have to satisfy :math:`r \le d \le N`. Derivatives are compared with
    difference quotients of order 4, along a random tangent vector of each parameter.

    Examples
    --------
    >>> report = mr.testing.check_constraint(mr.FixedBase(mr.Orthogonal()))
    >>> assert report.ok and report.update_view is None  # structured constraints have one view
    """
    with seeded(seed):
        case = Constrained(constraint, example(constraint, shape, dtype) if owner is None else owner, distance)
        report = ConstraintReport(
            "check_constraint",
            type(constraint).__name__,
            atol,
            rtol=rtol,
            reach=atol if reach is None else reach,
            **(_trivialized(case, uses_weight, saves_start, without_gradient) if case.has("trivialized") else {}),
            update_view=case.move(case.made("update")) if case.has("update") else None,
            accepted=float(sum(case.accepts(value) for value in (torch.nan, torch.inf))),
            bad_shapes=float(sum(case.misuses(odd) for odd in _ODD_SHAPES)),
        )
    return report.require() if strict else report


def _trivialized(
    case: Constrained, uses_weight: bool, saves_start: bool, without_gradient: int
) -> dict[str, float | None]:
    """Return the numbers of the trivialized view."""
    module = case.made("trivialized")
    on_set = case.move(module)
    weight, entry = weight_of(module).detach().clone(), entry_of(module)
    coordinates = [p for p in entry.parameters() if p.requires_grad]
    count, reached, rank = _derivative(entry, coordinates)
    freedom, start = entry.degrees_of_freedom(), weight_of(case.owner).detach()
    return {
        "on_set": on_set,
        "start": or_infinite(lambda: _gap(weight_of(case.made("trivialized", weight)), weight))
        if uses_weight
        else None,
        "assigned": _assigned(case, module),
        "gradient": _gradient_error(entry, coordinates),
        "repeated": difference([weight_of(module)], [weight]),
        "unreached": float(freedom - reached - without_gradient),
        "beyond_coordinates": float(freedom - count),
        "below_rank": float(rank - freedom),
        "state_dict": or_infinite(lambda: _loaded(case, module, torch.randn_like(start) if saves_start else start)),
        "copied": difference([weight_of(copy.deepcopy(module))], [weight]),
        "released": _released(module, weight),
    }


def _gap(a: Tensor, b: Tensor) -> float:
    return difference([a], [b]) / max(1.0, worst(b))


def _assigned(case: Constrained, module: nn.Module) -> float | None:
    """Return the relative distance after an assignment; None if the constraint cannot be solved for its parameters."""
    module, other = copy.deepcopy(module), copy.deepcopy(module)
    case.move(other)
    target = weight_of(other).detach()
    try:
        entry_of(module).assign(target)
    except UnsupportedError:
        return None
    except ManifoldError:
        return math.inf
    return _gap(weight_of(module), target)


def _loaded(case: Constrained, module: nn.Module, start: Tensor) -> float:
    """Return the difference of the weight in a new module that loads the saved state."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    new = case.made("trivialized", start)
    new.load_state_dict(torch.load(file, weights_only=True))
    return difference([weight_of(new)], [weight_of(module)])


def _released(module: nn.Module, weight: Tensor) -> float:
    plain = weight_of(release(copy.deepcopy(module), "weight"))
    return difference([plain], [weight]) if type(plain) is nn.Parameter else math.inf


def _names(entry: Parametrization, coordinates: Sequence[nn.Parameter]) -> list[str]:
    names = {p: name for name, p in entry.named_parameters()}
    return [names[p] for p in coordinates]


def _gradient_error(entry: Parametrization, coordinates: Sequence[nn.Parameter]) -> float:
    names, along = _names(entry, coordinates), torch.randn_like(entry())

    def f(values: Sequence[Tensor]) -> Tensor:
        weight: Tensor = torch.func.functional_call(entry, dict(zip(names, values, strict=True)), ())
        return real_sum(weight, along)

    return directional_error(f, coordinates)


def _derivative(entry: Parametrization, coordinates: Sequence[nn.Parameter]) -> tuple[int, int, int]:
    """Return the number of real coordinates, how many of them autograd reaches, and the rank of the derivative."""
    with torch.enable_grad():
        weight = entry()
        numbers = (torch.view_as_real(weight) if weight.is_complex() else weight).flatten()
        rows = [torch.autograd.grad(x, coordinates, retain_graph=True, materialize_grads=True) for x in numbers]
    matrix = torch.stack([torch.cat([_tangent(p, g) for p, g in zip(coordinates, r, strict=True)]) for r in rows])
    values = torch.linalg.svdvals(matrix)
    return matrix.shape[1], int(matrix.any(0).sum()), int((values > _RANK * values.max()).sum())


def _tangent(p: nn.Parameter, gradient: Tensor) -> Tensor:
    """Return the real coordinates of a gradient, without its part normal to the manifold of the parameter."""
    manifold, x = manifold_of(p), p.detach().as_subclass(Tensor)
    g = gradient.as_subclass(Tensor)
    g = g if manifold is None else manifold.proju(x, g).as_subclass(Tensor)
    return (torch.view_as_real(g.resolve_conj()) if g.is_complex() else g).flatten()
