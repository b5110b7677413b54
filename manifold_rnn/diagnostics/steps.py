"""Runs a recurrent layer one time step at a time, so that every state is a node of the graph."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import NonFiniteError, OptionError, ShapeError, UnsupportedError
from ..nn import Layer, cells, real_features
from ..nn.cells import Cell
from ..nn.cells.base import State
from .evaluation import evaluating as evaluating
from .sources import RecurrentLayer, recurrent_layer

_BUDGET = 2**26  # bytes of the Jacobians in memory at once
_TORCH_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True, eq=False)
class _ProjectedLSTM(cells.LSTM):
    """Torch's LSTM with ``proj_size``, whose ``h`` is a linear map of the usual ``h``."""

    def initial_state(self, batch: int) -> State:
        projection = self.weights["weight_hr"]
        proj_size, hidden_size = projection.shape
        return projection.new_zeros(batch, proj_size), projection.new_zeros(batch, hidden_size)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        h, (_, c) = super().step(u, state, W)
        h = h @ self.weights["weight_hr"].mT
        return h, (h, c)


def bound_cells(layer: RecurrentLayer) -> list[Cell]:
    """Return the cell of each level with its weights, also for layers of torch.

    Raises
    ------
    UnsupportedError
        If the layer is bidirectional.
    """
    if layer.bidirectional:
        raise UnsupportedError(
            f"A bidirectional {type(layer).__name__} has no single state that moves forward in time.\n"
            "Expected a layer with bidirectional=False.\nMeasure a layer of one direction."
        )
    if isinstance(layer, Layer):
        return [layer.cell.bind(layer.weights(suffix)) for suffix in layer.suffixes]
    kind: Cell
    if layer.mode == "LSTM":
        kind = _ProjectedLSTM(layer.bias) if layer.proj_size else cells.LSTM(layer.bias)
    else:
        kind = cells.GRU(layer.bias) if layer.mode == "GRU" else cells.Elman(layer.mode[4:].lower(), layer.bias)
    names = (*_TORCH_NAMES[: 4 if layer.bias else 2], "weight_hr")
    return [kind.bind(dict(zip(names, weights, strict=False))) for weights in layer.all_weights]


