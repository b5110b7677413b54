"""Networks and constraints from settings."""

import typing
from collections.abc import Callable, Mapping
from typing import Literal

import torch

from .. import zoo
from ..constraints import Constraint, constrain, degrees_of_freedom
from ..constraints.constraint import AnyConstraint
from ..errors import ManifoldError, OptionError
from ..nn import Layer, init
from ..nn.cells import Cell
from ..zoo import Network
from .choices import Builder, cells, members, named_constraint, require, require_choice, takes
from .settings import NetworkSettings
from .values import Value, Values

_CONSTRAINED_RATE = 0.1  # the ratio of learning rates that the literature recommends


def build_network(
    settings: NetworkSettings, input_size: int, output_size: int, *, dtype: torch.dtype = torch.float32
) -> Network:
    """Build the network that settings describe.

    Parameters
    ----------
    settings : NetworkSettings
    input_size, output_size : int
        Features of a time step, and outputs of the readout.
    dtype : torch.dtype
        Real; complex weights have the complex dtype of the same precision.

    Returns
    -------
    Network

    Raises
    ------
    ManifoldError
        If the settings do not fit each other or the sizes.

    Examples
    --------
    >>> settings = mr.training.NetworkSettings(cell="LSTM", hidden_size=8, constraint="Orthogonal", gates=["g"])
    >>> network = mr.training.build_network(settings, 2, 3)
    >>> assert network(torch.zeros(4, 5, 2)).shape == (4, 3)
    """
    build = _published if settings.zoo is not None else _from_cell
    size = settings.hidden_size

    def of_size(hidden_size: int) -> Network:
        return build(settings, (input_size, hidden_size, output_size), dtype)

    try:
        if settings.budget is not None:
            with torch.random.fork_rng(devices=[]):
                size = closest_hidden_size(of_size, settings.budget, guess=size)
        network = of_size(size)
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OptionError(f"`network.hidden_size` needs a network that fits into memory. Got {size}.") from error
    network.layer.backend, network.layer.recompute = settings.backend, settings.recompute
    return network


def build_constraint(value: str | Values, retraction: str | None = None) -> AnyConstraint:
    """Return a manifold or a structured constraint from its name, or from a mapping with the name and options.

    A constraint inside, such as ``top`` of ``block_triangular``, is written in the same way. The retraction is for the
    constraint, or for those inside it that have one.
    """
    build, options = named_constraint("network.constraint", value)
    inside = [key for key in members(build) if key in options]
    for key in inside:
        member, _ = named_constraint(f"network.constraint.{key}", options[key])
        options[key] = build_constraint(options[key], retraction if takes(member, "retraction") else None)
    if retraction is not None and not inside:
        _require_taken("network.retraction", build, "retraction", f"network.constraint={build.__name__}")
        options["retraction"] = retraction
    constraint: AnyConstraint = _called(build, **options)
    return constraint


def _is_complex(value: str | Values) -> bool:
    """Whether a constraint, or one inside it, is for complex matrices only."""
    build, options = named_constraint("network.constraint", value)
    inside = [options[key] for key in members(build) if key in options]
    return getattr(build, "is_complex", None) is True or any(map(_is_complex, inside))


def closest_hidden_size(build: Callable[[int], torch.nn.Module], budget: int, guess: int = 2) -> int:
    """Return the hidden size at which a network comes closest to a number of trained degrees of freedom.

    ``build`` returns the network of a hidden size, whose degrees of freedom must grow with it. ``guess`` is looked at
    first, and returned at once if it has exactly this number. Of two equally close sizes, the smaller is returned.
    """
    require(budget >= 1, "budget", "an integer of at least 1", budget)
    if _next_possible(build, guess) == (guess, budget):
        return guess
    low, high = 2, 4
    while _next_possible(build, high)[1] < budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _next_possible(build, middle)[1] < budget else (low, middle)
    return min((_next_possible(build, size) for size in (low, high)), key=lambda pair: abs(pair[1] - budget))[0]


