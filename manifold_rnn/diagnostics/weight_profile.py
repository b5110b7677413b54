"""The weight profile, which detects a chain of units in a recurrent matrix with permuted units."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import scipy.linalg
import torch
from torch import Tensor, nn

from ..errors import NonFiniteError, OptionError, ShapeError
from ..linalg.norms import normalized
from .checks import require_at_least
from .plotting import axes_or_new
from .sources import matrix_of, recurrent_layer
from .steps import record
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes


@dataclass(frozen=True)
class WeightProfile:
    r"""The mean recurrent weight as a function of the distance of units, sorted by when a pulse reaches them.

    Parameters
    ----------
    profile : mapping from int to float
        For each distance i - j, the mean over pairs of sorted units of :math:`W_{ij}`, the weight from unit j to unit
        i. A positive distance leads forwards.
    order : tuple of int
        Units, sorted by their peak.
    peaks : tuple of int
        For each unit in the original order, the step (from 0) at which its response to the pulse is largest.
    schur : tuple of float
        Mean modulus on the diagonal and on each superdiagonal of the Schur form of ``W``.
    matrix : str
        Name of the matrix.

    Examples
    --------
    >>> profile = mr.diagnostics.WeightProfile({-1: 0.0, 0: 0.1, 1: 0.9}, (1, 0), (1, 0), (0.1, 0.8), "W")
    >>> assert profile.peak == 1 and profile.asymmetry == 1 and "distance" in profile.table()
    """

    profile: Mapping[int, float]
    order: tuple[int, ...]
    peaks: tuple[int, ...]
    schur: tuple[float, ...]
    matrix: str

    @property
    def peak(self) -> int:
        """The distance whose mean weight has the largest modulus."""
        return max(self.profile, key=lambda distance: abs(self.profile[distance]))

    @property
    def asymmetry(self) -> float:
        """Fraction of the weight that leads forwards less the one that leads back. 1 for a chain, 0 if symmetric."""
        onwards = sum(abs(value) for distance, value in self.profile.items() if distance > 0)
        back = sum(abs(value) for distance, value in self.profile.items() if distance < 0)
        return (onwards - back) / (onwards + back) if onwards + back else 0.0

    def table(self) -> str:
        """Return a line for each number."""
        rows = [
            ("distance of the peak", f"{self.peak}", "1: each unit drives the next"),
            ("mean weight there", f"{self.profile[self.peak]:.4g}", "over all pairs at this distance"),
            ("asymmetry", f"{self.asymmetry:.4g}", "1: all weight leads forwards, 0: half leads back"),
            ("units reached", f"{len(set(self.peaks))}", f"different times of the peak, of {len(self.peaks)} units"),
            ("Schur, diagonal", f"{self.schur[0]:.4g}", "mean modulus of the eigenvalues"),
            ("Schur, above", f"{max(self.schur[1:], default=0.0):.4g}", "largest mean of a superdiagonal; 0: normal"),
        ]
        return aligned(f"weight profile of {self.matrix}", rows)

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the mean weight over the distance, and that of the Schur form."""
        axes = axes_or_new(axes)
        axes.axvline(0, color="0.85", zorder=0)
        axes.plot(list(self.profile), list(self.profile.values()), label="sorted by peak", marker=".", markersize=4)
        axes.plot(range(len(self.schur)), self.schur, label="Schur form, moduli", linestyle="--")
        axes.set(xlabel="distance i - j (Schur form: j - i)", ylabel="mean weight from j to i")
        axes.set_title(f"weight profile of {self.matrix}")
        axes.legend(fontsize="small")
        return axes


