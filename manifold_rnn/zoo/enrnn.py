"""The eigenvalue-normalised network."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import init

from ..constraints import FixedBase, StickyDisc, block_triangular, constrain, release
from ..errors import OptionError
from ..linalg import cayley, pack_skew
from ..manifolds import BlockTriangular, Orthogonal, TriangularLayout, UnitDisc
from ..nn import RNN
from ..nn.init import cayley_
from ..retractions import Retraction
from .network import Network, signs


def enrnn(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    short_size: int | None = None,
    negatives: int | None = None,
    retraction: str | Retraction = "cayley",
    view: Literal["update", "trivialized"] = "trivialized",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    r"""ENRNN: an orthogonal long memory with input from a short memory, whose eigenvalues lie in the unit disc.

    .. math::
        h_t = \operatorname{modReLU}(W h_{t-1} + U x_t;\; b), \qquad o_t = V h_t + c, \qquad
        W = \begin{pmatrix} W^L & W^C \\ 0 & M / \rho \end{pmatrix},

    :math:`W^L` is a scaled Cayley transform as in `scornn`. :math:`W^C` and :math:`M` are unconstrained. :math:`\rho`
    is 1 until the spectral radius of :math:`M` first exceeds 1, and this radius from then on
    (`manifold_rnn.StickyDisc`).

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Number ``m`` of input features, ``n`` of hidden units in both memories and ``k`` of outputs.
    short_size : int, optional
        Number :math:`n_S` of units in the short memory, which are the last ones. The long memory has :math:`n_L = n -
        n_S`. The paper has 20 of 192 for the copying problem and 64 of 160 for the adding problem. Default: a quarter
        of n, at least 1.
    negatives : int, optional
        Number of entries -1 in the diagonal that scales :math:`W^L`. Default: 0.3 of n_L, rounded down.
    retraction : str or Retraction
        Retraction that replaces the Cayley transform.
    view : "trivialized" or "update"
        "trivialized" is the method of the paper. With "update" a Riemannian optimizer moves ``W`` itself. Then M is
        scaled back into the disc after each step, and :math:`\rho` has no memory (`manifold_rnn.UnitDisc`).
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
        If ``short_size`` or ``negatives`` does not fit ``hidden_size``, or ``retraction`` or ``view`` is unknown.

    Notes
    -----
    Number of parameters: :math:`n_L(n_L - 1)/2 + n_S^2 + n_L n_S + n(m + 1 + k) + k`. Initialization: :math:`W^L` as in
    `scornn`. M is a Cayley transform whose pairs of eigenvalues are scaled by :math:`\gamma_j \sim U(-1, 1)`.
    :math:`W^C` and V follow Glorot's rule, U is uniform in ±0.01, b and c are zero.

    The paper trains ``A`` of :math:`W^L` with RMSprop. Its learning rate is a hundredth of that of the other weights
    for copying, and the same for adding. ``parameter_groups(lr)`` uses a tenth, times the :math:`2\sqrt 2` of `scornn`.
    If n_S is odd, the released code does not align the scaling with the pairs. Here the single eigenvalue is the last
    one. Source: Helfrich and Ye (2020).

    Examples
    --------
    >>> network = mr.zoo.enrnn(10, 192, 9, short_size=20)
    >>> assert mr.degrees_of_freedom(network) == 22395
    """
    short = max(1, hidden_size // 4) if short_size is None else short_size
    if not 0 < short < hidden_size:
        raise OptionError(
            "enrnn splits its units into a long and a short memory, and neither may be empty.\n"
            f"Expected short_size from 1 to {hidden_size - 1}, got {short} of hidden_size {hidden_size}.\n"
            "Change short_size or hidden_size."
        )
    long, name = hidden_size - short, "weight_hh_l0"
    negatives = int(0.3 * long) if negatives is None else negatives
    layer = RNN(input_size, hidden_size, nonlinearity="modrelu", batch_first=True, device=device, dtype=dtype)
    rate = 0.1 * 2 * math.sqrt(2)
    rates = {"members.top.coordinates": rate, name: 1.0} if view == "trivialized" else {name: rate}
    network = Network(layer, output_size, rates=rates)
    like = layer.get_parameter(name).detach()
    top, bottom = FixedBase(Orthogonal(retraction), negatives), StickyDisc()
    A = cayley_(like.new_empty(long, long), generator=generator)
    d = signs(A, negatives)
    coupling = init.xavier_uniform_(like.new_empty(long, short), generator=generator)
    parts = d.diag(), _inside_the_disc(like.new_empty(short, short), generator), coupling
    start = TriangularLayout(long).join(parts, tuple(like.shape))
    constrain(layer, name, block_triangular(top, bottom, split=long), view="trivialized", init=lambda _: start)
    with torch.no_grad():
        layer.get_parameter(f"constraints.{name}.members.top.coordinates").copy_(pack_skew(-2 * d[:, None] * A * d))
    if view != "trivialized":
        manifold = BlockTriangular(top.manifold, UnitDisc(), split=long)
        constrain(release(layer, name), name, manifold, view=view)
    init.uniform_(layer.get_parameter("weight_ih_l0"), -0.01, 0.01, generator=generator)
    init.zeros_(layer.get_parameter("bias_l0"))
    init.xavier_uniform_(network.readout.weight, generator=generator)
    init.zeros_(network.readout.bias)
    return network


def _inside_the_disc(M: Tensor, generator: torch.Generator | None) -> Tensor:
    """A matrix with the eigenvalues ``gamma_j exp(+-i t_j)`` of the published initialization."""
    n = len(M)
    gamma = M.new_empty((n + 1) // 2).uniform_(-1, 1, generator=generator).repeat_interleave(2)[:n]
    with torch.no_grad():
        return cayley(-2 * cayley_(M, generator=generator)) * gamma
