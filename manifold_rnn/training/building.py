"""Networks from settings: one of the zoo, or a cell with a constraint and a readout."""

from collections.abc import Callable
from typing import Any

import torch

from .. import zoo
from ..constraints import Constraint, block_triangular, constrain
from ..errors import OptionError
from ..manifolds import BlockTriangular
from ..nn import Layer, cells
from ..zoo import Network
from .catalogue import CELLS, CONSTRAINTS, STARTS, takes
from .run_parts import NetworkSettings, require_name

_CONSTRAINED_RATE = 0.1  # the ratio of rates that the literature recommends
_FREE = ("cornn", "lem", "nonnormal", "nru")  # networks of the zoo without constraint
_NESTED = ("manifold", "top", "bottom")  # options that are constraints themselves


def build_network(
    settings: NetworkSettings, input_size: int, output_size: int, *, dtype: torch.dtype = torch.float32
) -> Network:
    """Build the network that settings describe.

    Parameters
    ----------
    settings : NetworkSettings
    input_size, output_size : int
        Features of a step, and outputs of the readout.
    dtype : torch.dtype
        Real; complex weights have its complex form.

    Returns
    -------
    Network

    Raises
    ------
    ManifoldError
        If the settings do not fit each other, or not the sizes.

    Examples
    --------
    >>> settings = mr.training.NetworkSettings(cell="lstm", hidden_size=8, constraint="orthogonal", gates=["g"])
    >>> network = mr.training.build_network(settings, 2, 3)
    >>> assert network(torch.zeros(4, 5, 2)).shape == (4, 3)
    """
    build = _published if settings.zoo is not None else _from_cell
    try:
        network = build(settings, input_size, output_size, dtype)
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not _is_too_large(error):
            raise
        raise OptionError(
            f"network.hidden_size and the options need a network that fits into memory. Got {settings.hidden_size}."
        ) from error
    layer: Any = network.layer
    layer.backend, layer.recompute = settings.backend, settings.recompute
    return network


def _published(settings: NetworkSettings, input_size: int, output_size: int, dtype: torch.dtype) -> Network:
    builder: Callable[..., Network] = getattr(zoo, settings.zoo or "")
    options = dict(settings.options)
    for key in ("retraction", "view", "rebase_every"):
        value = getattr(settings, key)
        if value is not None:
            _require_taken(f"network.{key}", builder, key, f"network.zoo={settings.zoo}")
            options[key] = value or None
    if isinstance(start := options.get("angles"), str):
        require_name("network.options.angles", start, STARTS)
        options["angles"] = STARTS[start]
    return _called(builder, input_size, settings.hidden_size, output_size, dtype=dtype, **options)


def _from_cell(settings: NetworkSettings, input_size: int, output_size: int, dtype: torch.dtype) -> Network:
    kind = CELLS[settings.cell or ""]
    options = dict(settings.options)
    if settings.nonlinearity is not None:
        _require_taken("network.nonlinearity", kind, "nonlinearity", f"network.cell={settings.cell}")
        options["nonlinearity"] = settings.nonlinearity
    if isinstance(host := options.get("host"), str):
        require_name("network.options.host", host, CELLS)
        options["host"] = CELLS[host]()
    cell: cells.Cell = _called(kind, **options)
    complex_ = settings.numbers == "complex" or (settings.numbers is None and _is_complex(settings))
    layer = Layer(
        cell,
        input_size,
        settings.hidden_size,
        settings.num_layers,
        batch_first=True,
        dtype=dtype.to_complex() if complex_ else dtype,
    )
    if settings.constraint is None:
        return Network(layer, output_size, rates={})
    _constrain(layer, settings)
    return Network(layer, output_size, rates=_CONSTRAINED_RATE)


def _constrain(layer: Layer, settings: NetworkSettings) -> None:
    constraint = build_constraint(settings.constraint or "", settings.constraint_options, settings.retraction)
    gates = layer.cell.gates
    which = None if settings.gates is None else [gates.index(name) for name in settings.gates]
    view = settings.view or ("trivialized" if _trivialized_only(constraint) else "update")
    for name in [name for name, _ in layer.named_parameters() if name.startswith("weight_hh")]:
        options: dict[str, Any] = {"view": view, "rebase_every": settings.rebase_every or None, "blocks": len(gates)}
        constrain(layer, name, constraint, which=which, **options)


def build_constraint(name: str, options: dict[str, Any], retraction: str | None = None) -> Any:
    """Return a manifold or a structured constraint by its name.

    Parameters
    ----------
    name : str
        Such as ``"unit_disc"``.
    options : dict
        What its class takes, by name; constraints inside, such as ``top`` of ``"block_triangular"``, by theirs.
    retraction : str, optional
        For the constraint, or for those inside it.

    Returns
    -------
    geoopt.Manifold or Constraint

    Raises
    ------
    OptionError
        If something named is unknown, or the constraint has no retraction to choose.

    Examples
    --------
    >>> from manifold_rnn.training.building import build_constraint
    >>> blocks = build_constraint("block_triangular", {"top": "orthogonal", "bottom": "sticky_disc"}, "exp")
    >>> assert blocks.top.retraction.name == "exp"
    """
    require_name("network.constraint", name, CONSTRAINTS)
    kind, options = CONSTRAINTS[name], dict(options)
    inside = [key for key in _NESTED if takes(kind, key)]
    for key in inside:
        if isinstance(options.get(key), str):
            part = CONSTRAINTS.get(options[key])
            own = retraction if part is not None and takes(part, "retraction") else None
            options[key] = build_constraint(options[key], {}, own)
    if retraction is not None and not inside:
        _require_taken("network.retraction", kind, "retraction", f"network.constraint={name}")
        options["retraction"] = retraction
    return _called(block_triangular if kind is BlockTriangular else kind, **options)


def _trivialized_only(constraint: Any) -> bool:
    return isinstance(constraint, Constraint)


def _is_complex(settings: NetworkSettings) -> bool:
    constraint: Any = CONSTRAINTS.get(settings.constraint or "")
    return settings.cell == "lru" or bool(constraint is not None and constraint.is_complex)


def constrains(settings: NetworkSettings) -> bool:
    """Return whether the network that settings describe has constrained weights.

    Examples
    --------
    >>> from manifold_rnn.training.building import constrains
    >>> assert constrains(mr.training.NetworkSettings(zoo="scornn"))
    >>> assert not constrains(mr.training.NetworkSettings(cell="lstm"))
    """
    if settings.zoo is None:
        return settings.constraint is not None
    hosted = settings.zoo == "momentum" and settings.options.get("host", "lstm") == "lstm"
    return not hosted and settings.zoo not in _FREE


def _is_too_large(error: Exception) -> bool:
    said = any(word in str(error) for word in ("allocat", "Alloc", "overflow"))  # torch has no class of its own for it
    return isinstance(error, (MemoryError, OverflowError)) or (type(error) is RuntimeError and said)


def _require_taken(key: str, build: Callable[..., Any], option: str, of: str) -> None:
    if not takes(build, option):
        raise OptionError(f"{key} has no meaning with {of}.\nExpected null, got a value.\nLeave it out.")


def _called(build: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a builder; what it does not know what to do with is an option of the settings."""
    try:
        return build(*arguments, **options)
    except (TypeError, AttributeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "dtype")
        raise OptionError(f"{build.__name__} cannot be made with {given or 'no options'}: {error}.") from error
