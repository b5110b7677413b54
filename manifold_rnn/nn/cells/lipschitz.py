"""The Lipschitz cell: an Euler step with a linear and a nonlinear part."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..activations import gate, mod_tanh
from .affine import AffineCell
from .base import State
from .options import require_number


@dataclass(frozen=True, eq=False)
class Lipschitz(AffineCell):
    r"""The Euler step of :math:`\dot h = A h + \tanh(W h + V x + b)`.

    .. math:: h_t = h_{t-1} + \epsilon \bigl( A h_{t-1} + \tanh(W h_{t-1} + V x_t + b) \bigr),

    With a gate, which shares ``W``, the bracket is multiplied by :math:`\sigma(W h_{t-1} + V_z x_t + b_z)`.

    Parameters
    ----------
    step_size : float
        Positive step size :math:`\epsilon`.
    gated : bool
        Whether to use the gate.
    bias : bool, keyword only
        Whether to add the bias ``b``.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m), ``bias`` (n,), and ``weight_hh`` (2n, n) with the rows of ``A`` ("a"), then those of ``W``
        ("w"). With a gate, ``weight_ih`` and ``bias`` have twice as many rows, and the second half belongs to the gate.

    Raises
    ------
    OptionError
        If ``step_size`` is not a positive number.

    Notes
    -----
    The network of the paper constrains both matrices to a mixture of symmetric and skew parts
    (`manifold_rnn.zoo.lipschitz`). With complex weights the gate is `manifold_rnn.nn.gate` and tanh is
    `manifold_rnn.nn.mod_tanh`. Weights are initialized uniformly in :math:`\pm 1/\sqrt n`. Learning rate: 1e-2.
    Source: Erichson, Azencot, Queiruga, Hodgkinson and Mahoney (2021).

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.Lipschitz(), 2, 3, constraint={"w": mr.Orthogonal()})
    >>> assert layer.weight_hh_l0.shape == (6, 3) and mr.linalg.defect(layer.weight_hh_l0[3:]) < 1e-5
    """

    gates: ClassVar[tuple[str, ...]] = ("a", "w")

    step_size: float = 0.03
    gated: bool = False

    def __post_init__(self) -> None:
        require_number("Lipschitz", "step_size", self.step_size)

    @property
    def input_blocks(self) -> int:
        """Two with a gate, else one."""
        return 2 if self.gated else 1

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return the next ``h`` of shape (B, n), and the same as the state."""
        (h,) = state
        linear, recurrent = (h @ W.mT).chunk(2, -1)  # (B, n) each
        if self.gated:
            u_tanh, u_gate = u.chunk(2, -1)
            slope = gate(recurrent + u_gate) * (linear + mod_tanh(recurrent + u_tanh))
        else:
            slope = linear + mod_tanh(recurrent + u)
        h = h + self.step_size * slope
        return h, (h,)
