"""A Lipschitz bound of the states of a layer with respect to its inputs, valid for all inputs."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._options import is_integer
from ..errors import NonFiniteError, OptionError
from ..nn import Layer
from .sources import RecurrentLayer, recurrent_layer

_CONTRACTING = ("linear", "relu", "tanh")  # activations with slopes of at most 1


class LipschitzBound(NamedTuple):
    """A bound of a Lipschitz constant.

    Attributes
    ----------
    value : float or None
        The bound, or None if no bound is known.
    reason : str
        How the bound was computed, or why there is none.

    Examples
    --------
    >>> bound = mr.diagnostics.LipschitzBound(None, "the cell has gates")
    >>> assert bound.value is None
    """

    value: float | None
    reason: str


def lipschitz_bound(source: nn.Module, length: int) -> LipschitzBound:
    r"""Bound the change of the last state of a recurrent layer by the change of its inputs, for all inputs.

    For an Elman cell :math:`h_t = f(W h_{t-1} + V x_t + b)`, where ``f`` has slopes of at most 1, the bound is

    .. math:: \|h_T(x + d) - h_T(x)\| \le \|V\|_2 \Bigl(\sum_{k<T} \|W\|_2^{2k}\Bigr)^{1/2} \|d\|, \qquad
        \|d\|^2 = \sum_t \|d_t\|^2.

    Each lower level contributes the factor :math:`\|V\|_2 \sum_{k<T} \|W\|_2^k`, which bounds all of its states
    together.

    Parameters
    ----------
    source : nn.Module
        A recurrent layer of this package or of torch, or a network, whose first recurrent layer is used.
    length : int
        Number of time steps ``T``, at least 1.

    Returns
    -------
    LipschitzBound
        The bound. Its value is None for gated cells, modReLU with a positive bias, user-defined nonlinearities, and
        bidirectional layers.

    Raises
    ------
    OptionError
        If there is no recurrent layer, or ``length`` is below 1.
    NonFiniteError
        If a weight is not finite.

    Notes
    -----
    The bound holds up to rounding error, at every step up to ``T``. It is sharp for linear cells with one unit. In
    general it is pessimistic, because it grows like :math:`\|W\|_2^T`. Norms are computed in double precision.

    Examples
    --------
    >>> layer = mr.nn.RNN(1, 4, constraint=mr.Orthogonal())
    >>> weight = torch.nn.init.constant_(layer.weight_ih_l0, 0.5)  # of norm 1
    >>> bound = mr.diagnostics.lipschitz_bound(layer, 9)
    >>> assert abs(bound.value - 3) < 1e-5
    """
    if not is_integer(length, 1):
        raise OptionError(
            f"lipschitz_bound needs a number of time steps of at least 1.\nGot {length!r:.80}.\nPass x.shape[1]."
        )
    layer = recurrent_layer(source)
    if not all(weight.isfinite().all() for weight in layer.parameters()):
        raise NonFiniteError(
            "lipschitz_bound needs finite weights. Got NaN or infinity. Check the training of the network."
        )
    if layer.bidirectional:
        return LipschitzBound(None, "the layer runs in two directions")
    levels = _levels(layer)
    if isinstance(levels, str):
        return LipschitzBound(None, levels)
    value = 1.0
    for k, (V, W) in enumerate(levels):
        v, w = (torch.linalg.matrix_norm(_double(A.detach()), 2).cpu() for A in (V, W))
        powers = w ** torch.arange(length, dtype=torch.float64)
        factor = powers.square().sum().sqrt() if k == len(levels) - 1 else powers.sum()
        value *= float(v * factor) if float(v) else 0.0
    return LipschitzBound(value, "operator norms of the weights, for slopes of at most 1")


def _levels(layer: RecurrentLayer) -> list[tuple[Tensor, Tensor]] | str:
    """The input and the recurrent matrix of each level, or the reason why there is no bound."""
    if not isinstance(layer, Layer):
        if not layer.mode.startswith("RNN"):
            return f"the gates of {layer.mode} multiply the state"
        return [(weights[0], weights[1]) for weights in layer.all_weights]
    kind, levels = type(layer.cell).__name__, []
    for suffix in layer.suffixes:
        weights = layer.weights(suffix)
        cell = layer.cell.bind(weights)
        form = cell.elman_form() if cell.steps_match("elman_form") else None
        if form is None or form.weight_ih is None:
            return f"the recurrence of {kind} is not one of operator norms and a known nonlinearity"
        if form.activation not in _CONTRACTING and bool(
            (form.threshold > 0).any() if form.threshold is not None else 0
        ):
            return "modReLU with a positive bias jumps at 0"
        levels.append((form.weight_ih, weights["weight_hh"]))
    return levels


def _double(A: Tensor) -> Tensor:
    return A.to(torch.complex128 if A.is_complex() else torch.float64)
