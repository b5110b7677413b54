"""The activity of a recurrent layer on test cases: the signal that coverage measures, of shape (B, T, n)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..errors import DtypeError, NonFiniteError, OptionError, ShapeError
from ..nn import Layer, cells, gate
from .evaluation import loaded
from .sources import States, find_layer, hidden_states, layer_states

Signal: TypeAlias = Literal["output", "forget"] | Callable[[Tensor], Tensor]
Cases: TypeAlias = Tensor | Dataset[Any] | Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]
BATCH = 256


def batch_axis(source: States) -> int:
    """Return the batch axis of the inputs: the first axis, except for a layer without ``batch_first``."""
    return int(isinstance(source, (Layer, nn.RNNBase)) and not source.batch_first)


def batches(cases: Cases, axis: int, who: str) -> Iterator[Tensor]:
    """Yield the inputs in non-empty batches: slices of a tensor, or the items of an iterable."""
    if isinstance(cases, Dataset):
        cases = DataLoader(cases, batch_size=BATCH)
    pair = list(cases) if isinstance(cases, (tuple, list)) and len(cases) == 2 else [None, None]
    y = pair[1]
    if isinstance(y, Tensor) and y.dim() == 1 and not (y.is_floating_point() or y.is_complex()):
        raise OptionError(
            f"{who} needs inputs without targets.\nGot a pair with targets of shape {tuple(y.shape)}.\nPass the inputs."
        )
    for item in cases.split(BATCH, axis) if isinstance(cases, Tensor) and cases.dim() > axis else loaded(cases):
        x = item[0] if isinstance(item, (tuple, list)) and item else item
        if not isinstance(x, Tensor) or x.dim() < 2:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(f"{who} needs batches of inputs, such as tensors of shape (B, T, m). Got {got}.")
        if x.shape[axis]:
            yield x


def activity(source: States, x: Tensor, signal: Signal) -> Tensor:
    """Return the states or another signal of a layer for a batch. Shape (B, T, n), double precision.

    Complex numbers are replaced by their moduli.

    Raises
    ------
    ShapeError
        If the inputs do not fit a layer of torch, or if the signal does not have three axes or has no time step.
    DtypeError
        If the inputs have another dtype than the weights of a layer of torch.
    NonFiniteError
        If an input or a number of the signal is not finite.
    OptionError
        If the signal is unknown, or the layer does not have it.
    """
    if not x.isfinite().all():
        raise NonFiniteError("Coverage needs finite inputs. Got NaN or infinity. Remove those cases.")
    if isinstance(source, nn.RNNBase) and (x.dim() != 3 or x.shape[-1] != source.input_size):
        raise ShapeError(
            f"{type(source).__name__} needs inputs with three axes, the last of {source.input_size} features. "
            f"Got shape {tuple(x.shape)}."
        )
    if isinstance(source, nn.RNNBase) and x.dtype != source.weight_ih_l0.dtype:
        raise DtypeError(
            f"{type(source).__name__} needs inputs in the dtype of its weights, {source.weight_ih_l0.dtype}. "
            f"Got {x.dtype}. Convert the inputs."
        )
    if signal == "forget":
        values = _forget_gates(source, x)
    elif signal == "output" or callable(signal):
        values = hidden_states(source, x)
        values = signal(values) if callable(signal) else values
    else:
        raise OptionError(f'`signal` needs "output", "forget" or a function of the states. Got {signal!r:.80}.')
    if not isinstance(values, Tensor) or values.dim() != 3 or not values.numel():
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ShapeError(f"Coverage needs a signal of shape (B, T, n) with at least one step and unit. Got {got}.")
    axis = batch_axis(source)
    if len(values) != x.shape[axis]:
        raise ShapeError(
            f"Coverage needs a signal for each of {x.shape[axis]} cases, counted on axis {axis} of the inputs. "
            f"Got a signal of {len(values)} cases. Pass a network whose inputs have shape (B, T, m)."
        )
    values = (values.abs() if values.is_complex() else values).double()
    if not values.isfinite().all():
        raise NonFiniteError("Coverage needs finite states. Got NaN or infinity. Check the weights of the network.")
    return values


def _forget_gates(source: States, x: Tensor) -> Tensor:
    """The forget gates of an LSTM with one level and one direction, of this package or of torch."""
    layer = find_layer(source)
    is_lstm = isinstance(layer, nn.LSTM) or (isinstance(layer, Layer) and isinstance(layer.cell, cells.LSTM))
    if layer is None or not is_lstm or layer.num_layers > 1 or layer.bidirectional:
        raise OptionError(
            'The signal "forget" needs an LSTM with one level and one direction. '
            f'Got {type(source).__name__}. Use signal="output".'
        )
    call, h = layer_states(source, x)
    hx = call.args[1] if len(call.args) > 1 else call.kwargs.get("hx")
    inputs = call.input if layer.batch_first else call.input.transpose(0, 1)
    first = h.new_zeros(h.shape[-1])
    if isinstance(layer, Layer):
        cell = layer.cell.bind(layer.weights("_l0"))
        u, W = cell.project(inputs), cell.weights["weight_hh"]
        first = layer.get_parameter("initial_state_l0") if layer.train_initial_state else first
    else:
        weight_ih, W, *biases = layer.all_weights[0][: 4 if layer.bias else 2]
        u = nn.functional.linear(inputs, weight_ih, biases[0] + biases[1] if biases else None)
    first = first if hx is None else hx[0][0].unsqueeze(1)  # (n), or (B, 1, n)
    before = torch.cat([first.expand(len(h), 1, -1), h[:, :-1]], 1)  # (B, T, n): the state before each step
    return gate(u.chunk(4, -1)[1] + before @ W.chunk(4)[1].mT)
