"""The long short-term memory: ``torch.nn.LSTM`` with recurrent matrices that can be constrained."""

from typing import Unpack, final

import torch

from ..errors import UnsupportedError
from . import cells
from .layer import Layer
from .options import LayerOptions


@final
class LSTM(Layer):
    r"""``torch.nn.LSTM`` with constrained recurrent matrices, real or complex.

    The recurrence is that of `cells.LSTM`. Gates decide what a memory ``c`` forgets, receives and outputs.

    Parameters
    ----------
    input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, device, dtype
        As in ``torch.nn.LSTM``. See `Layer`. A complex ``dtype`` gives a complex network.
    bias : bool
        Whether to add biases.
    proj_size : int
        Must be 0. It exists for code that passes torch's arguments by position.
    **options
        ``constraint``, ``view``, ``rebase_every``, ``train_initial_state``, ``backend`` and ``recompute``. See `Layer`.
        A constraint applies to the (n, n) block of every gate. A mapping has constraints for some of the gates "i",
        "f", "g" and "o". Without a constraint this is ``torch.nn.LSTM``.

    Raises
    ------
    OptionError, ShapeError
        If an option is unknown or a size is below 1.
    UnsupportedError
        If ``proj_size`` is not 0.

    Notes
    -----
    Call it as ``layer(input, hx=None) -> (output, (h_n, c_n))``. See `Layer.forward`. Parameters have torch's names,
    layout and initialization. So ``load_state_dict`` accepts the parameters of a ``torch.nn.LSTM``, and torch's layer
    accepts those of this one unless a weight is trivialized. A complex level passes [Re, Im] to the next level.

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
        **options: Unpack[LayerOptions],
    ) -> None:
        if proj_size:
            raise UnsupportedError(
                "LSTM has no projection, because constraints need square recurrent matrices.\n"
                f"Expected proj_size 0, got {proj_size}.\nUse torch.nn.LSTM, or a smaller hidden_size."
            )
        cell, sizes = cells.LSTM(bias), (input_size, hidden_size, num_layers)
        super().__init__(cell, *sizes, batch_first, dropout, bidirectional, device, dtype, **options)
        self.bias, self.proj_size = bias, 0
