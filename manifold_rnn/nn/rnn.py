"""The Elman network: ``torch.nn.RNN`` whose recurrent matrix may be constrained."""

from collections.abc import Callable, Mapping
from typing import Literal

import geoopt
import torch
from torch import Tensor

from ..constraints import Constraint
from .cells import Elman
from .layer import Layer
from .scan.backends import BackendName


class RNN(Layer):
    r"""``torch.nn.RNN`` with a constrained recurrent matrix, real or complex.

    .. math:: h_t = f(W h_{t-1} + V x_t + b), \qquad W \text{ on the manifold.}

    Parameters
    ----------
    input_size, hidden_size : int
        Features of an input, and of a state.
    num_layers : int
        Levels, one on top of the other.
    nonlinearity : "tanh", "relu", "modrelu" or callable
        ``f``; with modReLU the bias is its own.
    bias : bool
        Whether there is one.
    batch_first : bool
        Whether padded inputs and outputs are (B, T, ...).
    dropout : float
        Probability of dropping an output between levels, while training.
    bidirectional : bool
        Whether each level also runs from the end.
    device : torch.device, optional
    dtype : torch.dtype, optional
        Of the weights; a complex one makes a complex network, whose outputs and states are complex.
    constraint : geoopt.Manifold or Constraint, optional
        A manifold or a structured constraint, for each level and direction. Without one this is ``torch.nn.RNN``.
    view : "update" or "trivialized"
        Whether a Riemannian optimizer moves ``weight_hh_l*`` itself, or any optimizer its coordinates.
    train_initial_state : bool
        Whether the state before the first step is trained, as the parameter ``initial_state_l0`` and so on.
    backend : str
        How the cell is run over time; see `manifold_rnn.nn.scan.run`.
    recompute : bool
        Where only last outputs are asked for: keep few states, and compute the others twice.

    Raises
    ------
    OptionError, ShapeError, DtypeError
        If an option is unknown or a size is below 1.

    Notes
    -----
    ``layer(input, hx=None) -> (output, h_n)``; see `Layer.forward`. Parameters have torch's names and start as torch's
    do, so ``load_state_dict`` takes those of a ``torch.nn.RNN``; the bias of modReLU is ``bias_l0``. A complex level
    passes [Re, Im] to the next one; use `real_features` to do the same before a readout. ``W`` is read once per
    forward, however long the sequence. A module given as nonlinearity is shared by all levels and directions.

    Examples
    --------
    >>> rnn = mr.nn.RNN(3, 8, nonlinearity="modrelu", constraint=mr.Orthogonal())
    >>> assert mr.linalg.defect(rnn.weight_hh_l0) < 1e-5 and rnn(torch.zeros(5, 2, 3))[0].shape == (5, 2, 8)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str | Callable[[Tensor], Tensor] = "tanh",
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
        cell = Elman(nonlinearity, bias)
        sizes = input_size, hidden_size, num_layers
        super().__init__(
            cell,
            *sizes,
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
        self.nonlinearity, self.bias = nonlinearity, bias
