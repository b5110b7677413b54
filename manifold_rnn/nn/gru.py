"""The gated recurrent unit: ``torch.nn.GRU`` whose recurrent matrices may be constrained."""

from collections.abc import Mapping
from typing import Literal

import geoopt
import torch

from ..constraints import Constraint
from . import cells
from .layer import Layer
from .scan.backends import BackendName


class GRU(Layer):
    r"""``torch.nn.GRU`` with constrained recurrent matrices, real or complex.

    The recurrence is that of `cells.GRU`: each unit moves from its past value to a new one as far as a gate lets it.

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
    device : torch.device, optional
    dtype : torch.dtype, optional
        Of the weights; a complex one makes a complex network, whose outputs and states are complex.
    constraint : geoopt.Manifold or Constraint, or mapping from str to them, optional
        Of the n x n block of every gate; or by the names of the gates, "r", "z" and "n", the others free.
        Without one this is ``torch.nn.GRU``.
    view : "update" or "trivialized"
        Whether a Riemannian optimizer moves ``weight_hh_l*`` itself, or any optimizer its coordinates.
    train_initial_state : bool
        Whether the state before the first step is trained, as the parameter ``initial_state_l0`` and so on.
    backend : str
        How the cell is run over time; see `manifold_rnn.nn.scan.run`.
    recompute : bool
        See `Layer`.

    Raises
    ------
    OptionError, ShapeError
        If an option is unknown or a size is below 1.

    Notes
    -----
    ``layer(input, hx=None) -> (output, h_n)``; see `Layer.forward`. Parameters have torch's names, layout and
    start, so ``load_state_dict`` takes those of a ``torch.nn.GRU``, and gives them back if nothing is trivialized. A
    complex level passes [Re, Im] to the next one.

    Examples
    --------
    >>> gru = mr.nn.GRU(3, 8, constraint={"n": mr.Orthogonal()})
    >>> assert gru(torch.zeros(5, 2, 3))[0].shape == (5, 2, 8)
    >>> assert mr.linalg.defect(gru.weight_hh_l0[16:]) < 1e-5
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        constraint: geoopt.Manifold | Constraint | Mapping[str, geoopt.Manifold | Constraint] | None = None,
        view: Literal["update", "trivialized"] = "update",
        train_initial_state: bool = False,
        backend: BackendName = "auto",
        recompute: bool = False,
    ) -> None:
        super().__init__(
            cells.GRU(bias),
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
