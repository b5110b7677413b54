"""Pruning: the smaller layer without closed units."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from .._torch import drop_hook
from ..constraints import release
from ..constraints.registry import entries
from ..errors import OptionError, UnsupportedError
from .gating import GatedInput, gated_layers, owns
from .layer import Layer
from .unit_gates import LayerGates

_M = TypeVar("_M", bound=nn.Module)


def open_units(layer: Layer) -> dict[str, Tensor]:
    """Return the indices of the units that `prune` keeps, by the suffix of their level and direction.

    Parameters
    ----------
    layer : Layer
        Layer with gates.

    Returns
    -------
    dict from str to Tensor
        Indices in ascending order. All levels and directions of a layer have the same hidden size, that of the level
        with the most open units. The other levels also keep the closed units with the largest gates. Of equal gates,
        the first ones are kept.

    Raises
    ------
    OptionError
        If the layer has no gates.
    NonFiniteError
        If a gate is NaN.

    Examples
    --------
    >>> layer = mr.nn.gate_units(mr.nn.GRU(2, 4))
    >>> _ = layer.unit_gates["l0"].log_alpha.data.copy_(torch.tensor([1.0, -4.0, 2.0, -4.0]))
    >>> assert mr.nn.open_units(layer)["_l0"].tolist() == [0, 2]
    """
    (_, gates), *_ = gated_layers(layer)
    gates.require_numbers()
    units = {suffix: gates.units(suffix) for suffix in layer.suffixes}
    size = max(len(each.open()) for each in units.values())
    return {suffix: each.largest(size).sort().values for suffix, each in units.items()}


@torch.no_grad()
def prune(module: _M) -> _M:
    """Return a copy without the closed units. Its layers are smaller and have plain dense weights.

    The open gates are multiplied into the weights. A constrained weight becomes a plain parameter with its current
    value.

    Parameters
    ----------
    module : nn.Module
        A gated layer, or any module that contains gated layers, such as a `manifold_rnn.zoo.Network`. It is not
        changed.

    Returns
    -------
    nn.Module
        The pruned copy. For the same inputs, a pruned layer has the outputs and states of the gated layer in
        evaluation, at the `open_units`. A module that reads the layer through a gated readout has the same outputs.

    Raises
    ------
    OptionError
        If no layer inside has gates, or no module of a container reads the gated layer through them.
    UnsupportedError
        If another tool, such as weight_norm or LoRA, computes a weight of a gated layer or of its readout.
    NonFiniteError
        If a gate is NaN.

    Notes
    -----
    Closed input features keep their columns, which are 0, so the input size does not change. A readout keeps the
    columns of the open units. Build a new optimizer for the copy.

    Examples
    --------
    >>> network = mr.zoo.Network(mr.nn.LSTM(3, 8, batch_first=True), 2).eval()
    >>> _ = mr.nn.gate_units(network.layer, network.readout)
    >>> _ = network.layer.unit_gates["l0"].log_alpha.data[2:].fill_(-4.0)
    >>> smaller, x = mr.nn.prune(network), torch.randn(5, 7, 3)
    >>> assert smaller.layer.hidden_size == 2 and torch.allclose(smaller(x), network(x), atol=1e-6)
    """
    return _without_gates(module, open_units)


@torch.no_grad()
def folded(module: _M) -> _M:
    """Return a copy with the gates multiplied into plain dense weights. No unit is removed."""
    return _without_gates(module, _all_units)


def _all_units(layer: Layer) -> dict[str, Tensor]:
    device = layer.get_parameter("weight_ih_l0").device
    return {suffix: torch.arange(layer.hidden_size, device=device) for suffix in layer.suffixes}


def _without_gates(module: _M, units: Callable[[Layer], dict[str, Tensor]]) -> _M:
    """A copy with the gates multiplied into the weights of the kept units."""
    for _, gates in gated_layers(module):
        gates.require_numbers()
    _require_readers(module)
    _require_own_weights(module)
    pruned = copy.deepcopy(module)
    for layer, gates in list(gated_layers(pruned)):
        kept = units(layer)
        for part, hook in _readers(pruned, gates):
            _shrink_readout(part, hook, [kept[suffix] for suffix in layer.suffixes[-len(layer.directions) :]])
        _shrink(layer, gates, kept)
    return pruned


def _readers(module: nn.Module, gates: LayerGates) -> list[tuple[nn.Module, GatedInput]]:
    """The modules inside a module that read a layer through its gates."""
    hooks = [(part, hook) for part in module.modules() for hook in part._forward_pre_hooks.values()]
    return [(part, hook) for part, hook in hooks if isinstance(hook, GatedInput) and hook.gates is gates]


def _require_readers(module: nn.Module) -> None:
    """Raise if a module has other weights than its gated layer, and none of them reads it through the gates."""
    for layer, gates in gated_layers(module):
        own = {id(p) for p in layer.parameters()}
        if not _readers(module, gates) and any(id(p) not in own for p in module.parameters()):
            raise OptionError(
                f"{type(module).__name__} has a gated layer, but no module in it reads the layer through the gates.\n"
                "Expected gates that were added with readout=, or the layer alone.\n"
                "Call gate_units(layer, readout=...) with every module that reads the layer."
            )


def _require_own_weights(module: nn.Module) -> None:
    """Raise if another tool computes a weight that will be smaller, or a tensor that cannot be copied."""
    computed = [f"{path}.{key}" for path, part in module.named_modules() for key in _graph_outputs(part)]
    paths = {part: path for path, part in module.named_modules()}
    for layer, gates in gated_layers(module):
        names = [name + suffix for suffix in layer.suffixes for name in layer.weights(suffix)]
        readouts = [part for part, _ in _readers(module, gates)]
        pairs = [(layer, name) for name in names] + [(readout, "weight") for readout in readouts]
        computed += [f"{paths[part]}.{name}" for part, name in pairs if not owns(part, name)]
        # peft keeps the module that it wraps under this name, and reads its inputs without the gates
        computed += [f"{paths[part]}.weight" for part in paths if vars(part)["_modules"].get("base_layer") in readouts]
    if computed:
        raise UnsupportedError(
            "Pruning needs weights that are parameters, or constrained by manifold_rnn.\n"
            f"Got {computed[0].strip('.')!r}, which another tool computes, such as weight_norm, spectral_norm, prune "
            "or LoRA.\nRemove it first: remove_parametrizations, remove_weight_norm, prune.remove, merge_and_unload."
        )


def _graph_outputs(part: nn.Module) -> list[str]:
    """The attributes with a gradient history, where older tools of torch store computed weights."""
    return [key for key, value in vars(part).items() if isinstance(value, Tensor) and value.grad_fn is not None]


def _shrink(layer: Layer, gates: LayerGates, kept: dict[str, Tensor]) -> None:
    """Remove units, gates and constraints from a layer, in place."""
    was_training = layer.training
    layer.eval()
    size, n = len(kept["_l0"]), layer.hidden_size
    smaller: dict[str, Tensor] = {}
    for suffix in layer.suffixes:
        level = int(suffix.split("_")[1][1:])
        for name, weight in layer.weights(suffix).items():
            rows = kept[suffix] + n * torch.arange(len(weight) // n, device=weight.device).unsqueeze(-1)
            weight = weight.index_select(0, rows.flatten())
            if name == "weight_hh":
                weight = weight.index_select(1, kept[suffix])
            elif name == "weight_ih" and level:
                below = [kept[f"_l{level - 1}{direction}"] for direction in layer.directions]
                weight = weight.index_select(1, _columns(below, n, weight.shape[1]))
            smaller[name + suffix] = weight
    for name, p in list(layer.named_parameters(recurse=False)):
        if name.startswith("initial_state"):
            smaller[name] = p.index_select(0, kept["_l" + name.partition("_l")[2]])
    for name in list(entries(layer)):
        release(layer, name)
    for name, value in smaller.items():
        trains = layer.get_parameter(name).requires_grad
        layer.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=trains))
    del layer.unit_gates  # or an empty child would stay registered
    layer.hidden_size, layer.unit_gates = size, None
    layer.train(was_training)


def _shrink_readout(readout: nn.Module, hook: GatedInput, kept: list[Tensor]) -> None:
    """Multiply the gates into the columns of a readout, and keep the columns of open units, in place."""
    if "weight" in entries(readout):
        release(readout, "weight")
    weight = readout.get_parameter("weight")
    gates = hook.gates.last_level()
    n, width = len(gates[0].log_alpha), weight.shape[1]
    was_training = hook.gates.training
    hook.gates.eval()
    folded = (weight * hook.scale(width)).index_select(1, _columns(kept, n, width))
    hook.gates.train(was_training)
    readout.weight = nn.Parameter(folded.clone(), requires_grad=weight.requires_grad)
    if isinstance(readout, nn.Linear):
        readout.in_features = folded.shape[1]
    drop_hook(readout._forward_pre_hooks, hook)


def _columns(kept: list[Tensor], n: int, width: int) -> Tensor:
    """The columns of the kept units among the features of all directions, real parts before imaginary ones."""
    joined = torch.cat([units + n * direction for direction, units in enumerate(kept)])
    return joined if n * len(kept) == width else torch.cat([joined, joined + n * len(kept)])
