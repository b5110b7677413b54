"""The accuracy of a network with perturbed inputs or a perturbed recurrent matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError, OptionError
from .activity import batch_axis
from .attacks import Judge, Norm
from .batches import Data, Loss, tensors_of
from .checks import require_at_least, require_module, require_positive, require_positives, require_range, require_seed
from .evaluation import evaluating
from .lipschitz import LipschitzBound
from .perturbations import PerturbedWeights, bound_for_inputs, drawn, growth_curves, perturbed_weights, plain_copy
from .plotting import axes_or_new
from .sources import find_layer

if TYPE_CHECKING:
    import matplotlib.axes


@dataclass(frozen=True)
class Robustness:
    r"""Scores of a network whose inputs or recurrent matrix are perturbed.

    A score is the accuracy if the targets are classes, and the loss otherwise.

    Parameters
    ----------
    measure : "accuracy" or "loss"
        Kind of the scores.
    sequences : int
        Number of sequences.
    clean : float
        Score without perturbation.
    noise : mapping from (str, float) to float
        Scores under noise, by kind and size. For "gaussian", the size is the standard deviation. For "uniform", it is
        the largest modulus.
    attacks : mapping from (str, float, int) to float
        Scores under attack, by norm, radius and number of steps.
    weights : mapping from str to float
        Scores with a perturbed recurrent matrix: "random", the mean over the draws, and "worst case". Empty if there
        are none.
    weights_reason : str
        Reason why `weights` is empty, or "".
    weight_radius : float
        Norm of the perturbations of the recurrent matrix.
    growth : mapping from str to tuple of float
        For the input perturbations "random" and "gradient": the largest :math:`\|h_t(x + d) - h_t(x)\| / \|d\|` at each
        time step.
    lipschitz : float or None
        A bound of these ratios that holds for all inputs. See `lipschitz_bound`.
    lipschitz_reason : str
        How the bound was computed, or why there is none.
    spectral : mapping from str to float
        Numbers of the recurrent matrix: "radius", "norm", and "perturbed radius", the spectral radius in the worst
        case.

    Examples
    --------
    >>> network = mr.zoo.Network(mr.nn.RNN(1, 6, batch_first=True), 3)
    >>> data = torch.randn(20, 5, 1), torch.randint(3, (20,))
    >>> result = mr.diagnostics.robustness(network, data)
    >>> print(result.table().splitlines()[0])
    robustness: accuracy of 20 sequences
    >>> assert 0 <= result.clean <= 1 and set(result.weights) == {"random", "worst case"}
    """

    measure: str
    sequences: int
    clean: float
    noise: Mapping[tuple[str, float], float]
    attacks: Mapping[tuple[str, float, int], float]
    weights: Mapping[str, float]
    weights_reason: str
    weight_radius: float
    growth: Mapping[str, tuple[float, ...]]
    lipschitz: float | None
    lipschitz_reason: str
    spectral: Mapping[str, float]

    @property
    def largest_growth(self) -> float | None:
        """The largest ratio in `growth`, or None if there is none."""
        return max((value for curve in self.growth.values() for value in curve), default=None)

    def scores(self) -> dict[str, dict[str, float]]:
        """Return all scores by group and perturbation, as the table and the plot show them."""
        steps = {1: "1 step", **{n: f"{n} steps" for _, _, n in self.attacks if n > 1}}
        names = {"inf": "L-inf", "2": "L2"}
        return {
            "clean": {"no perturbation": self.clean},
            "noise": {f"{kind} noise {size!r}": score for (kind, size), score in self.noise.items()},
            "attack": {f"{names[norm]} {r!r}, {steps[n]}": score for (norm, r, n), score in self.attacks.items()},
            "weights": {f"{kind} E, norm {self.weight_radius:g}": score for kind, score in self.weights.items()},
        }

    def table(self) -> str:
        """Return one line for each number."""
        lines = [f"robustness: {self.measure} of {self.sequences:,} sequences"]
        lines += [f"  {name:<28} {score:9.4g}" for group in self.scores().values() for name, score in group.items()]
        if self.weights_reason:
            lines.append(f"  {'perturbed weights':<28}      none  {self.weights_reason}")
        for kind, curve in self.growth.items():
            step = max(range(len(curve)), key=lambda t: curve[t])
            lines.append(f"  {f'growth, {kind}':<28} {curve[step]:9.4g}  largest |dh_t| / |dx|, at step {step + 1}")
        bound = "     none" if self.lipschitz is None else f"{self.lipschitz:9.4g}"
        lines.append(f"  {'growth, certified':<28} {bound}  {self.lipschitz_reason}")
        meanings = {
            "radius": "largest modulus of an eigenvalue of W_hh",
            "norm": "largest singular value of W_hh",
            "perturbed radius": "the radius with the worst-case E",
        }
        lines += [f"  {name:<28} {value:9.4g}  {meanings[name]}" for name, value in self.spectral.items()]
        return "\n".join(lines)

    def plot(self, axes: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw a bar for each score, with one color for each kind of perturbation.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            Axes to draw into. Default: the axes of a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        axes = axes_or_new(axes)
        for color, (group, scores) in zip(("0.5", "C0", "C3", "C2"), self.scores().items(), strict=True):
            if scores:
                axes.barh(list(scores), list(scores.values()), color=color, label=group)
        axes.axvline(self.clean, color="0.5", linewidth=0.8, linestyle="--")
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize="small")
        axes.set(title=f"{self.measure} under perturbation", xlabel=self.measure)
        if self.measure == "accuracy":
            axes.set_xlim(0, 1)
        else:
            values = [score for scores in self.scores().values() for score in scores.values() if math.isfinite(score)]
            margin = 0.1 * (max(values) - min(values)) or 0.1 * abs(self.clean) or 1.0
            axes.set_xlim(min(values) - margin, max(values) + margin)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        return axes


def robustness(
    network: nn.Module,
    data: Data,
    loss: Loss | None = None,
    *,
    radii: Sequence[float] = (0.05, 0.1),
    norms: Sequence[Norm] = ("inf", "2"),
    noise: Sequence[float] = (0.1, 0.2),
    steps: int = 10,
    weight_radius: float = 0.3,
    draws: int = 5,
    bounds: tuple[float, float] | None = None,
    batch_size: int = 1024,
    seed: int = 0,
) -> Robustness:
    r"""Measure the accuracy of a network under noise, under attack, and with a perturbed recurrent matrix.

    Each sequence ``x`` is perturbed in these ways:

    - *Noise*: ``x`` plus Gaussian noise, and plus uniform noise.
    - *Attack*: :math:`x + d` after one step along the gradient g of the loss. In the norm "inf", :math:`d = r
      \operatorname{sign} g`. In the norm "2", :math:`d = r \sqrt N\, g / \|g\|` with ``N`` numbers in a sequence. The
      longer attack has ``steps - 1`` further steps of a quarter of this length, each projected onto the ball of the
      radius.
    - *Weights*: ``x`` is unchanged, and :math:`W + E` replaces the recurrent matrix. :math:`\|E\|_2` is the weight
      radius. ``E`` is random, or the result of `worst_perturbation` that makes the spectral radius largest.

    The factor :math:`\sqrt N` makes the two balls comparable. A radius is the root mean square of ``d`` for the norm
    "2", and the largest entry of ``d`` for "inf".

    Parameters
    ----------
    network : nn.Module
        Network whose output is a tensor. It is not changed, because everything runs on a copy in evaluation mode.
    data : pair of Tensor, Dataset or DataLoader
        Inputs of shape (B, T, ...) and targets. Class targets have an integer dtype. Other targets have the shape of
        the outputs.
    loss : function of outputs and targets, optional
        Loss as the mean over a batch. Default: cross-entropy for classes, else the mean squared error.
    radii : sequence of float
        Radii of attacks, in the units of the inputs.
    norms : sequence of "inf" and "2"
        Norms of the attacks.
    noise : sequence of float
        Standard deviations of Gaussian and bounds of uniform noise.
    steps : int
        Number of steps of the longer attack, including the first one. With 0 or 1 there is no longer attack.
    weight_radius : float
        Norm of perturbations of the recurrent matrix, at least 0.
    draws : int
        Number of random ``E`` in the average.
    bounds : pair of float, optional
        Range of the inputs. Perturbed inputs are clamped to it. Default: no clamping.
    batch_size : int
        Number of sequences in a forward pass.
    seed : int
        Random seed of all noise. Torch's global generator is not used.

    Returns
    -------
    Robustness

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, OptionError
        If data, network and options do not fit each other.

    Notes
    -----
    Attacks stop where the gradient vanishes, as in saturated networks. So a high score under attack proves nothing, but
    a low score does. The longer attack begins with the single step, so its score is never better. The same noise is
    scaled to all sizes. In a gated cell, ``W`` is the matrix of `recurrent_matrix`. A network without a recurrent layer
    of this package or of torch has no scores for its weights and no growth. There are also no scores for the weights if
    the matrix is not square, or if another tool computes it by a parametrization. Sources: Goodfellow, Shlens and
    Szegedy (2015) for one step, Madry et al. (2018) for projected steps.

    Examples
    --------
    >>> network = mr.zoo.Network(mr.nn.RNN(1, 8, batch_first=True, constraint=mr.Orthogonal()), 3)
    >>> data = torch.randn(30, 6, 1), torch.randint(3, (30,))
    >>> result = mr.diagnostics.robustness(network, data, radii=(0.1,), norms=("inf",))
    >>> assert result.attacks["inf", 0.1, 10] <= result.attacks["inf", 0.1, 1] and 0 <= result.clean <= 1
    >>> assert result.largest_growth <= result.lipschitz
    """
    require_module(network, "robustness")
    if batch_axis(network):
        raise OptionError(
            f"robustness needs inputs of shape (B, T, ...).\nGot {type(network).__name__} with batch_first=False.\n"
            "Use a layer with batch_first=True."
        )
    _require_options(norms, steps, weight_radius, draws, batch_size, seed)
    radii, noise = require_positives("radii", radii), require_positives("noise", noise)
    bounds = None if bounds is None else require_range("bounds", bounds)
    x, y = tensors_of(data, "robustness")
    most = torch.finfo(x.dtype).max / (10 * math.sqrt(x[0].numel()))
    if max((*radii, *noise), default=0.0) > most:
        raise OptionError(
            f"`radii` and `noise` are too large for inputs of {x.dtype}.\nExpected at most {most:.0e}, got "
            f"{max((*radii, *noise)):g}.\nUse smaller ones."
        )
    if bounds is not None and (x.is_complex() or float(x.min()) < bounds[0] or float(x.max()) > bounds[1]):
        raise OptionError(
            f"`bounds` needs real inputs within the range.\nExpected entries from {bounds[0]} to {bounds[1]}, got "
            f"{'complex ones' if x.is_complex() else f'{float(x.min()):g} to {float(x.max()):g}'}.\nCorrect the range."
        )
    plain = plain_copy(network)
    with evaluating(plain):
        return _measured(plain, x, y, loss, radii, norms, noise, steps, weight_radius, draws, bounds, batch_size, seed)


def _measured(
    plain: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Loss | None,
    radii: Sequence[float],
    norms: Sequence[Norm],
    noise: Sequence[float],
    steps: int,
    weight_radius: float,
    draws: int,
    bounds: tuple[float, float] | None,
    batch_size: int,
    seed: int,
) -> Robustness:
    """Measure a copy in evaluation mode with checked options."""
    judge = Judge.of(plain, x, y, loss, batch_size, bounds, "robustness")
    layer = find_layer(plain)
    clean = judge.clean()
    if not math.isfinite(clean):
        raise NonFiniteError(
            "robustness needs a network with finite outputs.\nGot a loss that is not finite.\nCheck weights and data."
        )
    kinds = {"gaussian": drawn(x, seed), "uniform": drawn(x, seed, uniform=True)}
    attacks: dict[tuple[str, float, int], float] = {}
    for norm in norms:
        for radius in radii:
            one, worst = judge.attacked(norm, radius, steps)
            attacks[norm, radius, 1] = one
            if steps > 1:
                attacks[norm, radius, steps] = worst
    weights = PerturbedWeights({}, "there is no recurrent layer", {})
    growth: dict[str, tuple[float, ...]] = {}
    bound = LipschitzBound(None, "there is no recurrent layer")
    if layer is not None:
        weights = perturbed_weights(judge, weight_radius, draws, seed)
        growth = growth_curves(judge, layer, min(radii, default=1e-3), seed)
        bound = bound_for_inputs(plain, layer, x)
    return Robustness(
        measure=judge.name,
        sequences=len(x),
        clean=clean,
        noise={
            (kind, size): judge.score(judge.clamped(x + size * draw)) for kind, draw in kinds.items() for size in noise
        },
        attacks=attacks,
        weights=weights.scores,
        weights_reason=weights.reason,
        weight_radius=float(weight_radius),
        growth=growth,
        lipschitz=bound.value,
        lipschitz_reason=bound.reason,
        spectral=weights.spectral,
    )


def _require_options(
    norms: Sequence[Norm], steps: int, weight_radius: float, draws: int, batch_size: int, seed: int
) -> None:
    if not isinstance(norms, (tuple, list)) or not all(norm in ("inf", "2") for norm in norms):
        raise OptionError(f"`norms` needs a sequence of 'inf' and '2'. Got {norms!r:.80}.")
    for key, value, least in (("steps", steps, 0), ("draws", draws, 1), ("batch_size", batch_size, 1)):
        require_at_least(key, value, least)
    if weight_radius != 0 or isinstance(weight_radius, bool):
        require_positive("weight_radius", weight_radius)
    require_seed(seed)
