"""Checks for everything that can go wrong with a constraint, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias, cast

import geoopt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ..errors import ManifoldError, OptionError, ShapeError, UnsupportedError
from ..linalg.checks import require_finite
from ..manifolds import BlockLayout, Blocks, Manifold, adapt, manifold_of
from ..manifolds.adapted import Point
from ..manifolds.group import MatrixGroup
from . import computed_weight, update
from .assembled import Assembled
from .constraint import AnyConstraint, Constraint
from .membership import projected
from .options import Options, bad_option
from .parametrization import Parametrization
from .registry import entries
from .trivialized import Trivialization

Attach = Callable[[nn.Module, str], None]
Group: TypeAlias = tuple[Sequence[int] | None, AnyConstraint]


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Split a dotted name into the module that owns the weight and the weight's name in it."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


@torch.no_grad()
def prepare(
    module: nn.Module, name: str, constraint: AnyConstraint | Mapping[int, AnyConstraint], options: Options
) -> Attach:
    """Return a function that attaches the constraint, with the starting weight computed. ``module`` is not changed."""
    weight = _free_parameter(module, name)
    try:
        return _prepared(module, name, weight, constraint, options)
    except ShapeError as error:
        if not (blocks := _square_blocks(weight, options)):
            raise
        with suppress(ManifoldError):
            _prepared(module, name, weight, constraint, replace(options, blocks=blocks, init="keep"))
            error = ShapeError(f"{error}\nOr pass blocks={blocks} to constrain the {blocks} square matrices in it.")
        raise error from None


def _prepared(
    module: nn.Module,
    name: str,
    weight: nn.Parameter,
    constraint: AnyConstraint | Mapping[int, AnyConstraint],
    options: Options,
) -> Attach:
    if isinstance(constraint, Constraint):
        constraint = constraint.fitted(module, name)
    if not (isinstance(constraint, Constraint) and constraint.reads_whole_weight):
        options = options.for_weight(module, name, weight)
    if options.view == "trivialized":
        _refuse_computed(module, name, weight)
    groups = _groups(constraint, options)
    _refuse_parts(groups, options)
    which, first = groups[0]
    if len(groups) == 1 and isinstance(first, geoopt.Manifold):
        manifold = _fitted(adapt(first), which, weight, options, name)
        return _on_manifold(module, name, weight, manifold, options)
    if options.view != "trivialized":
        raise UnsupportedError(
            "A structured constraint, or blocks with different constraints, need the trivialized view.\n"
            f'Expected view="trivialized", got view={options.view!r} with {_shown(groups)}.\n'
            "Change the view, or constrain to a manifold."
        )
    if len(groups) == 1 and options.reads_whole_matrices:
        if options.rebase_every is not None:
            raise UnsupportedError(
                f"{type(first).__name__} is a structured constraint, which has no base to move.\n"
                f"Expected rebase_every=None, got {options.rebase_every}.\nLeave it out, or constrain to a manifold."
            )
        return _computed(weight, first, options)
    try:
        return _computed(weight, _assembled(groups, options), options)
    except ShapeError:
        with suppress(ShapeError):  # wide blocks have orthonormal rows
            return _computed(weight, _assembled(groups, options, transpose=True), options)
        raise


def _square_blocks(weight: Tensor, options: Options) -> int:
    """Return the number of square matrices stacked in the rows, such as the gates of an LSTM; 0 if there are none."""
    rows, columns = weight.shape if weight.ndim == 2 and options.reads_whole_matrices else (0, 0)
    return rows // columns if columns and rows > columns and rows % columns == 0 else 0


# --- which blocks of the weight are under which constraint ---


def _groups(constraint: AnyConstraint | Mapping[int, AnyConstraint], options: Options) -> list[Group]:
    """Return the blocks of each constraint, grouped by object or by equal manifolds; None means all blocks."""
    if not isinstance(constraint, Mapping):
        return [(options.which, _require_constraint(constraint))]
    numbers = range(options.blocks) if isinstance(options.blocks, int) else range(0)
    if not constraint or options.which is not None or not set(constraint) <= set(numbers):
        expected = f"a mapping from some of the blocks 0 to {len(numbers) - 1} to constraints, and no which="
        raise bad_option("constraint", expected, {k: type(member).__name__ for k, member in constraint.items()})
    groups: dict[object, tuple[list[int], AnyConstraint]] = {}
    for block, member in constraint.items():
        groups.setdefault(key_of(member), ([], _require_constraint(member)))[0].append(block)
    return [(tuple(blocks), member) for blocks, member in groups.values()]


def key_of(constraint: object) -> Hashable:
    """Return a key that is equal for equal manifolds, and for the same object."""
    return adapt(constraint).key() if isinstance(constraint, geoopt.Manifold) else id(constraint)


def _refuse_parts(groups: Sequence[Group], options: Options) -> None:
    """Raise if a constraint of whole weights is given only a part of one."""
    for which, member in groups:
        whole = isinstance(member, Constraint) and member.reads_whole_weight
        if whole and not (which is None and options.reads_whole_matrices):
            expected = f"no block numbers, blocks= or matrix_dims=, since {_shown(groups)} takes the whole weight"
            passed = {"block": which, "blocks": options.blocks, "matrix_dims": options.matrix_dims}
            neutral = {"block": None, "blocks": 1, "matrix_dims": None}
            raise bad_option("constraint", expected, {k: v for k, v in passed.items() if v != neutral[k]})


def _require_constraint(constraint: AnyConstraint) -> AnyConstraint:
    if not isinstance(constraint, geoopt.Manifold | Constraint):
        raise bad_option("constraint", "a manifold such as Orthogonal(), or a structured constraint", constraint)
    return constraint


def _shown(groups: Sequence[Group]) -> str:
    return ", ".join(type(member).__name__ for _, member in groups)


def _fitted(manifold: Manifold, which: Sequence[int] | None, weight: Tensor, options: Options, name: str) -> Manifold:
    """Return the manifold of the whole weight; wide matrices are transposed for manifolds of tall matrices."""
    weight, dims = weight.detach(), options.matrix_dims or (-2, -1)
    require_finite(weight, name)
    if options.init != "keep":  # another weight replaces it, so zeros in it do not matter
        weight = torch.ones_like(weight)
    plain = options.reads_whole_matrices and which is None
    fitted = manifold if plain else Blocks(manifold, options.blocks, which, matrix_dims=dims)
    try:
        fitted.require(weight, name)
    except (ShapeError, ValueError) as error:
        other_fault = isinstance(error, ManifoldError) and not isinstance(error, ShapeError)  # such as a row of zeros
        if weight.ndim < 2 or other_fault:
            raise
        transposed = Blocks(manifold, options.blocks, which, matrix_dims=dims, transpose=True)
        with suppress(ShapeError, ValueError):  # wide matrices have orthonormal rows
            transposed.require(weight, name)
            return transposed
        if not plain and isinstance(manifold, MatrixGroup):
            raise ShapeError(f"{error}\nOr use Stiefel() for blocks that are not square.") from None
        raise
    return fitted


def _assembled(groups: Sequence[Group], options: Options, *, transpose: bool = False) -> Assembled:
    chosen = None if groups[0][0] is None else [() if which is None else which for which, _ in groups]
    layout = BlockLayout.choose(options.blocks, chosen, options.matrix_dims or (-2, -1), transpose)
    members = [*(member for _, member in groups), *([None] if layout.free else [])]
    return Assembled(layout, members, options.rebase_every)


# --- the parametrization, with its starting value ---


def _on_manifold(module: nn.Module, name: str, weight: nn.Parameter, manifold: Manifold, options: Options) -> Attach:
    value = projected(manifold, _start(manifold.random_like, weight, options))
    if options.view == "update":
        _refuse_other(weight, name, manifold)
        entry = update.Update(module, name, manifold, options.on_load)
        return lambda owner, _: update.attach(owner, entry, value)
    free = Trivialization(manifold, value, rebase_every=options.rebase_every)
    free.on_load = options.on_load
    free.coordinates.requires_grad_(
        weight.requires_grad
    )  # a parameter of the manifold, such as a curvature, has its own requires_grad
    return lambda owner, leaf: computed_weight.attach(owner, leaf, free)


def _computed(weight: nn.Parameter, constraint: AnyConstraint, options: Options) -> Attach:
    assert isinstance(constraint, Constraint)
    entry = _trivialized(constraint, _start(constraint.random_like, weight, options))
    for part in entry.modules():
        if isinstance(part, Parametrization):
            part.on_load = options.on_load
    if not weight.requires_grad:
        entry.freeze()
    return lambda owner, leaf: computed_weight.attach(owner, leaf, entry)


def _trivialized(constraint: Constraint, start: Tensor) -> Parametrization:
    try:
        return constraint.trivialize(start)
    except (RuntimeError, TypeError) as error:
        if isinstance(error, ManifoldError) or not start.is_meta:
            raise
        raise UnsupportedError(
            f"{type(constraint).__name__} computes its free parameters from the values of the weight.\n"
            "Expected a weight with values, got one on the meta device.\n"
            'Constrain it after to_empty(device="cpu"), or build the module on a device.'
        ) from error


def _start(random_like: Callable[[Tensor], Tensor], weight: Tensor, options: Options) -> Tensor:
    weight = weight.detach()
    if options.init == "keep":
        return weight.clone()
    if options.init == "haar":
        return random_like(weight).clone()
    start = cast(Callable[[Tensor], object], options.init)(weight.clone())
    if not isinstance(start, Tensor) or start.shape != weight.shape:
        raise bad_option("init", f"a callable that returns a tensor of shape {tuple(weight.shape)}", start)
    start = start.detach().to(weight)
    require_finite(start, "the result of init")
    return start


# --- what cannot be constrained ---


def _refuse_computed(module: nn.Module, name: str, weight: nn.Parameter) -> None:
    """Raise for a weight that must stay a parameter, so that only the update view may constrain it."""
    _refuse_other(weight, name, None)
    if weight._post_accumulate_grad_hooks:
        raise UnsupportedError(
            f"{name!r} has hooks of register_post_accumulate_grad_hook, which run only on parameters.\n"
            'Expected no such hooks, since with view="trivialized" the weight is computed.\n'
            "Remove them, and register them on the free parameters after constrain."
        )
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
        raise UnsupportedError(
            f"{type(module).__name__} has sparse gradients, which cannot reach the parameters of a computed weight.\n"
            'Expected sparse=False with view="trivialized".\n'
            'Set sparse=False, or use view="update" with an optimizer for sparse gradients.'
        )


def _refuse_other(weight: nn.Parameter, name: str, manifold: Manifold | None) -> None:
    """Raise if another module constrains the same parameter, to another manifold or in the update view only."""
    if not isinstance(weight, Point):
        return
    known = manifold_of(weight)
    if known is None or (manifold is not None and known.key() == manifold.key()):
        return
    chosen = 'view="trivialized"' if manifold is None else str(manifold)
    raise OptionError(
        f"{name!r} is tied to a weight that is already constrained to {known!s:.80} in the update view.\n"
        f"Expected the same manifold and view for all names of a parameter, got {chosen:.80}.\n"
        "Pass the same manifold object, or release the other weight first."
    )


def refuse_torn_ties(model: nn.Module, names: Collection[str]) -> None:
    """Raise if a weight in ``names`` has another name in ``model``: constraining it would untie the two."""
    owned = {name: owner_of(model, name) for name in names}
    chosen = {id(owner._parameters[leaf]): name for name, (owner, leaf) in owned.items()}
    for other, p in model.named_parameters(remove_duplicate=False):
        if id(p) in chosen and owner_of(model, other) not in owned.values():  # one module may have two names
            raise UnsupportedError(
                f"{chosen[id(p)]!r} is tied to {other!r}, which would no longer follow it.\n"
                "Expected, in the trivialized view, a weight that is not tied, or all its names at once.\n"
                'Call constrain_matching with patterns for all of them, or use view="update".'
            )


def _parametrizations(module: nn.Module, name: str) -> str:
    chain = cast(nn.ModuleDict, module.parametrizations)[name]
    return ", ".join(type(part).__name__ for part in cast(nn.ModuleList, chain))


def _free_parameter(module: nn.Module, name: str) -> nn.Parameter:
    weight, held = module._parameters.get(name), entries(module)
    if is_parametrized(module, name) and name not in held:
        raise OptionError(
            f"{name!r} of {type(module).__name__} is computed by another parametrization.\n"
            f"Expected a parameter, got {_parametrizations(module, name)}.\n"
            f"Call torch.nn.utils.parametrize.remove_parametrizations(module, {name!r}) first."
        )
    if weight is None or name in held:
        free = [key for key, p in module._parameters.items() if p is not None and key not in held]
        raise OptionError(
            f"{name!r} must be a parameter of {type(module).__name__} that is not constrained yet.\n"
            f"Expected one of: {', '.join(free) or 'it has none'}.\nCheck the name, or release it first."
        )
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise UnsupportedError(
            f"The constraint of {name!r} would become a member of {type(module).__name__}, a container of modules.\n"
            "Expected an owner that is no Sequential, ModuleList or ModuleDict.\n"
            "Move the parameter into a module of its own, or derive the class from torch.nn.Module."
        )
    update.refuse_sharded(weight, name)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and name == "weight" and module.max_norm is not None:
        raise UnsupportedError(
            f"max_norm of {type(module).__name__} rescales rows at each look-up, which moves the weight off its set.\n"
            f"Expected max_norm=None, got {module.max_norm}.\n"
            "Leave max_norm out: the rows of a matrix with orthonormal columns have norms of at most 1."
        )
    if is_lazy(weight):
        raise UnsupportedError(
            f"{name!r} is lazy and has no shape yet.\nExpected a parameter with a value, got {type(weight).__name__}.\n"
            "Run one forward first."
        )
    return weight
