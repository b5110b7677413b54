"""Initial input weights from moments of the training set."""

import copy

import torch
from torch import Tensor

from ... import moments
from ..._options import is_integer
from ...constraints.registry import entries
from ...errors import ManifoldError, OptionError, ShapeError, UnsupportedError
from ...moments import QuadraticFit
from ...moments.fitting import Inputs
from ..cells import Cell, Quadratic
from ..layer import Layer


@torch.no_grad()
def moments_(
    layer: Layer,
    data: tuple[Tensor, Tensor],
    directions: int | None = None,
    *,
    inputs: Inputs = "gaussian",
    strict: bool = True,
    gain: float = 1.0,
    seed: int = 0,
) -> QuadraticFit:
    r"""Initialize the input weights of a layer with the input directions on which the targets depend quadratically.

    `manifold_rnn.moments.fit` returns n' directions :math:`a_r`, for which :math:`a_r \cdot x` has variance 1. Row r of
    each block of ``weight_ih_l0`` becomes :math:`g\, a_r`, and row n' + r becomes :math:`-g\, a_r`. The other rows keep
    their values. For the cell `Quadratic` there are no negative rows, and the recurrent weights of the rows r become
    :math:`U / g`.

    Parameters
    ----------
    layer : Layer
        Layer of any cell. Only its first level is changed.
    data : tuple of two Tensor
        Inputs (N, T, m) and targets, as for `manifold_rnn.moments.two_steps`.
    directions : int, optional
        Number n' of directions, at most the hidden size. Default: all directions above the noise, up to the hidden
        size.
    inputs, strict, seed
        As for `manifold_rnn.moments.fit`.
    gain : float
        :math:`g`, positive.

    Returns
    -------
    QuadraticFit
        Result of the fit, which also has the output weights.

    Raises
    ------
    ManifoldError
        If `manifold_rnn.moments.fit` raises, or if a constraint has no value near the weights. Then the layer is
        unchanged.

    Notes
    -----
    A constrained weight is projected onto its set. Let :math:`\mu` be the mean of the inputs. If the cell adds a bias
    to its projected inputs, the bias of row r becomes :math:`-g\, a_r \cdot \mu`. So the unit is centred. GORU has such
    a bias for its two gates, the first two blocks, but not for its candidate. `Quadratic` is not centred. The fit has
    no bias, so the bias of its rows r becomes 0. Complex weights get real directions. Torch's global generator is not
    used.

    Examples
    --------
    >>> x = torch.randn(2_000, 4, 3)
    >>> layer = mr.nn.RNN(3, 8, nonlinearity="relu")
    >>> fit = mr.nn.init.moments_(layer, (x, x[:, -1, :2].square()), 2)
    >>> assert torch.equal(layer.weight_ih_l0[:2], fit.A) and torch.equal(layer.weight_ih_l0[2:4], -fit.A)
    """
    _require(layer, data, directions, gain)
    weight, n = layer.weights("_l0")["weight_ih"], layer.hidden_size
    if len(weight) % n:
        raise UnsupportedError(
            f"The input weights of {type(layer.cell).__name__} have no rows for each unit.\n"
            f"Expected a multiple of {n} rows, got {len(weight)}.\nSet its weights from the result of `moments.fit`."
        )
    pairs = moments.two_steps(*data)
    if pairs[0].shape[1] != layer.input_size:
        raise ShapeError(
            f"The inputs of the data do not fit the layer.\nExpected {layer.input_size} features, got "
            f"{pairs[0].shape[1]}.\nPass the inputs that the layer will receive."
        )
    fit = moments.fit(*pairs, directions, inputs=inputs, strict=strict, seed=seed)
    if len(fit.A) > n:  # more directions than units
        fit = moments.fit(*pairs, n, inputs=inputs, strict=strict, seed=seed)
    before = copy.deepcopy(layer.state_dict())
    try:
        for direction in layer.directions:
            _start(layer, f"_l0{direction}", fit, gain)
    except ManifoldError:
        layer.load_state_dict(before)
        raise
    return fit


def _start(layer: Layer, suffix: str, fit: QuadraticFit, gain: float) -> None:
    n, used = layer.hidden_size, len(fit.A)
    weights = {name: weight.detach().clone() for name, weight in layer.weights(suffix).items()}
    A, quadratic = gain * fit.A, isinstance(layer.cell, Quadratic)
    rows = A if quadratic else torch.cat([A, -A])[:n]
    changed = {"weight_ih"}
    for block in weights["weight_ih"].split(n):
        block[: len(rows)] = rows.to(block)
    bias = None if quadratic else _additive_bias(layer.cell, weights)
    if bias is not None:
        changed.add(bias)
        for block in weights[bias].split(n):
            block[: len(rows)] = (-rows @ fit.mean).to(block)
    if quadratic:
        changed.add("weight_hh")
        weights["weight_hh"][:used] = 0
        weights["weight_hh"][:used, :used] = (fit.U / gain).to(weights["weight_hh"])
        if "bias" in weights:  # the model of the fit has none
            changed.add("bias")
            weights["bias"][:used] = 0
    constrained = entries(layer)
    for name in changed:
        if (entry := constrained.get(name + suffix)) is not None:
            entry.assign_nearest(weights[name])
        else:
            layer.get_parameter(name + suffix).copy_(weights[name])


def _additive_bias(cell: Cell, weights: dict[str, Tensor]) -> str | None:
    """The name of the bias that the cell adds to its projected inputs, or None. The bias of modReLU is not added."""
    V = weights["weight_ih"]
    zero = V.new_zeros(1, V.shape[1])
    for name in ("bias_ih", "bias"):
        if name in weights and len(weights[name]) <= len(V):
            rows = len(weights[name])  # GORU has no bias for the candidate, its last block
            raised = {**weights, name: torch.ones_like(weights[name])}
            level = {**weights, name: torch.zeros_like(weights[name])}
            effect = cell.bind(raised).project(zero) - cell.bind(level).project(zero)
            if effect.shape[1] == len(V) and bool((effect[:, :rows] - 1).abs().max() < 1e-3):
                return name
    return None


def _require(layer: object, data: object, directions: object, gain: object) -> None:
    if not isinstance(layer, Layer):
        raise OptionError(
            "moments_ needs a recurrent layer of this package.\n"
            f"Expected a Layer, RNN, LSTM or GRU of manifold_rnn.nn, got {type(layer).__name__}.\n"
            "Pass `network.layer` of a network."
        )
    if not isinstance(data, tuple | list) or len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        raise OptionError(
            "moments_ needs inputs and targets.\n"
            f"Expected two tensors, got {type(data).__name__}.\nPass (inputs, targets)."
        )
    most = layer.hidden_size
    if directions is not None and not (is_integer(directions, 1) and int(directions) <= most):  # type: ignore[call-overload]
        raise OptionError(
            f"`directions` is out of range.\nExpected an integer from 1 to the hidden size {most}, got "
            f"{directions!r:.40}.\nUse fewer directions."
        )
    if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 < gain < float("inf"):
        raise OptionError(f"`gain` is out of range.\nExpected a positive number, got {gain!r:.40}.\nUse 1.")
