"""Builds networks and constraints from settings."""

import math
import re
import typing
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import torch

from .. import zoo
from ..constraints import constrain_matching, degrees_of_freedom
from ..constraints.constraint import AnyConstraint
from ..errors import ManifoldError, OptionError
from ..nn import Layer, init
from ..nn.cells import Cell
from ..nn.options import require_recurrent_matrix
from ..tasks.memory import MemoryNeededError, require_memory
from ..zoo import Network
from .choices import Builder, cells, members, named_constraint, require, require_choice, required, takes
from .settings import NetworkSettings, RunSettings
from .values import Value, Values

_LARGE, _SMALL = 4096, (32, 64, 128)  # hidden sizes: memory is estimated above _LARGE, from these small sizes
_CONSTRAINED_RATE = 0.1  # the ratio of learning rates that the literature recommends


def build_network(
    settings: NetworkSettings, input_size: int, output_size: int, *, dtype: torch.dtype = torch.float32
) -> Network:
    """Build the network that settings describe.

    Parameters
    ----------
    settings : NetworkSettings
        Settings of the network.
    input_size, output_size : int
        Number of features of a time step, and of outputs of the readout.
    dtype : torch.dtype
        Real dtype. Complex weights get the complex dtype of the same precision.

    Returns
    -------
    Network

    Raises
    ------
    ManifoldError
        If the settings do not fit each other or the sizes. The message names the key.

    Examples
    --------
    >>> settings = mr.training.NetworkSettings(cell="LSTM", hidden_size=8, constraint="Orthogonal", gates=["g"])
    >>> network = mr.training.build_network(settings, 2, 3)
    >>> assert network(torch.zeros(4, 5, 2)).shape == (4, 3)
    """
    size, of_size = settings.hidden_size, partial(_of_size, settings, input_size, output_size, dtype)
    try:
        if settings.budget is not None:
            key, needed = "network.budget", 2 * dtype.itemsize * settings.budget
            require_memory(key, needed, "a network", settings.budget)
            with torch.random.fork_rng(devices=[]):
                try:
                    size = closest_hidden_size(of_size, settings.budget)
                except MemoryNeededError as error:
                    expected = "a network that fits into memory"
                    raise OptionError(f"`{key}` needs {expected}. Got {settings.budget}.") from error
        network = of_size(size)
    except ManifoldError:  # kept, because some are RuntimeErrors too
        raise
    except (RuntimeError, MemoryError, OverflowError) as error:
        if type(error) is RuntimeError and not re.search("alloc|overflow", str(error), re.IGNORECASE):
            raise  # only a lack of memory is converted; torch has no class for it
        raise OptionError(f"`network.hidden_size` needs a network that fits into memory. Got {size}.") from error
    network.layer.backend, network.layer.recompute = settings.backend, settings.recompute
    return network


def build_for_run(settings: RunSettings) -> Network:
    """Build the network of a run, with the additions of its methods."""
    task = settings.task
    dtype = torch.float64 if settings.precision == "float64" else torch.float32
    network = build_network(settings.network, task.input_size, task.output_size, dtype=dtype)
    for method in settings.methods():
        method.require_network(settings, network)
        network = method.build(network)
    return network


def _of_size(settings: NetworkSettings, input_size: int, output_size: int, dtype: torch.dtype, size: int) -> Network:
    if size >= _LARGE:
        _require_weights_in_memory(partial(_of_size, settings, input_size, output_size, dtype), size)
    build = _published if settings.zoo is not None else _from_cell
    return build(settings, (input_size, size, output_size), dtype)


def require_run_in_memory(settings: RunSettings, sequences: int) -> None:
    """Raise `OptionError` if the weights, or the inputs and states of a batch, need too much memory."""
    network, task = settings.network, settings.task
    if network.budget is None and network.hidden_size >= _LARGE:
        sized = partial(_of_size, network, task.input_size, task.output_size, torch.float32)
        _require_weights_in_memory(sized, network.hidden_size)
    numbers = task.input_size + (network.hidden_size if network.budget is None and not network.recompute else 0)
    rows = min(settings.batch_size, sequences)
    on_host = settings.accelerator == "cpu" or not torch.cuda.is_available()
    got = f"{rows:,} sequences of {task.length:,} steps"
    require_memory("batch_size", rows * task.length * numbers * 4 * on_host, "a batch", got)


def _require_weights_in_memory(build: Callable[[int], torch.nn.Module], size: int) -> None:
    """Raise `OptionError` if weights and gradients need too much memory, extrapolated from small sizes."""
    needed = 0.0
    with torch.random.fork_rng(devices=[]), suppress(ManifoldError):  # options may not fit the small sizes
        sizes = [sum(tensor.nbytes for tensor in build(small).state_dict().values()) for small in _SMALL]
        needed = 2 * float(np.polyval(np.polyfit(_SMALL, sizes, 2), size))
    require_memory("network.hidden_size", math.ceil(needed), "a network", size)


def build_constraint(value: str | Values, retraction: str | None = None) -> AnyConstraint:
    """Return a manifold or a structured constraint from its name, or from a mapping with its name and options.

    A nested constraint, such as ``top`` of ``block_triangular``, is written in the same way. The retraction is passed
    to the constraint, or to those nested constraints that have one.
    """
    build, options = named_constraint("network.constraint", value)
    inside = [key for key in members(build) if key in options]
    for key in inside:
        member, _ = named_constraint(f"network.constraint.{key}", options[key])
        options[key] = build_constraint(options[key], retraction if takes(member, "retraction") else None)
    if retraction is not None and not inside:
        _require_taken("network.retraction", build, "retraction", f"network.constraint={build.__name__}")
        options["retraction"] = retraction
    return _called(build, **options)


