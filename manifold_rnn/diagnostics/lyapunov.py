"""Lyapunov exponents: the mean rates at which small changes of the state grow or shrink."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .checks import require_at_least
from .plotting import axes_or_new
from .steps import record
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes

_ZERO = 1e-6  # an exponent of this size is 0 up to rounding error in single precision


@dataclass(frozen=True)
class Lyapunov:
    r"""Lyapunov exponents of a recurrent layer along its trajectories.

    Parameters
    ----------
    exponents : tuple of float
        Means over the sequences, in descending order, as natural logarithms per time step.
    deviations : tuple of float
        Standard deviation of each exponent over the sequences. NaN if it is minus infinity for only some of them.
    states : int
        Number of real entries of the state, which is the number of all exponents.
    steps, transient : int
        Number of time steps in the average, and number of earlier time steps that were left out.
    sequences : int
        Number of sequences.

    Examples
    --------
    >>> lyapunov = mr.diagnostics.Lyapunov((0.1, -0.5), (0.0, 0.0), 2, 30, 10, 1)
    >>> assert lyapunov.largest == 0.1 and "largest exponent" in lyapunov.table()
    """

    exponents: tuple[float, ...]
    deviations: tuple[float, ...]
    states: int
    steps: int
    transient: int
    sequences: int

    @property
    def largest(self) -> float:
        """The largest exponent. Small changes grow if it is above 0, and vanish if it is below 0."""
        return self.exponents[0]

    def table(self) -> str:
        """Return a line for each number."""
        rows = [
            ("largest exponent", f"{self.largest:.4g}", "mean log growth of a small change in one step"),
            ("smallest computed", f"{self.exponents[-1]:.4g}", f"{len(self.exponents)} of {self.states} exponents"),
            ("positive", f"{sum(value > _ZERO for value in self.exponents)}", "directions that grow"),
            ("time steps", f"{self.steps}", f"of {self.sequences} sequences, after {self.transient} left out"),
        ]
        return aligned("Lyapunov exponents", rows)

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the exponents in descending order, with bars of one standard deviation over the sequences."""
        axes = axes_or_new(axes)
        axes.axhline(0, color="0.8", zorder=0)
        index = range(1, len(self.exponents) + 1)
        axes.errorbar(index, self.exponents, self.deviations, fmt="o", markersize=4, capsize=2)
        axes.set(xlabel="index", ylabel="exponent (log per step)", title="Lyapunov exponents")
        return axes


def lyapunov_exponents(
    layer: nn.Module,
    x: Tensor,
    count: int | None = None,
    *,
    transient: int | None = None,
    sequences: int = 8,
    seed: int = 0,
) -> Lyapunov:
    r"""Measure the Lyapunov exponents of a recurrent layer along its trajectories.

    .. math:: J_t Q_{t-1} = Q_t R_t, \qquad \lambda_i = \frac{1}{T} \sum_t \log |(R_t)_{ii}|,

    :math:`J_t = \partial s_t / \partial s_{t-1}` are the Jacobians of the state ``s``, which is one real vector with
    all parts of all levels. A complex part is written as [Re, Im].

    Parameters
    ----------
    layer : nn.Module
        A recurrent layer of this package or of torch, or a network, whose first recurrent layer is used.
    x : Tensor
        Inputs of ``layer``.
    count : int, optional
        Number of exponents, beginning with the largest. Default: all.
    transient : int, optional
        Number of time steps at the beginning that are left out, while ``Q`` converges. Default: a quarter of all steps.
    sequences : int
        Number of sequences at the beginning of the batch that are used.
    seed : int
        Random seed of the first ``Q``. It is random if ``count`` is below the number of entries of the state, and the
        identity otherwise.

    Returns
    -------
    Lyapunov

    Raises
    ------
    OptionError
        If there is no recurrent layer, or a number is out of range.
    ShapeError
        If there is no sequence or no time step.
    UnsupportedError
        If the layer is bidirectional or its input is packed.
    NonFiniteError
        If a state is not finite.

    Notes
    -----
    For a linear layer and many steps, the exponents are the logarithms of the moduli of the eigenvalues of ``W``. With
    complex states, each exponent occurs twice. An exponent is minus infinity if a Jacobian is singular, for instance
    because a unit is dead. An entry of ``R`` counts as 0 if it is within the rounding error of the Jacobian. Source:
    Benettin, Galgani, Giorgilli and Strelcyn (1980).

    Examples
    --------
    >>> layer = mr.nn.RNN(1, 2, nonlinearity=lambda z: z, dtype=torch.float64)
    >>> layer.weight_hh_l0.data = torch.tensor([[0.5, 0.0], [0.0, 0.9]], dtype=torch.float64)
    >>> lyapunov = mr.diagnostics.lyapunov_exponents(layer, torch.zeros(20, 1, 1, dtype=torch.float64))
    >>> assert abs(lyapunov.largest - torch.tensor(0.9).double().log()) < 1e-7
    """
    require_at_least("sequences", sequences, 1)
    trajectory = record(layer, x)
    exponents = Exponents(trajectory.steps.size, len(trajectory.x), count, transient, seed)
    for _, J, _ in trajectory.derivatives(sequences):
        exponents.add(J)
    return exponents.result()


class Exponents:
    """The QR method, applied to one Jacobian at a time. The options are those of `lyapunov_exponents`."""

    def __init__(self, size: int, steps: int, count: int | None, transient: int | None, seed: int) -> None:
        count = size if count is None else count
        transient = steps // 4 if transient is None else transient
        require_at_least("count", count, 1, size)
        require_at_least("transient", transient, 0, steps - 1)
        self.size, self.transient, self.steps = size, transient, 0
        if count == size:
            self.Q = torch.eye(size, dtype=torch.float64)
        else:
            generator = torch.Generator().manual_seed(seed)
            self.Q = torch.linalg.qr(torch.randn(size, count, generator=generator, dtype=torch.float64))[0]
        self.total = torch.zeros(())

    def add(self, J: Tensor) -> None:
        """Add the Jacobian of one step, of shape (B, N, N)."""
        J = J.double()
        self.Q, R = torch.linalg.qr(J @ self.Q.to(J.device))
        self.steps += 1
        if self.steps > self.transient:
            sizes = R.diagonal(dim1=-2, dim2=-1).abs()  # (B, count)
            rounding = self.size * torch.finfo(sizes.dtype).eps * torch.linalg.matrix_norm(J, 1)
            self.total = self.total.to(R.device) + torch.where(sizes > rounding[:, None], sizes, 0).log()

    def result(self) -> Lyapunov:
        """Return the exponents of all Jacobians so far."""
        steps = self.steps - self.transient
        values = (self.total / steps).sort(-1, descending=True)[0]  # (B, count)
        deviations = torch.where((values == values[0]).all(0), 0, values.std(0, correction=0))  # NaN if some are -inf
        return Lyapunov(
            tuple(values.mean(0).tolist()),
            tuple(deviations.tolist()),
            self.size,
            steps,
            self.transient,
            len(values),
        )
