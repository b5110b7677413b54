"""The class of all networks in the zoo: a layer, a readout, and learning rates by kind of weight."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.utils.rnn import PackedSequence

from ..constraints import FixedBase, constrain, release
from ..linalg import pack_skew
from ..nn import RNN, Layer, UnitGates, real_features
from ..nn.kinds import KeepsReal


class Network(KeepsReal):
    r"""A recurrent layer and a linear readout of its outputs.

    .. math:: o_t = V h_t + c,

    The outputs :math:`h_t` of the layer are the first part of its state. If they are complex, the readout uses
    :math:`[\operatorname{Re} h_t, \operatorname{Im} h_t]`.

    Parameters
    ----------
    layer : Layer
        Recurrent layer in one direction, with ``batch_first``.
    output_size : int
        Number of outputs of the readout.
    rates : float or mapping from str to float
        Learning rate of the recurrent weight, as a multiple of that of the other weights. A mapping has such a factor
        for every parameter whose name contains the key. The first key that matches is used.

    Attributes
    ----------
    layer : Layer
        The recurrent layer.
    readout : nn.Linear
        The linear readout.

    Examples
    --------
    >>> network = mr.zoo.Network(mr.nn.RNN(3, 4, batch_first=True), 2)
    >>> assert network(torch.zeros(5, 7, 3)).shape == (5, 2)
    >>> assert network(torch.zeros(5, 7, 3), every_step=True).shape == (5, 7, 2)
    """

    def __init__(self, layer: Layer, output_size: int, rates: float | Mapping[str, float] = 1.0) -> None:
        super().__init__()
        weight = layer.get_parameter("weight_ih_l0")
        self.layer = layer
        self.rates = dict(rates) if isinstance(rates, Mapping) else {"weight_hh": rates}
        width = layer.hidden_size * (2 if weight.is_complex() else 1)
        self.readout = nn.Linear(width, output_size, device=weight.device, dtype=weight.real.dtype)

    def forward(self, x: Tensor | PackedSequence, *, every_step: bool = False) -> Tensor | PackedSequence:
        """Compute the outputs for a batch of sequences.

        Parameters
        ----------
        x : Tensor, shape (B, T, input_size); or PackedSequence
            Batch of sequences.
        every_step : bool
            Whether to return the output of every time step, or only of the last step of each sequence.

        Returns
        -------
        Tensor, shape (B, output_size); or (B, T, output_size), packed if ``x`` is

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If ``x`` does not fit the layer.
        """
        return self.carry_on(x, every_step=every_step)[0]

    def carry_on(
        self, x: Tensor | PackedSequence, state: Any = None, *, every_step: bool = False
    ) -> tuple[Tensor | PackedSequence, Any]:
        """Continue sequences from the state after an earlier call.

        Parameters
        ----------
        x : Tensor, shape (B, T, input_size); or PackedSequence
            Next part of each sequence.
        state : Tensor or tuple of Tensor, optional
            State that the earlier call returned. Default: the initial state.
        every_step : bool
            Whether to return the output of every time step, as in `forward`.

        Returns
        -------
        outputs : Tensor or PackedSequence
            Outputs, as those of `forward`.
        state : Tensor or tuple of Tensor
            State after the last step, with its graph. Detach it to truncate the gradient here.

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If ``x`` or ``state`` does not fit the layer.

        Examples
        --------
        >>> network, x = mr.zoo.exprnn(1, 4, 2), torch.randn(3, 8, 1)
        >>> first, state = network.carry_on(x[:, :5])
        >>> second, _ = network.carry_on(x[:, 5:], state)
        >>> assert torch.allclose(second, network(x), atol=1e-6)
        """
        y, h_n = self.layer(x, state, every_step=every_step)
        last = h_n[0] if isinstance(h_n, tuple) else h_n
        return self._read_out(x, y if every_step else last[-1]), h_n

    def _read_out(self, x: Tensor | PackedSequence, h: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """The outputs for all states, packed if the states are, or for the last state of each sequence."""
        if isinstance(h, PackedSequence):
            return PackedSequence(self.readout(real_features(h.data)), *h[1:])
        out: Tensor = self.readout(real_features(h))
        return out

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Split the parameters by learning rate, for any optimizer.

        Parameters
        ----------
        lr : float
            Learning rate of the unconstrained weights.

        Returns
        -------
        list of dict
            One group for each entry of ``rates``. If there are unit gates, one group for them at `UnitGates.rate`,
            without weight decay. The last group has all other parameters.

        Examples
        --------
        >>> recurrent, others = mr.zoo.exprnn(1, 8, 10).parameter_groups(1e-3)
        >>> assert recurrent["lr"] < others["lr"] == 1e-3
        """
        others, groups = dict(self.named_parameters()), []
        for part, factor in {"log_alpha": UnitGates.rate, **self.rates}.items():
            held = [others.pop(name) for name in list(others) if part in name]
            if held:
                groups.append({"params": held, "lr": factor * lr, "weight_decay": 0.0})
        return [*groups, {"params": list(others.values()), "lr": lr}]


def signs(like: Tensor, negatives: int) -> Tensor:
    """Return the diagonal of the sign matrix of `FixedBase`: ones, followed by ``negatives`` entries -1."""
    n = len(like)
    return torch.where(torch.arange(n, device=like.device) < n - negatives, 1, -1).to(like.dtype)


def uniform_parts_(z: Tensor, bound: float, generator: torch.Generator | None = None) -> Tensor:
    """Fill real and imaginary parts uniformly between plus and minus ``bound``."""
    init.uniform_(torch.view_as_real(z), -bound, bound, generator=generator)
    return z


@torch.no_grad()
def start_at(layer: RNN, A: Tensor, constraint: FixedBase, *, view: Literal["update", "trivialized"]) -> None:
    """Constrain ``weight_hh_l0`` and give it the value ``D phi(A)``."""
    name, D = "weight_hh_l0", signs(A, constraint.negatives).diag()
    constrain(layer, name, constraint, view="trivialized", init=lambda _: D)
    layer.get_parameter(f"constraints.{name}.coordinates").copy_(pack_skew(A))  # exact, unlike a logarithm of W
    if view != "trivialized":
        constrain(release(layer, name), name, constraint.manifold, view=view)
