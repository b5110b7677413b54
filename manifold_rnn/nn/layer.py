"""The layer that runs any cell over time, in levels and directions, with the interface of ``torch.nn.RNN``."""

from collections.abc import Iterator, Sequence
from inspect import Signature
from typing import Any, ClassVar, TypeAlias, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from .._options import full_signature
from .._torch import sees_every_step, writable
from ..constraints.constrain import constrain
from ..constraints.registry import entries
from . import scan
from .activations import real_features
from .cells import Cell
from .cells.base import State
from .inputs import require_input, require_state, require_steps
from .kinds import KeepsKind
from .options import (
    DEFAULTS,
    LayerOptions,
    complete_options,
    constraint_by_block,
    require_arguments,
    require_recurrent_matrix,
)
from .unit_gates import LayerGates

_Hidden: TypeAlias = Tensor | tuple[Tensor, ...]


class Layer(KeepsKind):
    r"""A layer of any cell, with the interface of ``torch.nn.RNN``. `RNN`, `LSTM` and `GRU` are subclasses.

    Parameters
    ----------
    cell : Cell
        The unbound cell. If an option of the cell is a module, the layer registers it, and all levels share it.
    input_size, hidden_size : int
        Number of features of the input, and of the state.
    num_layers : int
        Number of levels. Each level receives the outputs of the level below, as [Re, Im] if they are complex.
    batch_first : bool
        Whether padded inputs and outputs are (B, T, ...) instead of (T, B, ...). This does not apply to states.
    dropout : float
        Probability of zeroing an output between two levels during training.
    bidirectional : bool
        Whether each level also runs from the last step to the first. The outputs of both directions are concatenated.
    device : torch.device, optional
        Device of the weights.
    dtype : torch.dtype, optional
        Dtype of the weights. If it is complex, states and outputs are complex.
    constraint : geoopt.Manifold or Constraint, or mapping from str to them, optional
        Constraint of every recurrent matrix of every level and direction. A mapping has constraints by the name of the
        gate, such as ``{"g": Orthogonal()}``. The other gates are then unconstrained.
    view : "update" or "trivialized", optional
        With "update" a Riemannian optimizer moves ``weight_hh_l*`` itself, with "trivialized" any optimizer moves its
        coordinates. See `manifold_rnn.constrain`, also for the default.
    rebase_every : int, optional
        In the trivialized view, number of optimizer steps after which the weight becomes the new base point.
    train_initial_state : bool
        Whether to train the state before the first step. It is stored in the parameters ``initial_state_l0`` and so on,
        which are initially zero. The second part of a cell's state is ``initial_state2_l0``. An ``hx`` replaces them.
    backend : str
        Scan that runs the cell over time. See `manifold_rnn.nn.scan.run`.
    recompute : bool
        Whether to keep only about :math:`\sqrt T` states for the backward pass, which computes the other states again.
        It has no effect if the forward pass returns all outputs.

    Attributes
    ----------
    suffixes : tuple of str
        Suffixes of the parameter names, one for each level and direction: "_l0", "_l0_reverse", "_l1" and so on.
    unit_gates : LayerGates or None
        Gates of the units, if `gate_units` has added them.

    Raises
    ------
    ShapeError, OptionError
        If a size is below 1, ``dropout`` is outside [0, 1], or an option, a gate or the backend is unknown.

    Notes
    -----
    The name of a parameter is the cell's name of the weight with torch's suffix, such as ``weight_hh_l0`` or
    ``weight_ih_l1_reverse``. Each weight is read once per forward pass, for any sequence length.

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.Elman("relu"), 2, 3)
    >>> assert layer(torch.zeros(5, 1, 2))[0].shape == (5, 1, 3)
    """

    __signature__: ClassVar[Signature]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            cls.__signature__ = full_signature(cls.__init__, LayerOptions, DEFAULTS)

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
        **options: Unpack[LayerOptions],
    ) -> None:
        options = complete_options(type(self), options)
        require_arguments(cell, input_size, hidden_size, num_layers, dropout)
        super().__init__()
        self.cell = cell
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        self.backend, self.recompute = options["backend"], options["recompute"]
        self.train_initial_state = options["train_initial_state"]
        self.unit_gates: LayerGates | None = None
        for name, module in _modules_of(cell):
            self.add_module(name, module)
        for suffix in self.suffixes:
            self._register_weights(suffix, device, dtype)
        self.reset_parameters()
        if (constraint := options["constraint"]) is not None:
            require_recurrent_matrix(cell)
            by_block = constraint_by_block(constraint, cell.gates)
            moving: dict[str, Any] = {"view": options["view"], "rebase_every": options["rebase_every"]}
            for suffix in self.suffixes:
                constrain(self, "weight_hh" + suffix, by_block, blocks=len(cell.gates), **moving)

    def _register_weights(self, suffix: str, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Allocate the weights of one level and direction, and the initial state if it is trained."""
        output_features = self.hidden_size * len(self.directions) * (2 if dtype is not None and dtype.is_complex else 1)
        size = self.input_size if suffix.startswith("_l0") else output_features
        weights = self.cell.allocate(size, self.hidden_size, device=device, dtype=dtype)
        self._weight_names = tuple(weights)
        for name, weight in weights.items():
            self.register_parameter(name + suffix, nn.Parameter(weight))
        if self.train_initial_state:
            for part, state in enumerate(self.cell.bind(weights).initial_state(1), 1):
                self.register_parameter(_state_name(part, suffix), nn.Parameter(state[0].detach().clone()))

    @property
    def directions(self) -> tuple[str, ...]:
        """Suffixes of the directions, "" and, if bidirectional, "_reverse"."""
        return ("", "_reverse") if self.bidirectional else ("",)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the parameter names, one for each level and direction."""
        return tuple(f"_l{level}{direction}" for level in range(self.num_layers) for direction in self.directions)

    def weights(self, suffix: str) -> dict[str, Tensor]:
        """Return the weights of one level and direction by the cell's names. Constrained weights are computed.

        Columns that read gated units are multiplied by the gates.

        Parameters
        ----------
        suffix : str
            One of `suffixes`.
        """
        weights = {name: getattr(self, name + suffix) for name in self._weight_names}
        return weights if self.unit_gates is None else self.unit_gates.scaled(suffix, weights)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of each level and direction, as in ``torch.nn.RNN``."""
        return [list(self.weights(suffix).values()) for suffix in self.suffixes]

    def flatten_parameters(self) -> None:
        """Do nothing. Code for torch's layers calls this, but here the memory layout has no effect."""

    def reset_parameters(self) -> None:
        """Initialize the weights again. A constrained weight keeps its value."""
        for suffix in self.suffixes:
            weights = {name: getattr(self, name + suffix) for name in self._weight_names}.items()
            drawn = {name: torch.empty_like(w) if name + suffix in self._constrained else w for name, w in weights}
            self.cell.bind(drawn).reset()
        for name, p in self._parameters.items():
            if name.startswith("initial_state") and p is not None:
                nn.init.zeros_(p)

    @property
    def _constrained(self) -> dict[str, bool]:
        """Whether each constrained weight is diagonal, by the name of the weight."""
        return {name: entry.is_diagonal for name, entry in entries(self).items()}

    def forward(
        self, input: Tensor | PackedSequence, hx: _Hidden | None = None, *, every_step: bool = True
    ) -> tuple[Any, _Hidden]:
        """Run the layer over a batch of sequences.

        Parameters
        ----------
        input : Tensor, shape (T, B, m), or (B, T, m) with ``batch_first``, or (T, m); or PackedSequence
            Inputs in the dtype of the layer. A complex layer also accepts real inputs.
        hx : Tensor, shape (levels * directions, B, n), or (levels * directions, n) for one sequence, optional
            Initial state. Pass a tuple of tensors for a cell whose state has several parts. Default: the initial state
            of the cell.
        every_step : bool
            Whether to return the outputs of all steps. Those of the last step are in ``h_n``.

        Returns
        -------
        output : Tensor, shape (T, B, n * directions), with the axes of the input; or PackedSequence; or None
        h_n : Tensor, or tuple of them
            The last state, with the shape of ``hx``.

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If ``input`` or ``hx`` does not fit the layer, or has no time steps.
        NonFiniteError
            If states of a cell with a ``largest_input`` overflow.
        """
        if self.unit_gates is not None and self.training:
            self.unit_gates.sample()
        cells = [self.cell.bind(self.weights(suffix)) for suffix in self.suffixes]  # reads every weight once
        weight = next(iter(cells[0].weights.values()))
        if isinstance(input, PackedSequence):
            require_input(input.data, self.input_size, 2, weight)
            return self._forward_packed(cells, input, hx, every_step)
        is_batched = input.dim() == 3
        require_input(input, self.input_size, 3 if is_batched else 2, weight)
        swaps_axes = self.batch_first and is_batched
        x = input.transpose(0, 1) if swaps_axes else input if is_batched else input.unsqueeze(1)  # (T, B, m)
        require_steps(x, tuple(input.shape))
        states = self.initial_states(cells, hx, x.shape[1] if is_batched else None)
        y, h_n = self._run_levels(cells, x, states, every_step)  # (T, B, n * directions), (levels * directions, B, n)
        if not is_batched:
            h_n = tuple(h.squeeze(1) for h in h_n)
        if y is not None:
            y = y.transpose(0, 1) if swaps_axes else y if is_batched else y.squeeze(1)
        return y, _without_tuple_of_one(h_n)

    def _forward_packed(
        self, cells: list[Cell], input: PackedSequence, hx: _Hidden | None, every_step: bool
    ) -> tuple[PackedSequence | None, _Hidden]:
        x, batch_sizes, sorted_indices, unsorted_indices = input
        sizes = batch_sizes.tolist()
        states = self.initial_states(cells, hx, sizes[0])
        if hx is not None and sorted_indices is not None:
            states = [tuple(s.index_select(0, sorted_indices) for s in state) for state in states]
        y, h_n = self._run_levels(cells, x, states, every_step, sizes)  # (N, n * directions), ...
        if unsorted_indices is not None:
            h_n = tuple(h.index_select(1, unsorted_indices) for h in h_n)
        output = None if y is None else PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        return output, _without_tuple_of_one(h_n)

    def _run_levels(
        self,
        cells: list[Cell],
        x: Tensor,
        states: list[State],
        every_step: bool,
        batch_sizes: Sequence[int] | None = None,
    ) -> tuple[Tensor | None, State]:
        """Run all levels over time-major or packed inputs."""
        runs = iter(zip(self.suffixes, cells, states, strict=True))
        constrained = self._constrained
        last_states = []
        y: Tensor | None = None
        for level in range(self.num_layers):
            if level:
                assert y is not None
                x = real_features(y)
                x = F.dropout(x, self.dropout, self.training) if self.dropout else x
            outputs = []
            for direction in self.directions:
                suffix, cell, state = next(runs)
                output, last_state = scan.run(
                    cell,
                    x,
                    state,
                    cell.weights["weight_hh"],
                    batch_sizes=batch_sizes,
                    reverse=direction == "_reverse",
                    backend=self.backend,
                    diagonal=constrained.get("weight_hh" + suffix, False),
                    every_step=every_step or level < self.num_layers - 1,
                    recompute=self.recompute,
                )
                cell.require_states(last_state[0] if output is None else output)
                last_states.append(last_state)
                if output is not None:
                    outputs.append(output)
            y = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0] if outputs else None
        if y is not None and y.requires_grad and not self.bidirectional and not sees_every_step():
            y = writable(y)  # a scan in one autograd function needs its outputs for the backward pass
        return y, tuple(torch.stack(parts) for parts in zip(*last_states, strict=True))

    def initial_states(self, cells: list[Cell], hx: _Hidden | None, batch: int | None) -> list[State]:
        """Return the initial state of each level and direction, with parts of shape (B, n).

        Parameters
        ----------
        cells : list of Cell
            Bound cells, one for each of the `suffixes`.
        hx : Tensor or tuple of Tensor, optional
            As for `forward`.
        batch : int, optional
            Number B of sequences, or None if the input has no batch axis.
        """
        states = [cell.initial_state(1 if batch is None else batch) for cell in cells]
        if hx is not None:
            parts = hx if isinstance(hx, tuple) else (hx,)
            rows = () if batch is None else (batch,)
            require_state(parts, [(len(cells), *rows, *s.shape[1:]) for s in states[0]], states[0][0])
            parts = parts if rows else tuple(part.unsqueeze(1) for part in parts)
            return list(zip(*(part.unbind(0) for part in parts), strict=True))
        if not self.train_initial_state:
            return states
        return [
            tuple(getattr(self, _state_name(part, suffix)).expand_as(zeros) for part, zeros in enumerate(state, 1))
            for suffix, state in zip(self.suffixes, states, strict=True)
        ]

    def extra_repr(self) -> str:
        """Show the sizes, the cell, and the options that differ from their defaults."""
        defaults = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False}.items()
        changed = (f"{name}={value}" for name, default in defaults if (value := getattr(self, name)) != default)
        return ", ".join([f"{self.input_size}, {self.hidden_size}", repr(self.cell), *changed])


Layer.__signature__ = full_signature(Layer.__init__, LayerOptions, DEFAULTS)


def _state_name(part: int, suffix: str) -> str:
    """Return the name of the parameter of one part of an initial state, counted from 1."""
    return f"initial_state{'' if part == 1 else part}{suffix}"


def _modules_of(cell: Cell) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules among the options of a cell and of its host cell."""
    for name, value in vars(cell).items():
        if isinstance(value, nn.Module):
            yield name, value
        elif isinstance(value, Cell):
            yield from _modules_of(value)


def _without_tuple_of_one(h_n: State) -> _Hidden:
    return h_n if len(h_n) > 1 else h_n[0]
