"""The linear recurrent unit."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import init

from ...errors import OptionError
from .base import Cell, State
from .elman_form import ElmanForm
from .options import require_number
from .weights import affine, allocate_empty


@dataclass(frozen=True, eq=False)
class LRU(Cell):
    r"""The linear recurrent unit: a linear recurrence with normalized inputs.

    .. math:: h_t = W h_{t-1} + e^{g} \circ V x_t,

    In the network of the paper ``W`` is diagonal, with eigenvalues :math:`\lambda_j` inside the unit circle, and
    :math:`e^{g_j} = \sqrt{1 - |\lambda_j|^2}` at initialization.

    Parameters
    ----------
    r_min, r_max : float
        Bounds of the initial moduli of :math:`\lambda`, in [0, 1].
    max_phase : float
        Bound of the initial phases, which are in [0, max_phase).
    weights : mapping from str to Tensor
        ``weight_ih`` (n, m), ``weight_hh`` (n, n), and the real ``log_gamma`` (n,), which is ``g``.

    Raises
    ------
    OptionError
        Unless :math:`0 \le r_{\min} \le r_{\max} \le 1`, and ``r_max`` and ``max_phase`` are positive.

    Notes
    -----
    Complex weights with ``constraint=DiagonalDisc()`` give the network of the paper, because the constraint keeps the
    matrix diagonal. With another constraint, or none, the cell is a linear recurrence with a dense matrix. Real
    eigenvalues are initialized as :math:`\pm|\lambda|`, with the sign of the real part. For long memories choose
    ``r_min`` near 1 and a small ``max_phase``.

    Let the inputs be white noise with a mean :math:`|V x|^2` of 1. Then the mean of :math:`|h|^2` is
    :math:`e^{2g} / (1 - |\lambda|^2)`, which is 1 at initialization. ``V`` is initialized normally with variance
    :math:`1/m`.
    Learning rate: 2e-3. Source: Orvieto et al. (2023).

    Examples
    --------
    >>> disc = mr.DiagonalDisc()
    >>> cell, complex64 = mr.nn.cells.LRU(r_min=0.9), torch.complex64
    >>> layer = mr.nn.Layer(cell, 2, 64, dtype=complex64, constraint=disc, view="trivialized")
    >>> assert 0.89 < layer.weight_hh_l0.diagonal().abs().min() and not layer.weight_hh_l0.triu(1).any()
    """

    complex_by_default: ClassVar[bool] = True

    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi

    def __post_init__(self) -> None:
        require_number("LRU", "max_phase", self.max_phase)
        if not 0 <= self.r_min <= self.r_max <= 1 or self.r_max == 0:
            raise OptionError(
                "The radii r_min and r_max of LRU are out of range.\n"
                f"Expected 0 <= r_min <= r_max <= 1 and r_max above 0, got {self.r_min} and {self.r_max}.\n"
                "Choose radii in this order."
            )

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return ``weight_ih``, ``weight_hh`` and ``log_gamma``, uninitialized."""
        shapes = {"weight_ih": (hidden_size, input_size), "weight_hh": (hidden_size, hidden_size)}
        weights = allocate_empty(shapes, device=device, dtype=dtype)
        return weights | {"log_gamma": weights["weight_ih"].real.new_empty(hidden_size)}

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights as described in the notes."""
        V, W, log_gamma = (self.weights[name] for name in ("weight_ih", "weight_hh", "log_gamma"))
        with torch.no_grad():
            # for complex numbers, the standard deviation of both parts together
            V.normal_(std=V.shape[-1] ** -0.5, generator=generator)
            log_rate, phase = self.ring(log_gamma, generator=generator)
            modulus = (-log_rate.exp()).exp()
            W.copy_(torch.diag(torch.polar(modulus, phase) if W.is_complex() else modulus * phase.cos().sign()))
            log_gamma.copy_(log_gamma_of(log_rate))

    def ring(self, like: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        r"""Draw eigenvalues :math:`e^{-e^\nu + i\theta}`, uniform by area between the two radii.

        Parameters
        ----------
        like : Tensor, real
            Tensor whose shape, dtype and device the results have.
        generator : torch.Generator, optional
            Source of the random numbers.

        Returns
        -------
        log_rate, phase : Tensor
            :math:`\nu` and :math:`\theta`.
        """
        area = init.uniform_(torch.empty_like(like), self.r_min**2, self.r_max**2, generator=generator)
        area = area.clamp(torch.finfo(area.dtype).tiny, 1 - torch.finfo(area.dtype).eps / 2)
        phase = init.uniform_(torch.empty_like(like), 0, self.max_phase, generator=generator)
        return (-0.5 * area.log()).log(), phase

    def project(self, x: Tensor) -> Tensor:
        """Return ``exp(g) V x`` of shape (..., n)."""
        return affine(x, self._scaled_input_weight())

    def initial_state(self, batch: int) -> State:
        """Return ``(0,)``, shape (B, n)."""
        V = self.weights["weight_ih"]
        return (V.new_zeros(batch, len(V)),)

    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Return ``W h + u`` of shape (B, n), and the same as the state."""
        h = u + state[0] @ W.mT
        return h, (h,)

    def elman_form(self) -> ElmanForm:
        """Return the linear form with ``exp(g) V``."""
        return ElmanForm("linear", self._scaled_input_weight())

    def _scaled_input_weight(self) -> Tensor:
        return self.weights["log_gamma"].exp()[:, None] * self.weights["weight_ih"]


def log_gamma_of(log_rate: Tensor) -> Tensor:
    r"""``log sqrt(1 - |λ|²)`` for :math:`|\lambda| = e^{-e^\nu}`, accurate even if :math:`|\lambda|` rounds to 1."""
    return 0.5 * (-torch.expm1(-2 * log_rate.exp())).log()
