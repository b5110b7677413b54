"""The non-saturating recurrent unit."""

import torch
from torch.nn import init

from ..nn import Layer, cells
from .network import Network


def nru(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    memory_size: int = 64,
    heads: int = 4,
    rectify: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""NRU: a rectified state and an additive memory without saturation. No weight is constrained.

    .. math::
        h_t &= \operatorname{relu}(W h_{t-1} + U x_t + W_m c_{t-1} + b), \qquad o_t = V h_t + b_o, \\
        c_t &= c_{t-1} + \frac{1}{K} \sum_{i=1}^K \bigl(\alpha_i d_i - \beta_i e_i\bigr),

    The strengths :math:`\alpha, \beta` and the directions :math:`d_i, e_i`, which have 5-norm 1, depend on :math:`h_t`
    and :math:`c_{t-1}` (`manifold_rnn.nn.cells.NRU`). :math:`h_0 = c_0 = 0`.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units and ``k`` of outputs.
    memory_size : int
        Number ``M`` of entries of the memory. The released configuration for permuted pixels has 256, with n = 212.
    heads : int
        Number ``K`` of heads. K M must be a square number.
    rectify : bool
        Whether to rectify strengths and directions. The paper does, the released configuration does not.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.
    device : torch.device, optional
        Device of the weights. Default: torch's default device.
    dtype : torch.dtype, optional
        Real dtype of the weights. Default: torch's default dtype.

    Returns
    -------
    Network

    Raises
    ------
    OptionError
        If K M is not a square.

    Notes
    -----
    Number of parameters: :math:`n(m + n + M + 1) + (n + M + 1)(2K + 4\sqrt{KM}) + nk + k`. Initialization: the weights
    of [x, h, c] form one linear map, and those of [h, c] another. Each map with N inputs is uniform in :math:`\pm
    1/\sqrt N`. V follows Glorot's normal rule, and :math:`b_o` is zero.

    The released code trains all weights with Adam at 1e-3. It clips the norm of the gradient at 1, which the unbounded
    memory needs. It averages over heads, as here. It can also normalize ``h``, which is not implemented here. For
    images it reads the result after one more input of zero. Source: Chandar et al. (2019).

    Examples
    --------
    >>> network = mr.zoo.nru(1, 212, 10, memory_size=256)
    >>> assert mr.degrees_of_freedom(network) == 165554
    """
    cell = cells.NRU(memory_size, heads, rectify)
    layer = Layer(cell, input_size, hidden_size, batch_first=True, device=device, dtype=dtype)
    network = Network(layer, output_size, rates={})
    cell.bind({name.removesuffix("_l0"): p for name, p in layer.named_parameters()}).reset(generator)
    init.xavier_normal_(network.readout.weight, generator=generator)
    init.zeros_(network.readout.bias)
    return network
