"""Layers: a cell run over time, stacked, in one or two directions, with the manners of ``torch.nn.RNN``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import geoopt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ..constraints import Constraint, constrain
from ..constraints.registry import registry
from ..errors import DeviceError, DtypeError, OptionError, ShapeError
from ..linalg.precision import autocast_device
from . import scan
from .activations import real_features
from .cells import Cell
from .cells.base import State
from .requirements import require_options, require_state
from .scan.backends import BackendName, require_backend

_Hidden = Tensor | tuple[Tensor, ...]


class Layer(nn.Module):
    r"""Any cell with the interface of ``torch.nn.RNN``; `RNN` is this with the Elman cell.

    Parameters
    ----------
    cell : Cell
        The recurrence, not bound. A nonlinearity of it that is itself a module is registered, and shared by all levels.
    input_size, hidden_size : int
        Features of an input, and of a state.
    num_layers : int
        Levels; each takes the outputs of the one below, as [Re, Im] if they are complex.
    batch_first : bool
        Whether padded inputs and outputs are (B, T, ...) instead of (T, B, ...). States never are.
    dropout : float
        Probability of dropping an output on its way to the next level, while training.
    bidirectional : bool
        Whether each level also runs from the end; the outputs of both directions lie side by side.
    device : torch.device, optional
    dtype : torch.dtype, optional
        Of the weights; a complex one makes a complex network.
    constraint : geoopt.Manifold or Constraint, or mapping from str to them, optional
        What every recurrent matrix is constrained to: a manifold or a structured constraint. A mapping gives them by
        the name of the gate, such as ``{"g": Orthogonal()}``, and leaves the other gates free.
    view : "update" or "trivialized"
        How; see `manifold_rnn.constrain`.
    train_initial_state : bool
        Whether the state before the first step is a parameter, ``initial_state_l0`` and so on, zero at first; a second
        part of a cell's state is ``initial_state2_l0``. A given ``hx`` takes its place.
    backend : str
        How cells are run over time; see `manifold_rnn.nn.scan.run`.
    recompute : bool
        Where the outputs of all steps are not asked for: keep one in :math:`\sqrt T` states for the backward pass, and
        compute the others twice.

    Raises
    ------
    ShapeError, OptionError
        If a size is below 1, ``dropout`` outside [0, 1], or a gate or the backend unknown.

    Notes
    -----
    The weights carry the cell's names and torch's suffixes, such as ``weight_hh_l0`` and ``weight_ih_l1_reverse``.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.Elman("relu"), 2, 3)
    >>> assert layer(torch.zeros(5, 1, 2))[0].shape == (5, 1, 3)
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        constraint: geoopt.Manifold | Constraint | Mapping[str, geoopt.Manifold | Constraint] | None = None,
        view: Literal["update", "trivialized"] = "update",
        train_initial_state: bool = False,
        backend: BackendName = "auto",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        require_options(input_size, hidden_size, num_layers, dropout)
        require_backend(backend)
        self.backend, self.recompute = backend, recompute
        self.cell = cell
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        for name, module in _modules(cell):
            self.add_module(name, module)
        width = hidden_size * len(self.directions) * (2 if dtype is not None and dtype.is_complex else 1)
        for k, suffix in enumerate(self.suffixes):
            size = input_size if k < len(self.directions) else width
            weights = cell.allocate(size, hidden_size, device=device, dtype=dtype)
            self._names = tuple(weights)
            for name, weight in weights.items():
                self.register_parameter(name + suffix, nn.Parameter(weight))
            if train_initial_state:
                for part, state in enumerate(cell.bind(weights).initial_state(1), 1):
                    self.register_parameter(_state_name(part, suffix), nn.Parameter(state[0].detach().clone()))
        self.train_initial_state = train_initial_state
        self.reset_parameters()
        if constraint is not None:
            by_block = _by_block(constraint, cell.gates)
            for suffix in self.suffixes:
                constrain(self, "weight_hh" + suffix, by_block, view=view, blocks=len(cell.gates))

    @property
    def directions(self) -> tuple[str, ...]:
        """Suffixes of the directions."""
        return ("", "_reverse") if self.bidirectional else ("",)

    @property
    def suffixes(self) -> list[str]:
        """Suffixes of the parameters, one for each level and direction."""
        return [f"_l{k}{direction}" for k in range(self.num_layers) for direction in self.directions]

    def weights(self, suffix: str) -> dict[str, Tensor]:
        """Return the weights of one level and direction."""
        return {name: getattr(self, name + suffix) for name in self._names}

    def reset_parameters(self) -> None:
        """Draw the weights anew; a constrained one keeps its value, since a draw would take it off its manifold."""
        held = registry(self) or ()
        for suffix in self.suffixes:
            weights = self.weights(suffix).items()
            drawn = {name: torch.empty_like(w) if name + suffix in held else w for name, w in weights}
            self.cell.bind(drawn).reset()
        for name, p in self._parameters.items():
            if name.startswith("initial_state") and p is not None:
                nn.init.zeros_(p)

    def _start(self, cells: list[Cell], batch: int) -> list[State]:
        """Return the state of each cell before the first step."""
        states = [cell.initial_state(batch) for cell in cells]
        if not self.train_initial_state:
            return states
        trained = [
            [getattr(self, _state_name(part, suffix)) for part in range(1, len(state) + 1)]
            for suffix, state in zip(self.suffixes, states, strict=True)
        ]
        return [tuple(p.expand_as(s) for p, s in zip(*both, strict=True)) for both in zip(trained, states, strict=True)]

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of each level and direction, as in ``torch.nn.RNN``."""
        return [list(self.weights(suffix).values()) for suffix in self.suffixes]

    def flatten_parameters(self) -> None:
        """Do nothing; here for code that calls it on torch's layers, whose weights need a layout in memory."""

    def forward(
        self, input: Tensor | PackedSequence, hx: _Hidden | None = None, *, every_step: bool = True
    ) -> tuple[Any, _Hidden]:
        """Run over time.

        Parameters
        ----------
        input : Tensor, shape (T, B, m), or (B, T, m) with ``batch_first``, or (T, m); or PackedSequence
            Real, also if the layer is complex; or of the dtype of the layer.
        hx : Tensor, shape (levels * directions, B, n), or (levels * directions, n) for one sequence, optional
            State to start from; a tuple for a cell with several. Default: the cell's own.
        every_step : bool
            Whether the outputs of all steps are wanted. The last ones are in ``h_n``.

        Returns
        -------
        output : Tensor, shape (T, B, n * directions), or like the input; or PackedSequence; or None
        h_n : Tensor, or tuple of them
            The last state, like ``hx``.

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If ``input`` or ``hx`` does not fit the layer, or has no time steps.
        """
        cells = [self.cell.bind(self.weights(suffix)) for suffix in self.suffixes]  # reads every weight, once
        if isinstance(input, PackedSequence):
            return self._forward_packed(cells, input, hx, every_step)
        batched = input.dim() == 3
        self._require_input(input, 3 if batched else 2, cells[0])
        swap = self.batch_first and batched
        x = input.transpose(0, 1) if swap else input if batched else input.unsqueeze(1)
        if not len(x):
            raise ShapeError(
                f"A sequence needs at least one time step.\nGot input of shape {tuple(input.shape)}.\nLeave it out."
            )
        y, h_n = self._run(cells, x, self._states(cells, hx, x.shape[1] if batched else None), every_step)
        if not batched:
            h_n = tuple(h.squeeze(1) for h in h_n)
        if y is not None:
            y = y.transpose(0, 1) if swap else y if batched else y.squeeze(1)
        return y, _unwrap(h_n)

    def _forward_packed(
        self, cells: list[Cell], input: PackedSequence, hx: _Hidden | None, every_step: bool
    ) -> tuple[PackedSequence | None, _Hidden]:
        x, batch_sizes, order, back = input
        self._require_input(x, 2, cells[0])
        sizes = batch_sizes.tolist()
        states = self._states(cells, hx, sizes[0])
        if hx is not None and order is not None:
            states = [tuple(s.index_select(0, order) for s in state) for state in states]
        y, h_n = self._run(cells, x, states, every_step, sizes)
        if back is not None:
            h_n = tuple(h.index_select(1, back) for h in h_n)
        return None if y is None else PackedSequence(y, batch_sizes, order, back), _unwrap(h_n)

    def _run(
        self,
        cells: list[Cell],
        x: Tensor,
        states: list[State],
        every_step: bool,
        batch_sizes: Sequence[int] | None = None,
    ) -> tuple[Tensor | None, State]:
        """Run all levels over time-major or packed inputs."""
        runs = iter(zip(cells, states, strict=True))
        held = registry(self)
        finals = []
        y: Tensor | None = None
        for level in range(self.num_layers):
            if level:
                assert y is not None
                x = real_features(y)
                x = F.dropout(x, self.dropout, self.training) if self.dropout else x
            outputs = []
            for direction in self.directions:
                cell, state = next(runs)
                name = f"weight_hh_l{level}{direction}"
                entry = held[name] if held is not None and name in held else None
                out, final = scan.run(
                    cell,
                    x,
                    state,
                    cell.weights["weight_hh"],
                    batch_sizes=batch_sizes,
                    reverse=direction == "_reverse",
                    backend=self.backend,
                    diagonal=getattr(entry, "gives_diagonal", False),
                    every_step=every_step or level < self.num_layers - 1,
                    recompute=self.recompute,
                )
                outputs.append(out)
                finals.append(final)
            kept = [out for out in outputs if out is not None]
            y = torch.cat(kept, -1) if len(kept) > 1 else kept[0] if kept else None
        return y, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def _states(self, cells: list[Cell], hx: _Hidden | None, batch: int | None) -> list[State]:
        """One starting state for each cell; ``batch`` is None for a single sequence, whose ``hx`` has no batch axis."""
        states = self._start(cells, 1 if batch is None else batch)
        if hx is None:
            return states
        parts = hx if isinstance(hx, tuple) else (hx,)
        rows = () if batch is None else (batch,)
        require_state(parts, [(len(cells), *rows, *s.shape[1:]) for s in states[0]], states[0][0])
        parts = parts if rows else tuple(part.unsqueeze(1) for part in parts)
        return list(zip(*(part.unbind(0) for part in parts), strict=True))

    def _require_input(self, x: Tensor, dim: int, cell: Cell) -> None:
        weight = next(iter(cell.weights.values()))
        if x.dim() != dim or x.shape[-1] != self.input_size:
            raise ShapeError(
                "input has the axes (time, batch, feature), or (time, feature) for one sequence or packed data.\n"
                f"Expected input_size {self.input_size} on the last axis, got shape {tuple(x.shape)}.\n"
                "Check input_size, or add the missing axis."
            )
        if x.dtype not in (weight.dtype, weight.real.dtype) and not torch.is_autocast_enabled(autocast_device(x)):
            raise DtypeError(
                f"input must have the dtype of the weights.\nExpected {weight.dtype}, got {x.dtype}.\n"
                f"Convert input with .to({weight.dtype}), or the layer with .to({x.dtype})."
            )
        if x.device != weight.device:
            raise DeviceError(
                f"input must be on the device of the weights.\nExpected {weight.device}, got {x.device}.\n"
                "Move one of them with .to(device)."
            )

    def extra_repr(self) -> str:
        """Show sizes, and what differs from the default."""
        options = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        changed = (f"{name}={value}" for name in options if (value := getattr(self, name)) != options[name])
        return ", ".join([f"{self.input_size}, {self.hidden_size}", repr(self.cell), *changed])


def _state_name(part: int, suffix: str) -> str:
    return f"initial_state{'' if part == 1 else part}{suffix}"


def _modules(cell: Cell) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a cell, or a cell inside it, has as options."""
    for name, value in vars(cell).items():
        if isinstance(value, nn.Module):
            yield name, value
        elif isinstance(value, Cell):
            yield from _modules(value)


def _by_block(constraint: Any, gates: tuple[str, ...]) -> Any:
    if not isinstance(constraint, Mapping):
        return constraint
    if unknown := [name for name in constraint if name not in gates]:
        raise OptionError(
            f"constraint names the gates of the cell.\nExpected some of {', '.join(map(repr, gates))}, got "
            f"{unknown[0]!r}.\nCorrect the name, or pass one constraint for all."
        )
    return {gates.index(name): part for name, part in constraint.items()}


def _unwrap(h_n: State) -> _Hidden:
    return h_n if len(h_n) > 1 else h_n[0]