def _is_complex(value: str | Values) -> bool:
    """Whether a constraint, or one nested in it, is for complex matrices only."""
    build, options = named_constraint("network.constraint", value)
    inside = [options[key] for key in members(build) if key in options]
    return getattr(build, "is_complex", None) is True or any(map(_is_complex, inside))


def closest_hidden_size(build: Callable[[int], torch.nn.Module], budget: int) -> int:
    """Return the hidden size for which the number of trained degrees of freedom is closest to a budget.

    ``build`` returns the network for a hidden size. Its degrees of freedom must grow with the size. If two sizes are
    equally close, the smaller one is returned.
    """
    require(budget >= 1, "budget", "an integer of at least 1", budget)

    def next_possible(size: int) -> tuple[int, int]:
        """The next size for which the network can be built, such as a power of 2, and its degrees of freedom."""
        for candidate in range(size, 2 * size):
            try:
                return candidate, _freedom(build, candidate)
            except MemoryNeededError:
                raise
            except ManifoldError:
                continue
        return size, _freedom(build, size)  # raises the error of the builder

    def number(size: int) -> float:
        """The degrees of freedom of the next possible size, infinite if it does not fit into memory."""
        try:
            return next_possible(size)[1]
        except MemoryNeededError:
            return math.inf

    high = 4
    while number(high) < budget:
        high *= 2
    enough = bisect_left(range(high), float(budget), lo=high // 2, key=number)
    sizes = [next_possible(size) for size in (enough - 1, enough) if size >= 2]
    return min(sizes, key=lambda pair: abs(pair[1] - budget))[0]


def _freedom(build: Callable[[int], torch.nn.Module], size: int) -> int:
    """The degrees of freedom of a network. A large one is built without data, if its constraint needs none."""
    if size >= _LARGE:
        with suppress(RuntimeError, ManifoldError), torch.device("meta"):
            return degrees_of_freedom(build(size))
    return degrees_of_freedom(build(size))


def _published(settings: NetworkSettings, sizes: tuple[int, int, int], dtype: torch.dtype) -> Network:
    builder: Callable[..., Network] = getattr(zoo, settings.zoo or "")
    options = _options(builder, settings, f"network.zoo={settings.zoo}", "retraction", "view", "rebase_every")
    return _called(builder, *sizes, dtype=dtype, **options)


def _from_cell(settings: NetworkSettings, sizes: tuple[int, int, int], dtype: torch.dtype) -> Network:
    kind, (input_size, hidden_size, output_size) = cells()[settings.cell or ""], sizes
    cell: Cell = _called(kind, **_options(kind, settings, f"network.cell={settings.cell}", "nonlinearity"))
    constraint = None if settings.constraint is None else build_constraint(settings.constraint, settings.retraction)
    is_complex = cell.complex_by_default or (settings.constraint is not None and _is_complex(settings.constraint))
    if settings.numbers is not None:
        is_complex = settings.numbers == "complex"
    weight_dtype = dtype.to_complex() if is_complex else dtype
    layer = Layer(cell, input_size, hidden_size, settings.num_layers, batch_first=True, dtype=weight_dtype)
    if constraint is None:
        return Network(layer, output_size, rates={})
    require_recurrent_matrix(cell)
    for gate in settings.gates or ():
        require_choice("network.gates", gate, cell.gates)
    moving: Values = {
        "view": settings.view,
        "rebase_every": settings.rebase_every or None,
        "which": None if settings.gates is None else [cell.gates.index(name) for name in settings.gates],
    }
    constrain_matching(layer, {"weight_hh*": constraint}, blocks=len(cell.gates), **moving)
    return Network(layer, output_size, rates=_CONSTRAINED_RATE)


def _options(build: Builder, settings: NetworkSettings, owner: str, *keys: str) -> Values:
    """The options for a builder, with names replaced by cells and initializations, and these further settings."""
    options, hints = dict(settings.options), typing.get_type_hints(build)
    fills = {name.rstrip("_"): getattr(init, name) for name in init.__all__}
    starts = {name: fill for name, fill in fills.items() if len(required(fill)) == 1}  # they need no data
    for key, value in settings.options.items():
        hint = hints.get(key)
        if isinstance(value, str) and isinstance(hint, type) and issubclass(hint, Cell):
            require_choice(f"network.options.{key}", value, cells())
            options[key] = cells()[value]()
        elif isinstance(value, str) and typing.get_origin(hint) is Callable:
            require_choice(f"network.options.{key}", value, starts)
            options[key] = starts[value]
    for key in [key for key in keys if getattr(settings, key) is not None]:
        _require_taken(f"network.{key}", build, key, owner)
        options[key] = getattr(settings, key) or None
    return options


def _require_taken(key: str, build: Builder, option: str, owner: str) -> None:
    require(takes(build, option), key, f"a network with this option, and `{owner}` has none", "a value. Leave it out")


def _called(build: Builder, *arguments: object, **options: object) -> Value:
    """Call a builder, and convert its error about an option to `OptionError`."""
    try:
        return build(*arguments, **options)
    except (TypeError, AttributeError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "dtype")
        reason = str(error).rstrip(".")
        raise OptionError(f"{build.__name__} cannot be built with {shown or 'no options'}: {reason}.") from error
