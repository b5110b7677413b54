"""The sources of diagnostics: a matrix, a recurrent layer, or a network that has one."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError, OptionError, ShapeError
from ..nn import Layer
from .checks import require_dense
from .evaluation import evaluating

RecurrentLayer: TypeAlias = Layer | nn.RNNBase
States: TypeAlias = nn.Module | Callable[[Tensor], Tensor]
_CANDIDATES = ("g", "n", "c")  # names of the candidate gate in gated cells
_TORCH_GATES = {"LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n")}


class LayerCall(NamedTuple):
    """A call of a recurrent layer: the arguments, and the outputs at all steps, even if `every_step` was False."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any

    @property
    def input(self) -> Any:
        """The inputs of the layer."""
        return self.args[0] if self.args else self.kwargs["input"]


class RecurrentMatrix(NamedTuple):
    """A square recurrent matrix and its name.

    Attributes
    ----------
    name : str
        Name such as ``W_hh``, or ``W_hh of g`` for the matrix of one gate.
    weight : Tensor, shape (n, n)

    Examples
    --------
    >>> matrix = mr.diagnostics.recurrent_matrix(mr.zoo.scornn(1, 4, 2))
    >>> assert matrix.name == "W_hh" and matrix.weight.shape == (4, 4)
    """

    name: str
    weight: Tensor


def find_layer(module: object) -> RecurrentLayer | None:
    """Return the first recurrent layer of a module, of this package or of torch, or None."""
    modules = module.modules() if isinstance(module, nn.Module) else ()
    return next((part for part in modules if isinstance(part, (Layer, nn.RNNBase))), None)


def recurrent_layer(network: nn.Module) -> RecurrentLayer:
    """Return the first recurrent layer of a network, or raise `OptionError`."""
    if not isinstance(network, nn.Module):
        raise OptionError(
            f"{type(network).__name__} is neither a matrix nor a module.\nExpected a Tensor or a torch.nn.Module.\n"
            "Convert a matrix with torch.as_tensor."
        )
    layer = find_layer(network)
    if layer is None:
        raise OptionError(
            f"{type(network).__name__} has no recurrent matrix.\n"
            "Expected a module with a recurrent layer of manifold_rnn.nn or torch.nn.\n"
            "Pass such a layer or network, or the matrix itself as a Tensor."
        )
    return layer


def has_recurrent_matrix(network: nn.Module) -> bool:
    """Return whether the first recurrent layer of a network has a matrix. In some cells it depends on the input."""
    return bool(_gates(recurrent_layer(network)))


def recurrent_matrix(network: nn.Module) -> RecurrentMatrix:
    """Return the recurrent matrix of the first level of a network.

    If the cell has several gates, it is the matrix of the candidate gate, which proposes the new state. Unit gates
    scale its columns as in evaluation, also while the network is in training mode.

    Parameters
    ----------
    network : nn.Module
        Network with a recurrent layer of this package or of torch. The first one is used.

    Returns
    -------
    RecurrentMatrix
        The matrix, detached from the graph.

    Raises
    ------
    OptionError
        If the network has no such layer, or its cell has no recurrent matrix.

    Examples
    --------
    >>> network = mr.zoo.Network(mr.nn.LSTM(1, 4, batch_first=True), 2)
    >>> assert mr.diagnostics.recurrent_matrix(network).name == "W_hh of g"
    """
    layer = recurrent_layer(network)
    weight, gates = _weight(layer, "weight_hh"), _gates(layer)
    if len(gates) == 1:
        return RecurrentMatrix("W_hh", weight)
    gate = _candidate(gates)
    return RecurrentMatrix(f"W_hh of {gate}", weight.chunk(len(gates))[gates.index(gate)])


def input_matrix(network: nn.Module) -> Tensor:
    """Return the input matrix that belongs to `recurrent_matrix`, shape (n, input size).

    Raises
    ------
    OptionError
        If the network has no recurrent layer.
    """
    layer = recurrent_layer(network)
    weight, gates = _weight(layer, "weight_ih"), _gates(layer)
    blocks = weight.chunk(len(gates)) if weight.shape[0] != layer.hidden_size else (weight,)
    return blocks[gates.index(_candidate(gates))] if len(blocks) > 1 else weight


def _weight(layer: RecurrentLayer, name: str) -> Tensor:
    """One weight of the first level, multiplied by its deterministic unit gates of evaluation mode."""
    if isinstance(layer, Layer):
        if not layer.cell.gates:
            raise OptionError(
                f"{type(layer.cell).__name__} has no recurrent matrix, because the input determines it.\n"
                "Expected a layer of a cell with gates.\nPass another network, or a matrix as a Tensor."
            )
        with evaluating(layer):
            return layer.weights("_l0")[name].detach()
    return layer.all_weights[0][("weight_ih", "weight_hh").index(name)].detach()


