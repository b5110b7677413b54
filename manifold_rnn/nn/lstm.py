"""The long short-term memory: ``torch.nn.LSTM`` whose recurrent matrices may be constrained."""

from collections.abc import Mapping
from typing import Literal

import geoopt
import torch

from ..constraints import Constraint
from ..errors import UnsupportedError
from . import cells
from .layer import Layer
from .scan.backends import BackendName


class LSTM(Layer):
    r"""``torch.nn.LSTM`` with constrained recurrent matrices, real or complex.

    The recurrence is that of `cells.LSTM`: gates decide what a memory ``c`` forgets, takes in and shows.

    Parameters
    ----------
    input_size, hidden_size : int
        Features of an input, and of a state.
    num_layers : int
        Levels, one on top of the other.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether padded inputs and outputs are (B, T, ...).
    dropout : float
        Probability of dropping an output between levels, while training.
    bidirectional : bool
        Whether each level also runs from the end.
    proj_size : int
        0. Here for code that passes torch's arguments by position.
    device : torch.device, optional
    dtype : torch.dtype, optional
        Of the weights; a complex one makes a complex network, whose outputs and states are complex.
    constraint : geoopt.Manifold or Constraint, or mapping from str to them, optional
        Of the n x n block of every gate; or by the names of the gates, "i", "f", "g" and "o", the others free.
        Without one this is ``torch.nn.LSTM``.
    view : "update" or "trivialized"
        Whether a Riemannian optimizer moves ``weight_hh_l*`` itself, or any optimizer its coordinates.
    train_initial_state : bool
        Whether the state before the first step is trained: h as ``initial_state_l0`` and so on, c as
        ``initial_state2_l0``.
    backend : str
        How the cell is run over time; see `manifold_rnn.nn.scan.run`.
    recompute : bool
        See `Layer`.

    Raises
    ------
    OptionError, ShapeError
        If an option is unknown or a size is below 1.
    UnsupportedError
        If ``proj_size`` is not 0.

    Notes
    -----
    ``layer(input, hx=None) -> (output, (h_n, c_n))``; see `Layer.forward`. Parameters have torch's names, layout and
    start, so ``load_state_dict`` takes those of a ``torch.nn.LSTM``, and gives them back if nothing is trivialized. A
    complex level passes [Re, Im] to the next one.

    Examples
    --------
    >>> lstm = mr.nn.LSTM(3, 8, constraint={"g": mr.Orthogonal()})
    >>> output, (h_n, c_n) = lstm(torch.zeros(5, 2, 3))
    >>> assert output.shape == (5, 2, 8) and mr.linalg.defect(lstm.weight_hh_l0[16:24]) < 1e-5
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        constraint: geoopt.Manifold | Constraint | Mapping[str, geoopt.Manifold | Constraint] | None = None,
        view: Literal["update", "trivialized"] = "update",
        train_initial_state: bool = False,
        backend: BackendName = "auto",
        recompute: bool = False,
    ) -> None:
        if proj_size:
            raise UnsupportedError(
                "LSTM has no projection: constraints are for square recurrent matrices.\n"
                f"Expected proj_size 0, got {proj_size}.\nUse torch.nn.LSTM, or a smaller hidden_size."
            )
        super().__init__(
            cells.LSTM(bias),
            input_size,
            hidden_size,
            num_layers,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
            constraint=constraint,
            view=view,
            train_initial_state=train_initial_state,
            backend=backend,
            recompute=recompute,
        )
        self.bias = bias
        self.proj_size = 0
