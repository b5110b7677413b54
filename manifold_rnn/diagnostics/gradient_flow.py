"""The gradient over time, and the units that do not propagate it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, log
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ..errors import OptionError, ShapeError
from .batches import Data, Loss, default_loss, first_batch, outputs_for
from .checks import require_at_least, require_positive
from .lyapunov import Exponents, Lyapunov
from .plotting import axes_or_new
from .products import Product, median
from .sources import recurrent_layer
from .steps import Trajectory, evaluating, stepwise
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes

_ALWAYS = 0.95  # fraction of the steps at which a saturated unit is saturated, at least
_QUANTILES = {"largest": 1.0, "upper quartile": 0.75, "median": 0.5, "lower quartile": 0.25, "smallest": 0.0}


@dataclass(frozen=True)
class GradientFlow:
    r"""The gradient over time, products of Jacobians, Lyapunov exponents, and dead and saturated units.

    Parameters
    ----------
    loss : float
        The loss of the batch.
    gradient_mean, gradient_lower, gradient_median, gradient_upper : tuple of float
        :math:`\lVert \partial L / \partial s_t \rVert` at the steps t = 1, ..., T: the mean and the three quartiles
        over the sequences.
    times : tuple of int
        The steps t of the products, from 0.
    log10_singular_values : mapping from str to tuple of float
        Decimal logarithms of singular values of :math:`\partial s_T / \partial s_t`, as medians over the sequences. The
        keys are "largest", "upper quartile", "median", "lower quartile" and "smallest". The logarithm of 0 is minus
        infinity.
    lyapunov : Lyapunov
        The largest Lyapunov exponents.
    dead : tuple of tuples of int
        For each level, the units whose output never changes.
    saturated : tuple of tuples of int
        For each level, the units that are saturated at 95% of the steps or more, without the dead ones.
    dead_fraction, saturated_fraction : float
        Fraction of all units in these lists.
    saturation : float
        Fraction of all units, steps and sequences at which a unit is saturated.
    states, sequences : int
        Number of entries of the state, and of sequences in the batch.

    Notes
    -----
    `gradient_flow` has the definitions.

    Examples
    --------
    >>> network, batch = mr.zoo.exprnn(1, 8, 2), (torch.randn(4, 12, 1), torch.tensor([0, 1, 0, 1]))
    >>> flow = mr.diagnostics.gradient_flow(network, batch)
    >>> assert len(flow.gradient_mean) == 12 and "gradient" in flow.table()
    """

    loss: float
    gradient_mean: tuple[float, ...]
    gradient_lower: tuple[float, ...]
    gradient_median: tuple[float, ...]
    gradient_upper: tuple[float, ...]
    times: tuple[int, ...]
    log10_singular_values: Mapping[str, tuple[float, ...]]
    lyapunov: Lyapunov
    dead: tuple[tuple[int, ...], ...]
    saturated: tuple[tuple[int, ...], ...]
    dead_fraction: float
    saturated_fraction: float
    saturation: float
    states: int
    sequences: int

    def table(self) -> str:
        """Return a line for each number."""
        first, last = self.gradient_mean[0], self.gradient_mean[-1]
        t = self._first_product()
        products = {name: 10.0 ** min(values[t], 300.0) for name, values in self.log10_singular_values.items()}
        span = f"of the product of the last {len(self.gradient_mean) - self.times[t]} Jacobians"
        rows = [
            ("loss", f"{self.loss:.4g}", f"mean of {self.sequences} sequences"),
            ("gradient, first step", f"{first:.3g}", "mean norm of dL/ds at t = 1"),
            ("gradient, last step", f"{last:.3g}", "mean norm of dL/ds at t = T"),
            (
                "gradient, first / last",
                f"{first / last if last else torch.nan:.3g}",
                "near 1: no vanishing or exploding gradient",
            ),
            ("largest singular value", f"{products['largest']:.3g}", span),
            ("median singular value", f"{products['median']:.3g}", f"of {self.states}"),
            ("smallest singular value", f"{products['smallest']:.3g}", "0: some changes of the state are lost"),
            ("largest exponent", f"{self.lyapunov.largest:.4g}", "Lyapunov, mean log growth in one step"),
            ("dead units", f"{self.dead_fraction:.1%}", "their output never changes"),
            ("saturated units", f"{self.saturated_fraction:.1%}", f"saturated in {_ALWAYS:.0%} of the steps"),
            ("saturation", f"{self.saturation:.1%}", "of all units and steps"),
        ]
        return aligned("gradient flow", rows)

    def _first_product(self) -> int:
        """Return the index of the longest product that is not zero, or of the last one."""
        largest = self.log10_singular_values["largest"]
        return next((k for k, value in enumerate(largest) if isfinite(value)), len(largest) - 1)

    def plot(
        self, axes: "matplotlib.axes.Axes | None" = None, quantity: Literal["gradient", "products"] = "gradient"
    ) -> "matplotlib.axes.Axes":
        """Draw the norms of the gradient, or with ``quantity="products"`` the singular values of the products."""
        if quantity not in ("gradient", "products"):
            raise OptionError(f'`quantity` must be "gradient" or "products".\nGot {quantity!r:.40}.')
        axes = axes_or_new(axes)
        if quantity == "gradient":
            t = range(1, len(self.gradient_mean) + 1)
            axes.fill_between(t, self.gradient_lower, self.gradient_upper, alpha=0.25, label="quartiles", linewidth=0)
            axes.plot(t, self.gradient_mean, label="mean", marker="." if len(t) == 1 else None)
            axes.set(yscale="log", xlabel="time step t", ylabel="norm of dL/ds at step t")
            axes.set(title="gradient over time")
        else:
            for k, (name, values) in enumerate(
                self.log10_singular_values.items()
            ):  # different widths, so that equal lines stay visible
                marker = "." if len(self.times) == 1 else None
                axes.plot(self.times, values, label=name, linewidth=3.5 - 0.6 * k, marker=marker)
            axes.set(xlabel="time step t", ylabel="log10 of singular values")
            axes.set(title="products of Jacobians from step t to the end")
        axes.legend(fontsize="small")
        return axes


def gradient_flow(
    network: nn.Module,
    data: Data,
    loss: Loss | None = None,
    *,
    sequences: int = 4,
    times: int = 32,
    exponents: int = 8,
    threshold: float = 0.01,
    batch: int = 64,
) -> GradientFlow:
    r"""Measure how the gradient of a loss flows back through the states of a recurrent network.

    The state :math:`s_t` after step t is one real vector with all parts of all levels, such as ``h`` and ``c`` of an
    LSTM. A complex part is written as [Re, Im]. The first recurrent layer of the network is measured.

    Parameters
    ----------
    network : nn.Module
        A network, or a recurrent layer of this package or of torch. A layer returns the outputs of all steps.
    data : (inputs, targets), Dataset or DataLoader
        A batch, or a source whose first batch is used. Tensors are moved to the device of the network.
    loss : function of outputs and targets, optional
        Loss, which must be a scalar. Default: cross-entropy if the targets are integers, else the mean squared error.
    sequences : int
        Number of sequences at the beginning of the batch for which Jacobians are computed.
    times : int
        Largest number of evenly spaced steps t for which the product of Jacobians from t to the end is returned.
    exponents : int
        Largest number of Lyapunov exponents.
    threshold : float
        Gain below which a unit is saturated, relative to the reference. See the notes.
    batch : int
        Number of sequences that are read from a dataset without batches.

    Returns
    -------
    GradientFlow

    Raises
    ------
    OptionError
        If there is no recurrent layer, or the data is not a batch. If the loss does not depend on the states, or a
        number is out of range.
    ShapeError
        If the loss is not a scalar, outputs and targets do not fit, or there is no sequence or no time step.
    UnsupportedError
        If the layer is bidirectional or its input is packed.
    NonFiniteError
        If a state is not finite.

    Notes
    -----
    The network runs in evaluation mode, one step at a time. Its parameters, gradients, modes and random state are
    restored. The gradient is that of the loss as it is. If the loss is a mean over the batch, each sequence contributes
    the factor 1 / B. The derivative with respect to :math:`s_t` treats all its parts as independent. For example, the
    derivative with respect to ``c`` of an LSTM does not include the effect on ``h`` of the same step.

    Projected inputs are added before the nonlinearities. The *gain* of a unit at a step is the norm of the derivative
    of its new value with respect to them. For an Elman cell it is the derivative of the nonlinearity. The *reference*
    is the largest gain in the data, or the gain at zero state and zero projected inputs if that is larger. A unit is
    *saturated* at a step if its gain is below ``threshold`` times the reference of its level. A unit is *dead* if its
    value is the same at all steps of all sequences, up to rounding error.

    The exponents omit the first quarter of the steps. Products are computed in double precision, everything else in the
    dtype of the network.

    Examples
    --------
    >>> lstm = torch.nn.LSTM(3, 5, batch_first=True)
    >>> flow = mr.diagnostics.gradient_flow(lstm, (torch.randn(2, 9, 3), torch.zeros(2, 9, 5)))
    >>> assert flow.states == 10 and flow.dead == ((),) and flow.lyapunov.largest < 0
    """
    for name, number in {"sequences": sequences, "times": times, "exponents": exponents, "batch": batch}.items():
        require_at_least(name, number, 1)
    require_positive("threshold", threshold, below=1)
    layer = recurrent_layer(network)
    with evaluating(network):
        x, y = first_batch(data, batch, next(network.parameters()).device)
        with torch.enable_grad(), stepwise(layer) as recorder:
            outputs = outputs_for(network, x, y)
            trajectory = recorder.trajectory(network)
            value = (loss or default_loss)(outputs, y)
            if not isinstance(value, Tensor) or value.numel() != 1:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ShapeError(f"The loss must be a scalar.\nExpected a tensor with one entry. Got {got}.")
            norms = _gradient_norms(value.sum(), trajectory)  # (T, B)
        flow = _Jacobians(trajectory, sequences, times, min(exponents, trajectory.steps.size))
    units = sum(len(fixed) for fixed in flow.dead)
    dead = tuple(tuple(fixed.nonzero().flatten().tolist()) for fixed in flow.dead)
    often = [(~fixed & (share >= _ALWAYS)) for fixed, share in zip(flow.dead, flow.saturation(threshold), strict=True)]
    saturated = tuple(tuple(each.nonzero().flatten().tolist()) for each in often)
    lower, middle, upper = (tuple(norms.quantile(q, dim=1).tolist()) for q in (0.25, 0.5, 0.75))
    return GradientFlow(
        float(value.detach()),
        tuple(norms.mean(1).tolist()),
        lower,
        middle,
        upper,
        tuple(flow.times),
        flow.log10_singular_values(),
        flow.exponents.result(),
        dead,
        saturated,
        sum(map(len, dead)) / units,
        sum(map(len, saturated)) / units,
        float(torch.cat(flow.saturation(threshold)).mean()),
        trajectory.steps.size,
        norms.shape[1],
    )


def _gradient_norms(loss: Tensor, trajectory: Trajectory) -> Tensor:
    """Return the norms of the gradient with respect to the states after the steps, (T, B)."""
    states = trajectory.states[1:]
    grads = torch.autograd.grad(loss, states, allow_unused=True) if loss.requires_grad else [None] * len(states)
    if all(g is None for g in grads):
        raise OptionError(
            "The loss does not depend on the states of the recurrent layer.\nExpected a loss of the outputs.\n"
            "Check that nothing between the layer and the loss detaches them."
        )
    used = [torch.zeros_like(s) if g is None else g for s, g in zip(states, grads, strict=True)]
    return torch.stack(
        [g.double().norm(dim=-1) for g in used]
    )  # squares of small numbers underflow in single precision


class _Jacobians:
    """Statistics of the Jacobians of all steps. Each Jacobian is computed once forwards and once backwards."""

    def __init__(self, trajectory: Trajectory, sequences: int, times: int, exponents: int) -> None:
        steps, T = trajectory.steps, len(trajectory.x)
        sequences = min(sequences, len(trajectory.states[0]))
        self.exponents = Exponents(steps.size, T, exponents, None, 0)
        gains: list[list[Tensor]] = [[] for _ in steps.cells]
        for _, J, gain in trajectory.derivatives(sequences):
            self.exponents.add(J)
            for kept, values in zip(gains, gain, strict=True):
                kept.append(values)
        self.gains = [torch.stack(kept) for kept in gains]  # (T, B, n) each
        rest = steps.derivatives(trajectory.x[0, :1].detach(), torch.zeros_like(trajectory.states[0][:1]), at_rest=True)
        self.references = [max(float(g.max()), float(r.max())) for g, r in zip(self.gains, rest[1], strict=True)]
        with torch.no_grad():
            values = torch.stack(trajectory.states[1:])
            self.dead = [_fixed(steps.units(values, level)) for level in range(len(steps.cells))]
        self.times = sorted({round(k * (T - 1) / max(1, times - 1)) for k in range(times)})
        product = Product(sequences, steps.size, values.device)
        self.logs: dict[int, Tensor] = {}
        for t, J, _ in trajectory.derivatives(sequences, reverse=True):
            product.multiply(J.mT)
            if t in self.times:
                self.logs[t] = median(product.log_singular_values())

    def saturation(self, threshold: float) -> list[Tensor]:
        """Return the fraction of the steps at which each unit of each level is saturated."""
        pairs = zip(self.gains, self.references, strict=True)
        return [(gains < threshold * reference).double().mean((0, 1)) for gains, reference in pairs]

    def log10_singular_values(self) -> dict[str, tuple[float, ...]]:
        """Return quantiles of the singular values of each product."""
        logs = torch.stack([self.logs[t] for t in self.times]) / log(10)  # (times, N), descending
        last = logs.shape[1] - 1
        return {name: tuple(logs[:, round((1 - q) * last)].tolist()) for name, q in _QUANTILES.items()}


def _fixed(values: Tensor) -> Tensor:
    """Return which units never change, (n,), from values (T, B, n, 1 or 2). One value is not sufficient."""
    flat = values.flatten(0, 1)
    span = flat.amax(0) - flat.amin(0)
    rounding = 8 * torch.finfo(values.dtype).eps * flat.abs().amax(0)
    return (span <= rounding).all(-1) & (len(flat) > 1)
