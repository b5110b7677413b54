"""The Elman network: ``torch.nn.RNN`` with a recurrent matrix that can be constrained."""

from collections.abc import Callable
from typing import Unpack, final

import torch
from torch import Tensor

from .cells import Elman
from .layer import Layer
from .options import LayerOptions


@final
class RNN(Layer):
    r"""``torch.nn.RNN`` with a constrained recurrent matrix, real or complex.

    .. math:: h_t = f(W h_{t-1} + V x_t + b), \qquad W \text{ on the manifold.}

    Parameters
    ----------
    input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, device, dtype
        As in ``torch.nn.RNN``. See `Layer`. A complex ``dtype`` gives a complex network.
    nonlinearity : "tanh", "relu", "modrelu" or callable
        ``f``. modReLU has its own bias. A module is shared by all levels and directions.
    bias : bool
        Whether to add the bias ``b``.
    **options
        ``constraint``, ``view``, ``rebase_every``, ``train_initial_state``, ``backend`` and ``recompute``. See `Layer`.
        Without a constraint this is ``torch.nn.RNN``.

    Raises
    ------
    OptionError, ShapeError, DtypeError
        If an option is unknown, or a size or the dtype does not fit.

    Notes
    -----
    Call it as ``layer(input, hx=None) -> (output, h_n)``. See `Layer.forward`. Parameters have torch's names and
    initialization, so ``load_state_dict`` accepts the parameters of a ``torch.nn.RNN``. The bias of modReLU is
    ``bias_l0``. A complex level passes [Re, Im] to the next level. Use `real_features` to do the same before a readout.

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
        **options: Unpack[LayerOptions],
    ) -> None:
        cell, sizes = Elman(nonlinearity, bias), (input_size, hidden_size, num_layers)
        super().__init__(cell, *sizes, batch_first, dropout, bidirectional, device, dtype, **options)
        self.nonlinearity, self.bias = nonlinearity, bias