def _next_possible(build: Callable[[int], torch.nn.Module], size: int) -> tuple[int, int]:
    """The next size for which the network can be built, such as a power of 2, and its degrees of freedom there."""
    for candidate in range(size, 2 * size):
        try:
            return candidate, degrees_of_freedom(build(candidate))
        except ManifoldError:
            continue
    return size, degrees_of_freedom(build(size))  # raises and says what is wrong


def _published(settings: NetworkSettings, sizes: tuple[int, int, int], dtype: torch.dtype) -> Network:
    builder: Callable[..., Network] = getattr(zoo, settings.zoo or "")
    options = _resolved(builder, settings.options)
    for key in ("retraction", "view", "rebase_every"):
        value = getattr(settings, key)
        if value is not None:
            _require_taken(f"network.{key}", builder, key, f"network.zoo={settings.zoo}")
            options[key] = value or None
    return _called(builder, *sizes, dtype=dtype, **options)


def _from_cell(settings: NetworkSettings, sizes: tuple[int, int, int], dtype: torch.dtype) -> Network:
    kind, (input_size, hidden_size, output_size) = cells()[settings.cell or ""], sizes
    options = _resolved(kind, settings.options)
    if settings.nonlinearity is not None:
        _require_taken("network.nonlinearity", kind, "nonlinearity", f"network.cell={settings.cell}")
        options["nonlinearity"] = settings.nonlinearity
    cell: Cell = _called(kind, **options)
    constraint = None if settings.constraint is None else build_constraint(settings.constraint, settings.retraction)
    is_complex = cell.complex_by_default or (settings.constraint is not None and _is_complex(settings.constraint))
    if settings.numbers is not None:
        is_complex = settings.numbers == "complex"
    weight_dtype = dtype.to_complex() if is_complex else dtype
    layer = Layer(cell, input_size, hidden_size, settings.num_layers, batch_first=True, dtype=weight_dtype)
    if constraint is None:
        return Network(layer, output_size, rates={})
    default: Literal["update", "trivialized"] = "trivialized" if isinstance(constraint, Constraint) else "update"
    view = settings.view or default
    which = None if settings.gates is None else [cell.gates.index(name) for name in settings.gates]
    for name in [name for name, _ in layer.named_parameters() if name.startswith("weight_hh")]:
        moving: Values = {"view": view, "rebase_every": settings.rebase_every or None}
        constrain(layer, name, constraint, blocks=len(cell.gates), which=which, **moving)
    return Network(layer, output_size, rates=_CONSTRAINED_RATE)


def _resolved(build: Builder, options: Mapping[str, Value]) -> Values:
    """The options, with the cell or the initialization in place of its name."""
    resolved: Values = dict(options)
    hints = typing.get_type_hints(build)
    for key, value in options.items():
        hint = hints.get(key)
        if isinstance(value, str) and isinstance(hint, type) and issubclass(hint, Cell):
            require_choice(f"network.options.{key}", value, cells())
            resolved[key] = cells()[value]()
        elif isinstance(value, str) and typing.get_origin(hint) is Callable:
            starts = {name.rstrip("_"): getattr(init, name) for name in init.__all__}
            require_choice(f"network.options.{key}", value, starts)
            resolved[key] = starts[value]
    return resolved


def _is_out_of_memory(error: Exception) -> bool:
    mentions_memory = any(word in str(error) for word in ("allocat", "Alloc", "overflow"))  # torch has no class for it
    return isinstance(error, (MemoryError, OverflowError)) or (type(error) is RuntimeError and mentions_memory)


def _require_taken(key: str, build: Builder, option: str, owner: str) -> None:
    require(takes(build, option), key, f"a network that has it, which `{owner}` has not", "a value; leave it out")


def _called(build: Builder, *arguments: object, **options: object) -> Value:
    """Call a builder, and turn its complaint about an option into `OptionError`."""
    try:
        return build(*arguments, **options)
    except (TypeError, AttributeError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "dtype")
        name = getattr(build, "__name__", "it")
        raise OptionError(f"{name} cannot be built with {shown or 'no options'}: {error}.") from error