class Steps:
    """The map from one state of a layer to the next. A state is one real vector with all parts of all levels.

    Parts are ordered by level, then as in the state of the cell. A complex part is written as [Re, Im].

    Parameters
    ----------
    layer : RecurrentLayer
        Layer in one direction.
    """

    def __init__(self, layer: RecurrentLayer) -> None:
        self.cells = bound_cells(layer)
        self.like = [cell.initial_state(1) for cell in self.cells]
        self.sizes = [prod(part.shape[1:]) * (2 if part.is_complex() else 1) for state in self.like for part in state]
        self.size = sum(self.sizes)

    def describe(self) -> str:
        """Return the levels and the number of entries of a state in words."""
        levels = len(self.cells)
        return f"{self.size} real numbers of {levels} level{'s' if levels > 1 else ''}"

    def join(self, states: list[State]) -> Tensor:
        """Return one real vector for each row, (B, N)."""
        return torch.cat([real_features(part.flatten(1)) for state in states for part in state], -1)

    def split(self, s: Tensor) -> list[State]:
        """Return the parts of each level of (B, N)."""
        pieces = iter(s.split(self.sizes, -1))
        return [tuple(_typed(next(pieces), part) for part in state) for state in self.like]

    def units(self, s: Tensor, level: int) -> Tensor:
        """Return the first part of the state of a level, with Re and Im on a new last axis: (..., n, 1 or 2)."""
        first = sum(len(state) for state in self.like[:level])
        start, width = sum(self.sizes[:first]), self.sizes[first]
        forms = 2 if self.like[level][0].is_complex() else 1
        return s[..., start : start + width].unflatten(-1, (forms, width // forms)).mT

    def step(
        self, x: Tensor, s: Tensor, shifts: tuple[Tensor, ...] = (), *, at_rest: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Advance inputs (B, m) and states (B, N) by one step.

        Parameters
        ----------
        x, s : Tensor
            The inputs and states.
        shifts : tuple of Tensor
            Tensors that are added to the projected inputs of each level.
        at_rest : bool
            Whether the projected inputs are zero, apart from the shifts.

        Returns
        -------
        s : Tensor, shape (B, N)
        y : Tensor, shape (B, n), or None
            Outputs of the last level. None if they are the first part of its state.
        """
        states, y, own = [], x, None
        for level, (cell, state) in enumerate(zip(self.cells, self.split(s), strict=True)):
            u = cell.project(real_features(y) if level else y)
            u = torch.zeros_like(u) if at_rest else u
            y, state = cell.step(u + shifts[level] if shifts else u, state, cell.weights["weight_hh"])
            own = None if y is state[0] else y
            states.append(state)
        return self.join(states), own

    def drives(self, x: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        """Return zeros of the shape of the projected inputs of each level."""
        drives = []
        y = x
        for level, (cell, state) in enumerate(zip(self.cells, self.split(s), strict=True)):
            u = cell.project(real_features(y) if level else y)
            y = cell.step(u, state, cell.weights["weight_hh"])[0]
            drives.append(torch.zeros_like(u))
        return tuple(drives)

    def derivatives(self, x: Tensor, s: Tensor, *, at_rest: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Differentiate one step, for rows that do not depend on each other.

        Parameters
        ----------
        x, s : Tensor, shapes (B, m) and (B, N)
            The inputs and states before the step.
        at_rest : bool
            As for `step`.

        Returns
        -------
        jacobian : Tensor, shape (B, N, N)
            Derivative of the next state with respect to the state.
        gains : list of Tensor, shape (B, n)
            For each unit of each level, the norm of the derivative of its next value with respect to the projected
            inputs.
        """
        with torch.no_grad():
            pull = torch.func.vjp(lambda s, *u: self.step(x, s, u, at_rest=at_rest)[0], s, *self.drives(x, s))[1]
            basis = torch.eye(self.size, dtype=s.dtype, device=s.device)
            by_state, *by_drive = torch.func.vmap(lambda row: pull(row.expand_as(s)))(basis)  # (N, B, N), ...
            gains = []
            for level, slope in enumerate(by_drive):
                squares = (slope * slope.conj()).real.flatten(2).sum(-1).mT  # (B, N)
                gains.append(self.units(squares, level).sum(-1).sqrt())
        return by_state.movedim(0, 1), gains


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Inputs and states of a layer over time.

    Parameters
    ----------
    steps : Steps
        The map from one state to the next.
    x : Tensor, shape (T, B, m)
        Inputs of the layer.
    states : list of Tensor, shape (B, N)
        T + 1 states, beginning with the state before the first step. Each is a node of the graph.
    """

    steps: Steps
    x: Tensor
    states: list[Tensor]

    def derivatives(self, sequences: int, *, reverse: bool = False) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
        """Yield the index of each step, with the results of `Steps.derivatives` for the first sequences.

        The Jacobians of as many steps as fit into memory are computed at once. ``reverse`` starts at the end.
        """
        N, item = self.steps.size, self.states[0].element_size()
        wide = sum(u[0].numel() for u in self.steps.drives(self.x[0, :1], self.states[0][:1].detach()))
        length = max(1, _BUDGET // max(1, N * (N + wide) * item * sequences))
        starts = range(0, len(self.x), length)
        for start in reversed(starts) if reverse else starts:
            stop = min(start + length, len(self.x))
            x = self.x[start:stop, :sequences].detach()
            s = torch.stack([state[:sequences].detach() for state in self.states[start:stop]])
            J, gains = self.steps.derivatives(x.flatten(0, 1), s.flatten(0, 1))
            rows = range(stop - start)
            J, gains = J.unflatten(0, x.shape[:2]), [g.unflatten(0, x.shape[:2]) for g in gains]
            for t in reversed(rows) if reverse else rows:
                yield start + t, J[t], [g[t] for g in gains]


class Recorder:
    """Records the passes of a layer inside of `stepwise`."""

    def __init__(self) -> None:
        self.passes: list[Trajectory] = []

    def trajectory(self, network: nn.Module) -> Trajectory:
        """Return the trajectory of all passes. Each pass must start at the last state of the previous one.

        Raises
        ------
        OptionError
            If the network did not call the layer, or a pass started from another state.
        NonFiniteError
            If a state is not finite.
        """
        if not self.passes:
            raise OptionError(f"{type(network).__name__} did not call its recurrent layer for these inputs.")
        first = self.passes[0]
        states = list(first.states)
        for following in self.passes[1:]:
            if not torch.equal(following.states[0], states[-1]):
                raise OptionError(
                    f"{type(network).__name__} called its layer several times.\n"
                    "Expected one pass, or passes that each start at the last state of the one before.\n"
                    "Pass the layer itself."
                )
            states += following.states[1:]
        for t, state in enumerate(states):
            if not bool(state.isfinite().all()):
                raise NonFiniteError(
                    f"The states of {type(network).__name__} are not finite at step {t}.\n"
                    "Expected finite states.\nCheck its weights and inputs for NaN, and whether its states grow."
                )
        return Trajectory(first.steps, torch.cat([each.x for each in self.passes]), states)


@contextlib.contextmanager
def stepwise(layer: RecurrentLayer) -> Iterator[Recorder]:
    """Run each pass of a layer one step at a time, with the same outputs up to rounding error."""
    recorder = Recorder()
    bound_cells(layer)  # raises for a bidirectional layer, before the network runs

    def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Any, Any]) -> Any:
        trajectory, result = _advance(layer, output, *args, **kwargs)
        recorder.passes.append(trajectory)
        return result

    handles = [
        layer.register_forward_pre_hook(_require_rows, with_kwargs=True),
        layer.register_forward_hook(replace, with_kwargs=True),
    ]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _require_rows(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `ShapeError` if a layer receives no sequence or no time step."""
    x = args[0] if args else kwargs.get("input")
    if isinstance(x, Tensor) and 0 in x.shape[:-1]:
        raise ShapeError(
            f"{type(layer).__name__} receives inputs without a sequence or a time step.\n"
            f"Expected at least one of each. Got shape {tuple(x.shape)}.\nPass a batch that is not empty."
        )


def record(network: nn.Module, x: Tensor) -> Trajectory:
    """Return the trajectory of the first recurrent layer of a network, or of a layer, without a graph."""
    if not isinstance(x, (Tensor, PackedSequence)):
        raise OptionError(
            f"The inputs of a layer need to be one tensor.\nGot {type(x).__name__}.\nPass only the inputs."
        )
    with evaluating(network), stepwise(recurrent_layer(network)) as recorder, torch.no_grad():
        network(x)
    return recorder.trajectory(network)


def _advance(
    layer: RecurrentLayer, output: tuple[Any, Any], input: Any, hx: Any = None, *, every_step: bool = True
) -> tuple[Trajectory, tuple[Any, Any]]:
    """Run all steps, and return the trajectory and the results of the layer."""
    if isinstance(input, PackedSequence):
        raise UnsupportedError(
            "A packed batch does not have states at all steps of all sequences.\n"
            "Expected a padded tensor, got PackedSequence.\nPass sequences of equal length as one tensor."
        )
    steps, is_batched = Steps(layer), input.dim() == 3
    x = (input.transpose(0, 1) if layer.batch_first else input) if is_batched else input.unsqueeze(1)
    s = steps.join(_start(layer, steps.cells, hx, x.shape[1] if is_batched else None))
    states, outputs = [_node(s)], []
    for x_t in x.unbind(0):
        s, y = steps.step(x_t, states[-1])
        states.append(_node(s))
        outputs.append(steps.split(states[-1])[-1][0] if y is None else y)
    h_n = tuple(torch.stack(parts) for parts in zip(*steps.split(states[-1]), strict=True))
    y = torch.stack(outputs)  # (T, B, n)
    if not is_batched:
        y, h_n = y.squeeze(1), tuple(part.squeeze(1) for part in h_n)
    y = y.transpose(0, 1) if layer.batch_first and is_batched else y
    result = (y if every_step else None, h_n if isinstance(output[1], tuple) else h_n[0])
    return Trajectory(steps, x, states), result


def _start(layer: RecurrentLayer, bound: list[Cell], hx: Any, batch: int | None) -> list[State]:
    if isinstance(layer, Layer):
        return layer.initial_states(bound, hx, batch)
    if hx is None:
        return [cell.initial_state(1 if batch is None else batch) for cell in bound]
    parts = hx if isinstance(hx, tuple) else (hx,)
    rows = parts if batch is not None else tuple(part.unsqueeze(1) for part in parts)
    return list(zip(*(part.unbind(0) for part in rows), strict=True))


def _node(s: Tensor) -> Tensor:
    """Return a tensor that a gradient can be computed for, even if no weight is trained."""
    return s if s.requires_grad or not torch.is_grad_enabled() else s.requires_grad_()


def _typed(piece: Tensor, like: Tensor) -> Tensor:
    """Return a part of a state with its own dtype and shape."""
    return (torch.complex(*piece.chunk(2, -1)) if like.is_complex() else piece).unflatten(-1, like.shape[1:])
