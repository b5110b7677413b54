"""Constraining many weights at once, and counting degrees of freedom."""

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

import geoopt
from torch import nn

from ..errors import ManifoldError, OptionError
from ..manifolds import manifold_of
from .constraint import Constraint
from .options import Options, bad_option, chosen_view
from .parametrization import Parametrization, real_numbers
from .preparation import Attach, key_of, owner_of, prepare, refuse_torn_ties
from .registry import Registry, entry_of
from .scope import scope

_M = TypeVar("_M", bound=nn.Module)


def constrain_matching(
    model: _M,
    constraints: Mapping[str, geoopt.Manifold | Constraint],
    *,
    freeze_others: bool = False,
    view: Literal["update", "trivialized"] | None = None,
    **options: Any,
) -> _M:
    """Constrain every weight whose name matches a pattern, in place.

    Parameters
    ----------
    model : nn.Module
        The model.
    constraints : mapping from str to constraint
        Shell patterns for dotted names, such as ``"*.weight_hh_l*"``. If several patterns match a weight, the first one
        applies. For weights of stacked matrices pass a `Blocks`, such as ``Blocks(Orthogonal(), blocks=3)``.
    freeze_others : bool
        Whether to freeze all parameters except those of these constraints, as for adapters on a frozen model.
    view : "update" or "trivialized", optional
        As in `constrain`.
    **options
        The other options of `constrain`, the same for all weights.

    Returns
    -------
    nn.Module
        ``model`` itself. In the trivialized view its forward is a `scope`, which computes each weight once.

    Raises
    ------
    OptionError
        If a pattern matches no weight, or only weights that earlier patterns match. If the names of a tied weight have
        different constraints. If ``freeze_others`` is not a bool, and as `constrain`. Then nothing is constrained. The
        message names the weight and its pattern.
    UnsupportedError
        If in the trivialized view only some names of a tied weight match, and as `constrain`.

    Notes
    -----
    One line adds adapters to a pretrained model and freezes all other parameters:
    ``constrain_matching(model, {"*.q_proj.weight": OrthogonalAdapter()}, freeze_others=True)``.

    The weight under an adapter is frozen too: after `release` it has ``requires_grad=False``.

    Tied weights stay tied in both views. In the trivialized view all their names must match.

    Examples
    --------
    >>> model = mr.constrain_matching(torch.nn.Sequential(torch.nn.RNN(2, 3)), {"*.weight_hh_l*": mr.Orthogonal()})
    >>> assert mr.linalg.defect(model[0].weight_hh_l0) < 1e-5
    """
    if not isinstance(freeze_others, bool):
        raise bad_option("freeze_others", "True or False", freeze_others)
    matches = _matches(model, constraints)
    attached: dict[int, Attach] = {}
    computed: list[str] = []
    for name, pattern in matches.items():
        owner, leaf = owner_of(model, name)
        weight, constraint = owner._parameters[leaf], constraints[pattern]
        chosen = Options(chosen_view(constraint, view), **options)
        if chosen.view == "trivialized":
            computed.append(name)
        if chosen.view == "update" or id(weight) not in attached:
            try:
                attached[id(weight)] = prepare(owner, leaf, constraint, chosen)
            except ManifoldError as error:
                raise type(error)(f"{name!r} matches the pattern {pattern!r}.\n{error}"[:400]) from error
    if computed:
        refuse_torn_ties(model, computed)
    owned = [owner_of(model, name) for name in matches]
    for owner, leaf in owned:
        attached[id(owner._parameters[leaf])](owner, leaf)
    if freeze_others:
        for owner, leaf in owned:
            entry_of(owner, leaf).freeze_base()
        trained = {p for owner, leaf in owned for p in entry_of(owner, leaf).trained()}
        for p in model.parameters():
            if p not in trained:
                p.requires_grad_(False)
    return scope(model) if computed else model


def _matches(model: nn.Module, constraints: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the weights to constrain, each with the first pattern that it matches."""
    if not isinstance(constraints, Mapping) or not constraints or not all(isinstance(p, str) for p in constraints):
        raise OptionError(
            "constraints must map patterns to constraints.\n"
            'Expected a mapping with at least one pattern, such as {"*.q_proj.weight": Orthogonal()}.\n'
            f"Got {constraints!r:.100}.\nPass patterns of weight names."
        )
    inside = tuple(
        f"{path}." for path, module in model.named_modules(remove_duplicate=False) if isinstance(module, Registry)
    )
    axes = {n: p.ndim for n, p in model.named_parameters(remove_duplicate=False) if not n.startswith(inside)}
    by_weight: dict[str, str] = {}
    for pattern in constraints:
        hits = [n for n in axes if fnmatchcase(n, pattern) or fnmatchcase(f".{n}", pattern)]
        if not hits:
            raise _no_match(pattern, axes)
        if by_weight.keys() >= set(hits):
            raise OptionError(
                f"Each pattern must match a weight that no earlier pattern matches; {pattern!r:.80} matches none.\n"
                f"The earlier pattern {by_weight[hits[0]]!r:.80} matches {hits[0]!r:.100}.\n"
                "Put the narrower pattern first, or remove one."
            )
        by_weight = dict.fromkeys(hits, pattern) | by_weight
    once = {owner_of(model, name): name for name in reversed(by_weight)}  # a module may have two names
    matches = {name: by_weight[name] for name in reversed(once.values())}
    first: dict[nn.Parameter | None, str] = {}
    for (owner, leaf), name in once.items():
        tied = first.setdefault(owner._parameters[leaf], name)
        if key_of(constraints[matches[tied]]) != key_of(constraints[matches[name]]):
            raise OptionError(
                f"{tied!r:.80} and {name!r:.80} are the same parameter, and their patterns have two constraints.\n"
                "Expected the same constraint for all names of a tied weight.\n"
                "Pass the same object for both patterns, or untie the weights."
            )
    return matches


def _no_match(pattern: str, axes: dict[str, int]) -> OptionError:
    names = [name for name, count in axes.items() if count > 1] or list(axes)
    similar = get_close_matches(pattern, names, n=2, cutoff=0.3) or names[:2]
    shown = " and ".join(f"{name!r:.80}" for name in similar) or "none"
    return OptionError(
        f"Each pattern must match a weight; {pattern!r:.80} matches none of {len(axes)}.\n"
        f"Names look like {shown}.\nCorrect or remove the pattern; dict(model.named_parameters()) lists all names."
    )


def degrees_of_freedom(module: nn.Module) -> int:
    r"""Count the real numbers that training can change.

    A constrained weight counts the dimension of its manifold, a complex entry counts 2, and a frozen parameter 0.

    Parameters
    ----------
    module : nn.Module
        The model.

    Returns
    -------
    int

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3, bias=False), "weight", mr.Orthogonal())
    >>> assert mr.degrees_of_freedom(layer) == 3
    """
    dimensions: dict[nn.Parameter, int] = {}
    for entry in module.modules():
        if isinstance(entry, Parametrization):
            dimensions = entry.dimensions() | dimensions  # an entry that contains others comes first and counts them
    return sum(dimensions.get(p, _dimension(p)) for p in module.parameters() if p.requires_grad)


def _dimension(p: nn.Parameter) -> int:
    """Return the real dimension of the set of a parameter, also for a point that `constrain` did not make."""
    manifold = manifold_of(p)
    return real_numbers(p) if manifold is None else manifold.degrees_of_freedom(tuple(p.shape), p.dtype)
