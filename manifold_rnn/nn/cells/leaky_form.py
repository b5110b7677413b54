"""The leaky form, a description of a recurrence for local learning rules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

Slopes: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class LeakyForm:
    r"""The recurrence :math:`h_t = (1 - a) h_{t-1} + a f(W h_{t-1} + V x_t + b)` with output :math:`y_t = h_t`.

    Parameters
    ----------
    leak : float, or Tensor of shape (n,)
        ``a``.
    activate : callable
        ``f``, which acts on each entry of ``z``, shape (B, n).
    slopes : callable
        Function of ``z`` and ``f(z)`` that returns the derivatives of ``f`` with respect to ``z`` and to the threshold,
        each (B, n). The second is None if there is no threshold.
    biases : tuple of str
        Names of the weights whose sum is ``b``.
    threshold : str, optional
        Name of the weight (n,) that ``f`` depends on.

    Examples
    --------
    >>> form = mr.nn.cells.LeakyElman(leak=0.2, bias=False).bind({}).leaky_form()
    >>> z = torch.tensor([[0.5]])
    >>> assert form.leak == 0.2 and torch.equal(form.slopes(z, z.tanh())[0], 1 - z.tanh() ** 2)
    """

    leak: float | Tensor
    activate: Callable[[Tensor], Tensor]
    slopes: Slopes
    biases: tuple[str, ...] = ()
    threshold: str | None = None
