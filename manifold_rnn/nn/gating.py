"""Gates for the units of a layer and its readout, and the penalty that closes them."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..constraints.registry import entries
from ..errors import DtypeError, OptionError, ShapeError, UnsupportedError
from .layer import Layer
from .unit_gates import LayerGates, UnitGates, features, require_gate_options

_L = TypeVar("_L", bound=Layer)


def gate_units(
    layer: _L,
    readout: nn.Module | Sequence[nn.Module] | None = None,
    *,
    minimum: int = 1,
    inputs: bool = False,
    start: float = 1.0,
) -> _L:
    r"""Add a trained gate to every unit of a layer, in place.

    The gates :math:`s` of a level scale the columns of all weights that read its units:

    .. math:: W \operatorname{diag}(s), \qquad V' \operatorname{diag}(s), \qquad R \operatorname{diag}(s),

    These are the recurrent matrix of the level, the input weights of the next level, and the readout. A unit with gate
    0 has no effect, and `prune` removes it. Train the loss plus a multiple of `l0_penalty`.

    Parameters
    ----------
    layer : Layer
        Layer of an Elman, LSTM or GRU cell, with any constraint in either view.
    readout : nn.Module or list of nn.Module, optional
        All modules that are called with the layer's outputs, or with their `real_features`. Each needs a ``weight``
        with one column for each feature, such as ``nn.Linear``. The weight may be constrained.
    minimum : int
        Number of units of each level and direction that stay open.
    inputs : bool
        Whether input features have gates too.
    start : float
        Mean of the initial :math:`\log\alpha`, see `UnitGates`. Use 3 for a layer that is already trained.

    Returns
    -------
    Layer
        ``layer`` itself, with the gates in ``layer.unit_gates``.

    Raises
    ------
    UnsupportedError
        If the layer belongs to torch, units of its cell cannot be removed, or a torch parametrization computes the
        weight of ``readout``.
    OptionError
        If the layer has gates already, ``readout`` has no matrix, or an option is out of range.
    ShapeError
        If ``readout`` has another number of columns.
    DtypeError
        If the dtype of ``readout`` is not the real dtype of the layer. After any error nothing has changed.

    Notes
    -----
    In training, each forward pass of the layer draws one sample of the gates for all sequences and time steps of the
    batch. The readout uses the same sample. The outputs of the layer are not scaled. If a module reads them and is not
    passed here, closed units still have an effect there. A constrained :math:`W` keeps its constraint. The product
    :math:`W \operatorname{diag}(s)` does not satisfy it. For example, it is a contraction if :math:`W` is orthogonal.

    Source: Wen, Zhang, Bai and Xu (2020), who scale the rows of the weights as well.

    Examples
    --------
    >>> lstm, readout = mr.nn.LSTM(3, 8), torch.nn.Linear(8, 2)
    >>> _ = mr.nn.gate_units(lstm, readout)
    >>> loss = readout(lstm(torch.randn(5, 4, 3))[0]).square().mean() + 1e-4 * mr.nn.l0_penalty(lstm)
    >>> loss.backward()
    >>> assert lstm.unit_gates["l0"].log_alpha.grad.abs().min() > 0
    """
    _require_separate_units(layer)
    if layer.unit_gates is not None:
        raise OptionError(
            "The layer already has gates.\nExpected a layer without unit_gates.\nUse these gates, or build a new layer."
        )
    if not isinstance(inputs, bool):
        raise OptionError(
            f"The option inputs needs to be a truth value.\nExpected True or False, got {inputs!r:.80}.\n"
            "Pass one of them."
        )
    require_gate_options(layer.hidden_size, minimum, start)
    readouts = _each(readout)
    like = layer.weights("_l0")["weight_ih"]
    width = layer.hidden_size * len(layer.directions) * (2 if like.is_complex() else 1)
    for each in readouts:
        _require_readout(each, width, like.real.dtype)
    make = partial(UnitGates, start=start, device=like.device, dtype=like.real.dtype)
    gates = {suffix: make(layer.hidden_size, minimum=minimum) for suffix in layer.suffixes}
    if inputs:
        gates["inputs"] = make(layer.input_size)
    held = LayerGates(gates)
    for each in readouts:
        each.register_forward_pre_hook(GatedInput(held))
    layer.unit_gates = held.train(layer.training)
    return layer


def l0_penalty(module: nn.Module) -> Tensor:
    r"""Return the expected number of weights of the gated layers that pruning would keep, with its gradient.

    Let :math:`\pi` be the probabilities that the gates of a level's units are open, and :math:`\pi'` those of its
    inputs. The weights have k matrices in their rows (4 for LSTM, 3 for GRU, 1 for Elman). The result is the sum over
    all levels and directions of

    .. math:: k \sum_{ij} \pi_i \pi'_j + k \Bigl(\bigl(\sum_i \pi_i\bigr)^2 - \sum_i \pi_i^2 + \sum_i \pi_i\Bigr).

    Parameters
    ----------
    module : nn.Module
        A gated layer, or any module that contains gated layers.

    Returns
    -------
    Tensor, scalar
        The expected number, at least in float32.

    Raises
    ------
    OptionError
        If no layer inside has gates.

    Notes
    -----
    The weight :math:`W_{ii}` of a unit to itself depends on one gate, not on two. This explains the last two terms.
    Biases and readouts are not counted. A complex weight counts once. Without gates the number is :math:`k n (m + n)`
    for one level. Source: Wen, Zhang, Bai and Xu (2020).

    Examples
    --------
    >>> layer = mr.nn.gate_units(mr.nn.RNN(2, 3), start=4.0)
    >>> assert 14 < mr.nn.l0_penalty(layer) < 15  # of the 3 * (2 + 3) weights
    """
    terms = [
        _expected_weights(layer, gates, suffix) for layer, gates in gated_layers(module) for suffix in layer.suffixes
    ]
    return torch.stack(terms).sum()


class GatedInput:
    """A forward pre-hook that multiplies the inputs of a readout by the gates of their units."""

    def __init__(self, gates: LayerGates) -> None:
        self.gates = gates

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0] * self.scale(args[0].shape[-1]), *args[1:]

    def scale(self, width: int) -> Tensor:
        return features([gates() for gates in self.gates.last_level()], width)


def gated_layers(module: nn.Module) -> Iterator[tuple[Layer, LayerGates]]:
    """The gated layers inside a module, with their gates. Raises `OptionError` if there are none."""
    layers = [part for part in module.modules() if isinstance(part, Layer) and part.unit_gates is not None]
    if not layers:
        raise OptionError(
            f"Pruning needs a layer with unit gates.\nGot {type(module).__name__} without any.\n"
            "Call gate_units on its layer, and train it."
        )
    for layer in layers:
        assert layer.unit_gates is not None
        yield layer, layer.unit_gates


def _expected_weights(layer: Layer, gates: LayerGates, suffix: str) -> Tensor:
    """The expected number of weights of one level and direction."""
    pi, below = _summable(gates.units(suffix)), gates.below(suffix)
    width = layer.get_parameter("weight_ih" + suffix).shape[1]
    received = features([_summable(each) for each in below], width).sum() if below else width
    total = pi.sum()
    return len(layer.cell.gates) * (total * received + total.square() - pi.square().sum() + total)


def _summable(gates: UnitGates) -> Tensor:
    """The probabilities that gates are open, at least in float32, because sums of float16 would overflow."""
    pi = gates.open_probability()
    return pi.to(torch.promote_types(pi.dtype, torch.float32))


def _require_separate_units(layer: nn.Module) -> None:
    """Raise unless units of a layer can be removed."""
    if isinstance(layer, nn.RNNBase):
        ours = type(layer).__name__
        raise UnsupportedError(
            f"Units of torch.nn.{ours} cannot have gates, because its kernel uses the unscaled weights.\n"
            f"Expected a layer of manifold_rnn.nn, got torch.nn.{ours}.\n"
            f"Build mr.nn.{ours} with the same sizes, and load the state dict of this layer into it."
        )
    if not isinstance(layer, Layer):
        raise UnsupportedError(
            "gate_units needs a recurrent layer.\n"
            f"Expected a layer of manifold_rnn.nn, got {type(layer).__name__}.\n"
            "Pass the layer of a network, and its readout as readout=."
        )
    cell = layer.cell
    if not (cell.separates_units() and cell.steps_match("separates_units")):
        raise UnsupportedError(
            "Units of this cell cannot be removed separately.\n"
            f"Expected an LSTM, a GRU, or an Elman cell with a named nonlinearity, got {cell!r:.120}.\n"
            "Use one of these cells, or choose a smaller hidden_size."
        )


def owns(module: nn.Module, name: str) -> bool:
    """Return whether a weight is a parameter of the module, or constrained there."""
    return module._parameters.get(name) is not None or name in entries(module)


def _each(readout: nn.Module | Sequence[nn.Module] | None) -> list[nn.Module]:
    """The readouts, each once."""
    if isinstance(readout, list | tuple | nn.ModuleList):
        return list({id(each): each for each in readout}.values())
    return [] if readout is None else [readout]  # type: ignore[list-item]  # checked next


def _require_readout(readout: object, width: int, dtype: torch.dtype) -> None:
    """Raise unless a readout has a matrix of its own with one column for each feature."""
    if not isinstance(readout, nn.Module) or isinstance(readout, nn.Embedding):
        raise OptionError(
            "A readout needs to be a module that is called with the layer's outputs.\n"
            f"Expected one such as torch.nn.Linear, or a list of them, got {readout!r:.80}.\n"
            "Pass the modules that read this layer."
        )
    if isinstance(readout, Layer | nn.RNNBase):
        raise UnsupportedError(
            "Gates of one layer cannot scale the weights of another.\n"
            f"Expected a readout such as torch.nn.Linear, got {type(readout).__name__}.\n"
            "Build one layer with num_layers=2, whose levels share gates."
        )
    try:
        weight: object = readout.weight
    except AttributeError:
        weight = None
    if isinstance(weight, Tensor) and not owns(readout, "weight"):
        raise UnsupportedError(
            "The weight of a readout with gates must be a parameter, or constrained by manifold_rnn.\n"
            f"Got {type(readout).__name__} whose weight is computed, as by weight_norm, spectral_norm or LoRA.\n"
            "Remove the parametrization first."
        )
    if isinstance(weight, UninitializedParameter):
        raise OptionError(
            "A readout with gates needs a weight of known size.\n"
            f"Got {type(readout).__name__}, which is not initialized.\n"
            "Call it once on the layer's outputs, or pass a torch.nn.Linear."
        )
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise OptionError(
            "A readout with gates needs a matrix as its parameter weight.\n"
            f"Got {type(readout).__name__} without one.\nPass a torch.nn.Linear."
        )
    if weight.shape[1] != width:
        raise ShapeError(
            "The readout needs one column for each feature of the layer's outputs.\n"
            f"Expected {width} columns, got {weight.shape[1]}.\nPass the module that reads this layer."
        )
    if weight.dtype != dtype:
        raise DtypeError(
            "The readout needs the real dtype of the layer.\n"
            f"Expected {dtype}, got {weight.dtype}.\nConvert one of them before you add gates."
        )
    if any(isinstance(hook, GatedInput) for hook in readout._forward_pre_hooks.values()):
        raise OptionError(
            "The readout already reads another layer through gates.\nExpected a readout without gates.\n"
            "Pass the module that reads this layer."
        )
