"""The gated recurrent unit: ``torch.nn.GRU`` with recurrent matrices that can be constrained."""

from typing import Unpack, final

import torch

from . import cells
from .layer import Layer
from .options import LayerOptions


@final
class GRU(Layer):
    r"""``torch.nn.GRU`` with constrained recurrent matrices, real or complex.

    The recurrence is that of `cells.GRU`. A gate decides how far each unit moves from its old value to a new one.

    Parameters
    ----------
    input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, device, dtype
        As in ``torch.nn.GRU``. See `Layer`. A complex ``dtype`` gives a complex network.
    bias : bool
        Whether to add biases.
    **options
        ``constraint``, ``view``, ``rebase_every``, ``train_initial_state``, ``backend`` and ``recompute``. See `Layer`.
        A constraint applies to the (n, n) block of every gate. A mapping has constraints for some of the gates "r", "z"
        and "n". Without a constraint this is ``torch.nn.GRU``.

    Raises
    ------
    OptionError, ShapeError
        If an option is unknown or a size is below 1.

    Notes
    -----
    Call it as ``layer(input, hx=None) -> (output, h_n)``. See `Layer.forward`. Parameters have torch's names, layout
    and initialization. So ``load_state_dict`` accepts the parameters of a ``torch.nn.GRU``, and torch's layer accepts
    those of this one unless a weight is trivialized. A complex level passes [Re, Im] to the next level.

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
        **options: Unpack[LayerOptions],
    ) -> None:
        cell, sizes = cells.GRU(bias), (input_size, hidden_size, num_layers)
        super().__init__(cell, *sizes, batch_first, dropout, bidirectional, device, dtype, **options)
        self.bias = bias
