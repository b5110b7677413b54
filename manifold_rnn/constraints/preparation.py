"""Everything that can go wrong with a constraint, found out before anything is changed."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import geoopt
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ..errors import OptionError, ShapeError, UnsupportedError
from ..manifolds import Manifold, Viewed, adapt
from . import reading, update
from .admission import require_finite, settled
from .registry import registry
from .structured import Constraint, structured_form
from .trivialization import Trivialization

Attach = Callable[[nn.Module, str], None]
MatrixDims = tuple[int | Sequence[int], int | Sequence[int]]


@dataclass(frozen=True)
class Options:
    """The options of `constrain`."""

    view: str = "update"
    rebase_every: int | None = None
    blocks: int = 1
    which: Sequence[int] | None = None
    matrix_dims: MatrixDims | None = None
    init: str | Callable[[Tensor], Tensor] = "keep"
    on_load: str = "raise"

    def __post_init__(self) -> None:
        for name, known in (("view", ("update", "trivialized")), ("on_load", ("raise", "project"))):
            if getattr(self, name) not in known:
                raise _bad_option(name, f"one of {', '.join(map(repr, known))}", getattr(self, name))
        if not callable(self.init) and self.init not in ("keep", "haar"):
            raise _bad_option("init", "'keep', 'haar' or a callable", self.init)
        if self.rebase_every is None:
            return
        if type(self.rebase_every) is not int or self.rebase_every < 1 or self.view == "update":
            expected = "None, or with view='trivialized' a whole number from 1 up"
            raise _bad_option("rebase_every", expected, self.rebase_every)


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Split a dotted name into the module that owns the weight and the name there."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


@torch.no_grad()
def prepare(module: nn.Module, name: str, constraint: Any, options: Options) -> Attach:
    """Return what constrains the weight, with its starting value ready; ``module`` is left alone."""
    weight = _free_parameter(module, name)
    constraint = structured_form(constraint)
    if isinstance(constraint, geoopt.Manifold):
        options = _read_as_matrices(module, name, weight, options)
        return _on_manifold(module, name, weight, _fitted(constraint, weight, options, name), options)
    if isinstance(constraint, Constraint) and not isinstance(constraint, type):
        return _structured(weight, constraint, options)
    raise _bad_option("constraint", "a manifold such as Orthogonal(), or a structured constraint", constraint)


def _on_manifold(module: nn.Module, name: str, weight: nn.Parameter, manifold: Manifold, options: Options) -> Attach:
    value = settled(manifold, _start(manifold, weight, options))
    if options.view == "update":
        entry = update.Update(name, manifold, options.on_load)
        return lambda owner, _: update.attach(owner, entry, value)
    free = Trivialization(manifold, value, rebase_every=options.rebase_every, on_load=options.on_load)
    free.coordinates.requires_grad_(
        weight.requires_grad
    )  # a parameter of the manifold, such as a curvature, has its own
    return lambda owner, leaf: reading.attach(owner, leaf, free)


def _structured(weight: nn.Parameter, constraint: Constraint, options: Options) -> Attach:
    reading_options = options.blocks != 1 or options.which is not None or options.matrix_dims is not None
    if options.view != "trivialized" or options.rebase_every or reading_options:
        raise UnsupportedError(
            f"{type(constraint).__name__} is a structured constraint: it builds its weight from free parameters.\n"
            "Expected view='trivialized' without rebase_every, blocks, which or matrix_dims; "
            f"got {options.view!r}.\n"
            "Change the options, or constrain to a manifold."
        )
    start = _start(getattr(constraint, "manifold", None), weight, options)
    entry = constraint.trivialize(start).requires_grad_(weight.requires_grad)
    return lambda owner, leaf: reading.attach(owner, leaf, entry)


def _start(manifold: Manifold | None, weight: Tensor, options: Options) -> Tensor:
    weight = weight.detach()
    if callable(options.init):
        start = options.init(weight.clone())
        if not isinstance(start, Tensor) or start.shape != weight.shape:
            raise _bad_option("init", f"a callable that returns a tensor of shape {tuple(weight.shape)}", start)
        start = start.detach().to(weight)
        require_finite(start, "the result of init")
        return start
    if options.init == "keep":
        return weight.clone()
    if manifold is None:
        raise _bad_option("init", "'keep' or a callable, as this constraint knows no random point", options.init)
    random: Tensor = manifold.random(*weight.shape, dtype=weight.dtype, device=weight.device)
    if isinstance(manifold, Viewed):
        return manifold.join(manifold.split(random)[0], manifold.split(weight)[1], weight.shape)
    return random


def _fitted(constraint: geoopt.Manifold, weight: Tensor, options: Options, name: str) -> Manifold:
    inner = adapt(constraint)
    dims = options.matrix_dims or (-2, -1)
    plain = options.blocks == 1 and options.which is None and options.matrix_dims is None
    manifold = inner if plain else Viewed(inner, options.blocks, options.which, matrix_dims=dims)
    weight = weight.detach()
    if not weight.is_meta:
        require_finite(weight, name)
    try:
        _require(manifold, weight, name)
    except (ShapeError, ValueError):
        if weight.ndim < 2:
            raise
        turned = Viewed(inner, options.blocks, options.which, matrix_dims=dims, transpose=True)
        with suppress(ShapeError, ValueError):  # wide matrices have orthonormal rows
            _require(turned, weight, name)
            return turned
        raise
    return manifold


def _require(manifold: Manifold, weight: Tensor, name: str) -> None:
    if not weight.is_meta:
        manifold.require(weight, name)
        return
    ok, reason = manifold._check_shape(tuple(weight.shape), name)
    if not ok:
        raise ShapeError(f"{reason}.\nThe weight is on the meta device, and only its shape is known.\nCheck its sizes.")


def _read_as_matrices(module: nn.Module, name: str, weight: Tensor, options: Options) -> Options:
    """Count axes from the end, and read the kernel of a convolution as one matrix a group."""
    dims, blocks = options.matrix_dims, options.blocks
    if dims is None and isinstance(module, _ConvNd) and weight.ndim > 2:
        dims = (0, tuple(range(1, weight.ndim)))
        blocks = module.groups if blocks == 1 and options.which is None else blocks
    if dims is None:
        return options
    rows, columns = (_from_the_end(axes, weight.ndim, name) for axes in _two(dims))
    return replace(options, matrix_dims=(rows, columns), blocks=blocks)


def _two(dims: Any) -> tuple[Any, Any]:
    if not isinstance(dims, Sequence) or len(dims) != 2:
        raise _bad_option("matrix_dims", "a pair (axes of the rows, axes of the columns)", dims)
    return dims[0], dims[1]


def _from_the_end(axes: Any, ndim: int, name: str) -> tuple[int, ...]:
    axes = (axes,) if isinstance(axes, int) else axes
    if not isinstance(axes, Sequence) or not all(isinstance(k, int) and -ndim <= k < ndim for k in axes):
        raise _bad_option("matrix_dims", f"axes from {-ndim} to {ndim - 1} of {name!r}", axes)
    return tuple(k if k < 0 else k - ndim for k in axes)


def _free_parameter(module: nn.Module, name: str) -> nn.Parameter:
    weight = module._parameters.get(name)
    if weight is None or name in (registry(module) or {}):
        free = [key for key, p in module._parameters.items() if p is not None and key not in (registry(module) or {})]
        raise OptionError(
            f"{name!r} must be a parameter of {type(module).__name__} that is not constrained yet.\n"
            f"Expected one of: {', '.join(free) or 'it has none'}.\nCheck the name, or release it first."
        )
    update.refuse_sharded(weight, name)
    if is_lazy(weight):
        raise UnsupportedError(
            f"{name!r} is lazy and has no shape yet.\nExpected a parameter with a value, got {type(weight).__name__}.\n"
            "Run one forward first."
        )
    return weight


def _bad_option(name: str, expected: str, got: object) -> OptionError:
    shown = f"a tensor of shape {tuple(got.shape)}" if isinstance(got, Tensor) else repr(got)[:80]
    return OptionError(f"{name} has a value that constrain does not know.\nExpected {expected}.\nGot {shown}.")