def weight_profile(
    source: Tensor | nn.Module,
    *,
    pulse: Tensor | None = None,
    steps: int | None = None,
    abs: bool = True,
    seed: int = 0,
) -> WeightProfile:
    r"""Detect a chain of units in a recurrent matrix, for any order of the units.

    A pulse is the input of the first step, with zero state. The units are sorted by the step at which their response is
    largest. The weights :math:`W_{ij}` of the sorted units are averaged over the pairs with the same i - j.

    Parameters
    ----------
    source : Tensor, shape (n, n), or nn.Module
        A matrix with a linear response, or a recurrent layer or network. The first level of a layer responds with its
        nonlinearity and biases.
    pulse : Tensor, shape (n,) of a matrix, (m,) of a layer, optional
        The state after the first step for a matrix, or the input at the first step for a layer. The default for a layer
        is ones. The default for a matrix is 1 at one unit. It is the unit with the largest response of the matrix
        divided by its norm, summed over units and steps.
    steps : int, optional
        Number of time steps. Default: n, but at least 100.
    abs : bool
        Whether the peak is that of the modulus of the response, or of the response itself. Complex responses always use
        the modulus.
    seed : int
        Random seed of the order of units with a peak at the same step.

    Returns
    -------
    WeightProfile

    Raises
    ------
    ShapeError
        If the matrix is not square, or the pulse does not fit.
    NonFiniteError
        If the matrix, the pulse or a response is not finite.
    OptionError
        If there is no recurrent layer, or ``steps`` is below 1.
    UnsupportedError
        If the layer is bidirectional.

    Notes
    -----
    The profile of a permuted chain is its gain at distance 1, and 0 elsewhere. After training, a peak at positive
    distances is a sign of a hidden chain. For a gated cell, the matrix of the candidate gate is used (see
    `recurrent_matrix`). For a complex matrix, the moduli are averaged.

    A Schur form :math:`W = Q T Q^{\mathsf H}` detects a chain in any orthonormal basis, because the part of ``T`` above
    the diagonal is the non-normal part of ``W``. It depends on the order of the eigenvalues, which LAPACK decides. The
    diagonal of a permuted chain consists of rounding errors (see `manifold_rnn.linalg.spectral_condition`). Source:
    Orhan and Pitkow (2020), who do not specify whether the peak is that of the modulus.

    Examples
    --------
    >>> order = torch.tensor([2, 0, 3, 1])
    >>> chain = mr.nn.init.chain_(torch.empty(4, 4), 1.0)
    >>> profile = mr.diagnostics.weight_profile(chain[order][:, order])
    >>> assert profile.profile == {-3: 0, -2: 0, -1: 0, 0: 0, 1: 1, 2: 0, 3: 0}
    """
    name, W = matrix_of(source, "weight_profile")
    steps = max(100, len(W)) if steps is None else steps
    require_at_least("steps", steps, 1)
    if isinstance(source, nn.Module):
        response = _layer_response(source, pulse, steps)  # (steps, n)
    else:
        response = _matrix_response(W, pulse, steps)
    if not bool(response.isfinite().all()):
        raise NonFiniteError(
            "The response to the pulse is not finite.\n"
            f"Expected finite states for {steps} steps.\nPass fewer `steps`, or a smaller matrix."
        )
    height = response.abs() if abs or response.is_complex() else response
    peaks = height.argmax(0).cpu()  # the first of equal values
    jitter = torch.rand(len(W), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = (peaks + 0.5 * jitter).argsort()
    entries = (W.abs() if W.is_complex() else W).cpu()[order][:, order]
    n = len(W)
    profile = {distance: fmean(entries.diagonal(-distance).tolist()) for distance in range(1 - n, n)}
    T = torch.from_numpy(scipy.linalg.schur(W.cpu().numpy(), output="complex")[0]).abs()
    schur = tuple(fmean(T.diagonal(k).tolist()) for k in range(n))
    return WeightProfile(profile, tuple(order.tolist()), tuple(peaks.tolist()), schur, name)


def _matrix_response(W: Tensor, pulse: Tensor | None, steps: int) -> Tensor:
    """Return the linear response of all steps, (steps, n)."""
    if pulse is None:
        term = energy = torch.eye(len(W), dtype=W.dtype, device=W.device)
        scaled = W / _norm_or_one(W)  # or late responses of a small matrix would underflow
        for _ in range(steps - 1):
            term = scaled.mH @ term @ scaled
            energy = energy + term
        h = torch.zeros_like(W[0])
        h[energy.diagonal().real.argmax()] = 1
    else:
        h = _fitting(pulse, len(W), W)
    states = [h]
    for _ in range(steps - 1):
        states.append(W @ states[-1])
    return torch.stack(states)


def _norm_or_one(W: Tensor) -> float:
    scaled, unit = normalized(W)
    return float(torch.linalg.matrix_norm(scaled, 2) * unit) or 1.0


def _layer_response(network: nn.Module, pulse: Tensor | None, steps: int) -> Tensor:
    """Return the response of the first level of a layer, (steps, n)."""
    layer = recurrent_layer(network)
    weight = next(layer.parameters())
    first = torch.ones(layer.input_size) if pulse is None else pulse
    x = torch.zeros(steps, 1, layer.input_size, dtype=weight.dtype, device=weight.device)
    x[0, 0] = _fitting(first, layer.input_size, weight)
    trajectory = record(layer, x.transpose(0, 1) if layer.batch_first else x)
    return torch.cat([trajectory.steps.split(s)[0][0] for s in trajectory.states[1:]])


def _fitting(pulse: Tensor, size: int, like: Tensor) -> Tensor:
    """Return a pulse in the dtype of a weight, or raise."""
    if not isinstance(pulse, Tensor):
        raise OptionError(
            f"`pulse` needs to be a vector.\nExpected a tensor of shape ({size},). Got {type(pulse).__name__}."
        )
    if pulse.shape != (size,):
        raise ShapeError(f"`pulse` does not fit.\nExpected shape ({size},). Got {tuple(pulse.shape)}.")
    if not bool(pulse.isfinite().all()):
        raise NonFiniteError("`pulse` has an entry that is not finite.\nExpected finite numbers.\nCheck `pulse`.")
    if pulse.is_complex() and not like.is_complex():
        raise OptionError("`pulse` is complex and the weights are real.\nExpected a real pulse.\nPass its real part.")
    return pulse.detach().to(like.device, like.dtype)
