"""The cell of SBO-RNN, whose time steps are steps of gradient descent on an energy."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import init

from ..activations import split_relu
from .affine import AffineCell
from .base import State
from .options import require_choice, require_number
from .weights import fill_uniform

Method = Literal["sgd", "heavy_ball", "nesterov"]


@dataclass(frozen=True, eq=False)
class SBO(AffineCell):
    r"""The cell of SBO-RNN: each time step is a step of gradient descent on an energy that depends on the input.

    .. math::
        F_t(h) = \tfrac12 \lVert \alpha h - \varphi_t(h) \rVert^2, \qquad
        \varphi_t(h) = \operatorname{relu}(W h + V x_t + b),

    .. math::
        \text{"sgd"} \quad & h_t = h_{t-1} - \eta \nabla F_t(h_{t-1}), \\
        \text{"heavy\_ball"} \quad & z_t = \mu z_{t-1} - \eta \nabla F_t(h_{t-1}), \quad h_t = h_{t-1} + z_t, \\
        \text{"nesterov"} \quad & z_t = h_{t-1} - \eta \nabla F_t(h_{t-1}), \quad h_t = z_t + \mu (z_t - z_{t-1}).

    Parameters
    ----------
    method : "sgd", "heavy_ball" or "nesterov"
        The descent method.
    step_size : float
        :math:`\eta`, positive.
    target : float
        :math:`\alpha`, positive.
    bias : bool, keyword only
        Whether to add the bias ``b``.
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m), ``weight_hh`` (n, n) and ``bias`` (n,). Except for "sgd", there is the real ``momentum``
        (1,), which is trained without bounds.

    Raises
    ------
    OptionError
        If the method is unknown, or a number is not positive.

    Notes
    -----
    With :math:`D = \operatorname{diag}(\varphi_t > 0)`, the gradient is :math:`\nabla F = (\alpha I - W^{\mathsf H}
    D)(\alpha h - \varphi_t(h))`. The Jacobian of an "sgd" step is :math:`I - \eta K^{\mathsf H} K` with :math:`K =
    \alpha I - D W`. While :math:`\eta \lVert K \rVert^2 \le 2`, no singular value of it exceeds 1. With complex
    weights, relu and D act separately on real and imaginary parts.

    If :math:`W = \alpha I`, a zero state stays zero for all inputs, so do not initialize ``W`` there. The state of
    "heavy_ball" and "nesterov" has a second part ``z``. Weights are initialized uniformly in :math:`\pm 1/\sqrt n`, and
    the momentum to 0.5. Learning rate: 1e-2. Source: Zhang, Yue, Wu, Li and Zhang (2021).

    Examples
    --------
    >>> cell = mr.nn.cells.SBO("sgd", step_size=1.0).bind({})
    >>> y, _ = cell.step(torch.tensor([[2.0, -2.0]]), (torch.zeros(1, 2),), torch.zeros(2, 2))
    >>> assert torch.equal(y, torch.tensor([[2.0, 0.0]]))
    """

    method: Method = "heavy_ball"
    step_size: float = 1e-3
    target: float = 1.0

    def __post_init__(self) -> None:
        require_number("SBO", "step_size", self.step_size)
        require_number("SBO", "target", self.target)
        require_choice("SBO", "method", self.method, get_args(Method))

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return ``weight_ih``, ``weight_hh``, the bias and the momentum, uninitialized."""
        weights = super().allocate(input_size, hidden_size, device=device, dtype=dtype)
        if self.method != "sgd":
            weights["momentum"] = weights["weight_ih"].real.new_empty(1)
        return weights

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights uniformly and the momentum with 0.5."""
        fill_uniform(self.weights, self.weights["weight_hh"].shape[-1] ** -0.5, generator)
        if "momentum" in self.weights:
            init.constant_(self.weights["momentum"], 0.5)

    def initial_state(self, batch: int) -> State:
        """Return zeros of shape (B, n): one tensor for "sgd", else two."""
        return tuple(self.zeros(batch) for _ in range(1 if self.method == "sgd" else 2))

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return the next ``h`` of shape (B, n), and the state."""
        h, *rest = state
        descent = -self.step_size * self.gradient(u, h, W)  # (B, n)
        if not rest:
            return h + descent, (h + descent,)
        (z,), momentum = rest, self.weights["momentum"]
        if self.method == "heavy_ball":
            z = momentum * z + descent
            h = h + z
        else:
            z, previous = h + descent, z
            h = z + momentum * (z - previous)
        return h, (h, z)

    def gradient(self, u: Tensor, h: Tensor, W: Tensor) -> Tensor:
        r"""Return :math:`\nabla F_t(h)`.

        For a complex state, this is the gradient with respect to the real parts, plus i times that of the imaginary
        parts.

        Parameters
        ----------
        u : Tensor, shape (B, n)
            Projected inputs.
        h : Tensor, shape (B, n)
            Previous state.
        W : Tensor, shape (n, n)
            Recurrent matrix.

        Returns
        -------
        Tensor, shape (B, n)
        """
        phi = split_relu(h @ W.mT + u)  # (B, n)
        residual = self.target * h - phi
        return self.target * residual - _mask_positive(phi, residual) @ W.conj()


def _mask_positive(phi: Tensor, x: Tensor) -> Tensor:
    """Return ``D x``, which is zero where ``phi`` is zero, separately for both parts of complex numbers."""
    if not phi.is_complex():
        return x * (phi > 0)
    return torch.complex(x.real * (phi.real > 0), x.imag * (phi.imag > 0))
