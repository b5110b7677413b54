"""Memory of a linear recurrence with noise, in closed form."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import DtypeError, NonFiniteError, OptionError, ShapeError
from ..linalg.norms import norm
from ..nn import real_features
from .checks import require_at_least, require_dense, require_positive
from .plotting import axes_or_new
from .sources import matrix_of
from .stationary import root_of_sum, stationary_radius
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes

_NEAR_ONE = 1 - 1e-4  # above it, 1 - recall has lost four digits


@dataclass(frozen=True)
class SignalToNoise:
    r"""The recall of past inputs by a linear readout of a noisy linear recurrence.

    Parameters
    ----------
    ratio : tuple of float
        Signal-to-noise ratio of :math:`s_{t-k}` at the delays k = 0, 1, ... It is the variance of the input, divided by
        the variance of the error of the best linear readout, minus 1.
    recall : tuple of float
        :math:`R^2` of that readout at each delay.
    power : float
        Variance of the state due to the inputs, divided by the variance due to noise.
    noise : float
        Variance of the noise of each unit. In a complex unit, both parts have this variance.

    Examples
    --------
    >>> result = mr.diagnostics.SignalToNoise((1.0, 0.25), (0.5, 0.2), 0.4, 1.0)
    >>> assert result.total == 1.25 and "signal-to-noise" in result.table()
    """

    ratio: tuple[float, ...]
    recall: tuple[float, ...]
    power: float
    noise: float

    @property
    def total(self) -> float:
        """Sum of the ratios over the delays."""
        return sum(self.ratio)

    @property
    def capacity(self) -> float:
        """Sum of the recall over the delays."""
        return sum(self.recall)

    def table(self) -> str:
        """Return a line for each number."""
        K = len(self.ratio) - 1
        rows = [
            ("total ratio", f"{self.total:.4g}", f"sum over the delays 0 to {K}"),
            ("ratio at delay 0", f"{self.ratio[0]:.4g}", "input over error of its readout, minus 1"),
            (f"ratio at delay {K}", f"{self.ratio[-1]:.4g}", "if it is not near 0, use more delays"),
            ("capacity", f"{self.capacity:.4g}", "sum of R^2 over the delays"),
            ("power", f"{self.power:.4g}", "variance of the state by inputs, over that by noise"),
        ]
        return aligned(f"signal-to-noise ratio, noise of variance {self.noise:g}", rows)

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the ratio over the delays."""
        axes = axes_or_new(axes)
        marker = "." if len(self.ratio) == 1 else None
        axes.plot(range(len(self.ratio)), self.ratio, label=f"total {self.total:.3g}", marker=marker)
        axes.set(xlabel="delay k", ylabel="ratio", title="signal-to-noise ratio of past inputs")
        axes.legend(fontsize="small")
        return axes