def _gates(layer: RecurrentLayer) -> tuple[str, ...]:
    return tuple(layer.cell.gates) if isinstance(layer, Layer) else _TORCH_GATES.get(layer.mode, ("h",))


def _candidate(gates: tuple[str, ...]) -> str:
    """The candidate gate, which proposes the new state."""
    return next((name for name in _CANDIDATES if name in gates), gates[0])


def matrix_of(source: Tensor | nn.Module, who: str) -> RecurrentMatrix:
    """Return a square matrix in double precision: ``source`` itself, or the recurrent matrix of a module.

    Raises
    ------
    ShapeError, NonFiniteError, OptionError, UnsupportedError
        If the matrix is not square, not finite, sparse, or on the meta device. If the module has no recurrent matrix.
    """
    name, weight = RecurrentMatrix("W", source.detach()) if isinstance(source, Tensor) else recurrent_matrix(source)
    require_dense(weight, who)
    if weight.dim() != 2 or weight.shape[0] != weight.shape[1] or not weight.numel():
        raise ShapeError(f"{who} needs one square matrix, shape (n, n) with n at least 1. Got {tuple(weight.shape)}.")
    if not weight.isfinite().all():
        count = int((~weight.isfinite()).sum())
        raise NonFiniteError(f"{who} needs a matrix of finite numbers. Got {count} entries of {name} that are not.")
    return RecurrentMatrix(name, weight.to(torch.complex128 if weight.is_complex() else torch.float64))


def require_levels(eps: Sequence[float], who: str) -> tuple[float, ...]:
    """Return the sizes of perturbations. Raises `OptionError` unless all are positive and finite."""
    try:
        levels = tuple(math.nan if isinstance(level, bool) else float(level) for level in eps)
    except (TypeError, ValueError, RuntimeError):  # not a sequence of numbers
        levels = ()
    if not levels or not all(0 < level < math.inf for level in levels):
        raise OptionError(
            f"{who} needs sizes of perturbations.\nExpected positive numbers in eps; got {eps!r:.80}.\n"
            "Pass a tuple such as eps=(1e-4, 1e-2)."
        )
    return levels


def hidden_states(source: States, x: Tensor) -> Tensor:
    """Return the outputs of the recurrent layer at all steps, shape (B, T, n), for a batch of inputs.

    Parameters
    ----------
    source : nn.Module, or function of ``x``
        A recurrent layer, or a network, whose first recurrent layer is used with the inputs that it gets. It can also
        be a function that returns states of shape (B, T, n), alone or first in a tuple.
    x : Tensor
        Inputs of ``source``.

    Raises
    ------
    ShapeError
        If the states do not have three axes.
    OptionError
        If a network does not call its layer, or calls it more than once.
    """
    return layer_states(source, x)[1]


def layer_states(source: States, x: Tensor) -> tuple[LayerCall, Tensor]:
    """Run a network once, and return the call of its recurrent layer and the states, as `hidden_states` does."""
    layer = find_layer(source)
    if layer is None or layer is source:
        output = source(x)
        call = LayerCall((x,), {}, output[0] if isinstance(output, tuple) else output)
    else:
        call = layer_call(source, layer, x)
    h = call.outputs
    if not isinstance(h, Tensor) or h.dim() != 3:
        got = f"shape {tuple(h.shape)}" if isinstance(h, Tensor) else type(h).__name__
        raise ShapeError(f"Diagnostics need states of shape (B, T, n). {type(source).__name__} returned {got}.")
    return call, h if layer is None or layer.batch_first else h.transpose(0, 1)


def layer_calls(network: States, layer: RecurrentLayer, *inputs: Any) -> list[LayerCall]:
    """Run a network and return each call of a layer."""
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    calls: list[LayerCall] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments.append((args, kwargs))
        return args, {**kwargs, "every_step": True} if isinstance(layer, Layer) else kwargs

    def after(_: nn.Module, __: object, output: Any) -> Any:
        args, kwargs = arguments.pop()
        y, *rest = output if isinstance(output, tuple) else (output,)
        calls.append(
            LayerCall(args, kwargs, y.clone() if isinstance(y, Tensor) else y)
        )  # cloned, because the network may change it in place
        return output if kwargs.get("every_step", True) else (None, *rest)

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after)]
    try:
        network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def layer_call(network: States, layer: RecurrentLayer, *inputs: Any) -> LayerCall:
    """Run a network and return its call of a layer. Raises `OptionError` unless there is exactly one."""
    found = layer_calls(network, layer, *inputs)
    if not found:
        raise OptionError(f"{type(network).__name__} did not call its layer {type(layer).__name__} for these inputs.")
    if len(found) > 1:
        raise OptionError(
            f"{type(network).__name__} called its layer {type(layer).__name__} {len(found)} times for these inputs.\n"
            "Expected one call with all time steps.\n"
            "Pass the layer itself, or a function of the inputs that returns the states, shape (B, T, n)."
        )
    return found[0]
