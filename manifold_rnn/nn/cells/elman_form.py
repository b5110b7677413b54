"""The Elman form, a description of a recurrence that the fast scans can run."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn import functional as F

Activation: TypeAlias = Literal["linear", "relu", "tanh", "modrelu"]


@dataclass(frozen=True, eq=False)
class ElmanForm:
    r"""The recurrence :math:`h_t = f(W h_{t-1} + V x_t + b)` with output :math:`y_t = h_t`, except for ``W``.

    Parameters
    ----------
    activation : "linear", "relu", "tanh" or "modrelu"
        The nonlinearity ``f``.
    weight_ih : Tensor, shape (n, m), optional
        ``V``. Without it there is no ``b`` either, and the scan adds its inputs unchanged.
    bias : Tensor, shape (n,), optional
        ``b``.
    threshold : Tensor, shape (n,), real, optional
        The bias of modReLU.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> assert cell.elman_form().activation == "relu" and cell.elman_form().bias is None
    """

    activation: Activation
    weight_ih: Tensor | None = None
    bias: Tensor | None = None
    threshold: Tensor | None = None

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x + b`` for inputs (..., m), or the inputs themselves if there is no ``V``."""
        return x if self.weight_ih is None else F.linear(x, self.weight_ih, self.bias)