def signal_to_noise(
    source: Tensor | nn.Module, v: Tensor, *, noise: float = 1.0, delays: int | None = None
) -> SignalToNoise:
    r"""Return the signal-to-noise ratio of past inputs in a linear recurrence with noise.

    .. math:: h_t = W h_{t-1} + v s_t + z_t, \qquad s_t \sim N(0, 1), \quad z_t \sim N(0, \epsilon I),

    .. math:: R^2_k = (W^k v)^\top C^{-1} W^k v, \qquad \mathrm{SNR}_k = \frac{R^2_k}{1 - R^2_k}, \qquad
        C = \sum_{j \ge 0} W^j (v v^\top + \epsilon I) (W^j)^\top.

    Parameters
    ----------
    source : Tensor, shape (n, n), or nn.Module
        ``W``, or a module whose recurrent matrix is used as a linear recurrence.
    v : Tensor, shape (n,)
        Input direction. The head of a chain is the first unit.
    noise : float
        Positive variance :math:`\epsilon` of the noise of each unit. In a complex unit, both parts have it.
    delays : int, optional
        Largest delay. Default: twice the number of real entries of a state.

    Returns
    -------
    SignalToNoise

    Raises
    ------
    ShapeError, NonFiniteError, DtypeError
        If ``W`` is not square, ``v`` does not fit, or an entry is not finite.
    OptionError
        If the spectral radius is not below 1, so that noise accumulates without bound, or a number is out of range.

    Notes
    -----
    The inputs are real. A complex recurrence is converted to its real form with the states [Re, Im].

    All other inputs disturb the readout of one input as noise does. If the noise dominates, the ratio times
    :math:`\epsilon` is the Fisher memory. ``C`` is ill-conditioned, so its triangular root is computed instead, by
    doubling the number of steps with QR decompositions. For a chain with gain :math:`\alpha` and inputs at its head,
    :math:`\mathrm{SNR}_k = \alpha^{2k} / (\epsilon \sum_{j \le k} \alpha^{2j})` for k < n. For a scaled orthogonal
    ``W`` the ``power`` is :math:`\lVert v \rVert^2 / (n \epsilon)`, and the total of the ratios is at most
    :math:`\lVert v \rVert^2 / \epsilon`. Source: Ganguli, Huh and Sompolinsky (2008) for the problem.

    Examples
    --------
    >>> chain = mr.nn.init.chain_(torch.empty(20, 20), 1.0)
    >>> orthogonal = 0.99 * mr.Orthogonal().random(20, 20)
    >>> head = torch.eye(20)[0]
    >>> one, other = (mr.diagnostics.signal_to_noise(W, head) for W in (chain, orthogonal))
    >>> assert one.total > 3 and other.total < 1.1
    """
    W = matrix_of(source, "signal_to_noise").weight
    require_positive("noise", noise)
    v = _direction(v, W)
    if W.is_complex():
        W, v = torch.cat([torch.cat([W.real, -W.imag], 1), torch.cat([W.imag, W.real], 1)]), real_features(v)
    delays = 2 * len(W) if delays is None else delays
    require_at_least("delays", delays, 0)
    stationary_radius(W, "signal_to_noise")
    impulses = [v]
    for _ in range(delays):
        impulses.append(W @ impulses[-1])
    H = torch.stack(impulses, -1)  # (n, K + 1)
    eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
    by_noise, by_input = (root_of_sum(W.mT, start, "signal_to_noise") for start in (eye, v[None]))
    root = torch.linalg.qr(torch.cat([noise**0.5 * by_noise, by_input]))[1]  # C = root^T root
    recall = torch.linalg.solve_triangular(root.mT, H, upper=False).square().sum(0)
    ratio = recall / (1 - recall).clamp(min=torch.finfo(recall.dtype).eps)
    for k in (recall > _NEAR_ONE).nonzero().flatten().tolist():
        ratio[k] = _ratio(W, H, noise**0.5 * by_noise, by_input, k)
    power = (norm(by_input) / norm(by_noise)).square() / noise
    return SignalToNoise(tuple(ratio.tolist()), tuple(recall.tolist()), float(power), float(noise))


def _ratio(W: Tensor, H: Tensor, by_noise: Tensor, by_input: Tensor, k: int) -> Tensor:
    r"""Return :math:`h_k^\top (C - h_k h_k^\top)^{-1} h_k`, from a root of the covariance without this impulse."""
    later = by_input @ torch.linalg.matrix_power(W, k + 1).mT
    rows = torch.cat([later, H[:, :k].mT, by_noise])
    rows = rows[
        torch.linalg.vector_norm(rows, dim=1).argsort(descending=True)
    ]  # QR is accurate if small rows come after large ones
    root = torch.linalg.qr(rows)[1]
    return torch.linalg.solve_triangular(root.mT, H[:, k : k + 1], upper=False).square().sum()


def _direction(v: Tensor, W: Tensor) -> Tensor:
    """Return ``v`` in the dtype of ``W``, or raise."""
    if not isinstance(v, Tensor):
        raise OptionError(f"`v` needs to be a vector.\nExpected a tensor of shape ({len(W)},). Got {type(v).__name__}.")
    require_dense(v, "signal_to_noise")
    if v.shape != W.shape[:1]:
        raise ShapeError(f"`v` must have one entry for each unit.\nExpected ({len(W)},). Got {tuple(v.shape)}.")
    if not bool(v.isfinite().all()):
        raise NonFiniteError("`v` has an entry that is not finite.\nExpected finite numbers.\nCheck `v`.")
    if v.is_complex() and not W.is_complex():
        raise DtypeError("`v` is complex and `W` is real.\nExpected a real `v`.\nPass `W` as a complex matrix.")
    return v.detach().to(W.device, W.dtype)
