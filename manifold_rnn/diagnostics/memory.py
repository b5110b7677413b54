"""Memory: how well a linear map of the current state recovers past inputs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import NonFiniteError, OptionError, ShapeError
from ..linalg.norms import power_of_two_below
from ..nn import real_features
from .checks import require_at_least, require_positive
from .plotting import axes_or_new
from .sources import States, find_layer, hidden_states, layer_states
from .steps import evaluating
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes

_PENALTIES = torch.logspace(-20, 2, 12, dtype=torch.float64)  # relative to the largest squared singular value
_TARGETS = 2**22  # largest number of past inputs in memory at a time
_SHOWN = 6  # largest number of features that are drawn separately


@dataclass(frozen=True)
class Memory:
    r"""The recall of past inputs by a linear readout of the state.

    Parameters
    ----------
    recall : tuple of tuples of float
        For each input feature, :math:`R^2` of the readout of :math:`u_{t-k}` from :math:`h_t`, at the delays k = 0,
        ..., K. It is measured on test sequences that were not used for the readout or its penalty.
    states : int
        Number of real features of the state.
    rows : tuple of int
        Number of rows, one for each time step and sequence, for training, validation and test.

    Examples
    --------
    >>> memory = mr.diagnostics.Memory(((1.0, 0.5, 0.0),), 4, (300, 100, 100))
    >>> assert memory.total == 1.5 and memory.delay == 1 and "capacity" in memory.table()
    """

    recall: tuple[tuple[float, ...], ...]
    states: int
    rows: tuple[int, int, int]

    @property
    def capacity(self) -> tuple[float, ...]:
        """Sum of the recall of each input feature over the delays. Negative values count as 0."""
        return tuple(sum(max(value, 0.0) for value in values) for values in self.recall)

    @property
    def total(self) -> float:
        """Sum over the features. For independent inputs it is at most the number of features of the state."""
        return sum(self.capacity)

    @property
    def mean(self) -> tuple[float, ...]:
        """Recall at each delay, averaged over the features."""
        return tuple(sum(values) / len(values) for values in zip(*self.recall, strict=True))

    @property
    def delay(self) -> int:
        """Largest delay up to which the mean recall is at least one half, or -1 if there is none."""
        below = [k for k, value in enumerate(self.mean) if value < 0.5]
        return (below[0] if below else len(self.mean)) - 1

    def table(self) -> str:
        """Return a line for each number."""
        K = len(self.mean) - 1
        rows = [
            ("total capacity", f"{self.total:.4g}", f"sum of R^2 over {len(self.recall)} features, delays 0 to {K}"),
            ("states", f"{self.states}", "real features that are read, the bound for independent inputs"),
            ("half recalled", f"{self.delay}", "largest delay up to which R^2 is at least 0.5; -1: none"),
            ("recall now", f"{self.mean[0]:.4g}", "mean R^2 at delay 0"),
            ("recall at the last delay", f"{self.mean[-1]:.4g}", "if it is not near 0, use more delays"),
        ]
        for j, (value, _) in enumerate(zip(self.capacity, range(_SHOWN), strict=False)):
            rows.append((f"capacity of feature {j}", f"{value:.4g}", "sum of its R^2"))
        return aligned("memory, by linear readout", rows)

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the recall over the delays: of each feature if there are few, else the mean and the range."""
        axes = axes_or_new(axes)
        k = range(len(self.mean))
        marker = "." if len(self.mean) < 40 else None
        if len(self.recall) <= _SHOWN:
            for j, values in enumerate(self.recall):
                axes.plot(k, values, label=f"feature {j}: capacity {self.capacity[j]:.3g}", marker=marker)
        else:
            lowest, highest = (tuple(f(v) for v in zip(*self.recall, strict=True)) for f in (min, max))
            axes.fill_between(k, lowest, highest, alpha=0.25, label="all features", linewidth=0)
            axes.plot(k, self.mean, label=f"mean: total capacity {self.total:.3g}", marker=marker)
        axes.set(xlabel="delay k", ylabel="R² of the input at t - k", title="recall of past inputs", ylim=(-0.05, 1.05))
        axes.legend(fontsize="small")
        return axes


def memory(
    source: States,
    data: Tensor | None = None,
    *,
    delays: int | None = None,
    steps: int = 500,
    sequences: int = 16,
    scale: float = 1.0,
    seed: int = 0,
) -> Memory:
    r"""Measure the memory of a layer by linear readout of its past inputs.

    .. math:: \hat u_{t-k} = A_k h_t + a_k, \qquad R^2_k = 1 - \frac{\sum_t (u_{t-k} - \hat u_{t-k})^2}{
        \sum_t (u_{t-k} - \bar u)^2},

    The :math:`A_k` are computed by ridge regression in closed form. Each target has its own penalty, the one with the
    smallest error on validation rows. :math:`R^2` is measured on test rows.

    Parameters
    ----------
    source : nn.Module or function
        A recurrent layer of this package or of torch, or a network, whose first recurrent layer is used. With ``data``,
        it can also be any function that returns states of shape (B, T, n).
    data : Tensor, shape (B, T, ...), optional
        Inputs of ``source``. For a network, the recall of the inputs of its layer is measured. The default is
        independent inputs for the layer, uniform between minus and plus ``scale``.
    delays : int, optional
        Largest delay K. Default: the number of features of the state, at most half of the steps.
    steps, sequences : int
        Number of time steps T and sequences B of random inputs.
    scale : float
        Largest modulus of random inputs. Small inputs measure the linear response.
    seed : int
        Random seed of the inputs.

    Returns
    -------
    Memory

    Raises
    ------
    OptionError
        If there is no layer and no data, or a number is out of range.
    ShapeError
        If the states or inputs do not have shape (B, T, n), or too few rows are left.
    NonFiniteError
        If a state or an input is not finite.

    Notes
    -----
    The first K steps of each sequence are left out. Three or more sequences are split into a half for training and a
    quarter each for validation and test. Fewer sequences are split along time. A constant feature has the recall 0. A
    complex state or input is converted to [Re, Im]. The module runs in evaluation mode with its own dtype, and the
    regression in double precision. For independent inputs, the total is at most the number of features of the state.
    Source: Jaeger (2001), Short Term Memory in Echo State Networks.

    Examples
    --------
    >>> chain = mr.nn.RNN(1, 5, nonlinearity=lambda z: z, bias=False, dtype=torch.float64)
    >>> _ = mr.nn.init.chain_(chain.weight_hh_l0.data, 1.0), mr.nn.init.source_(chain.weight_ih_l0.data)
    >>> memory = mr.diagnostics.memory(chain, delays=8)
    >>> assert min(memory.recall[0][:5]) > 0.999 and max(memory.recall[0][5:]) < 0.1
    """
    require_at_least("steps", steps, 2)
    require_at_least("sequences", sequences, 1)
    require_positive("scale", scale)
    with evaluating(source), torch.no_grad():
        u, h = _drawn(source, steps, sequences, scale, seed) if data is None else _given(source, data)
    u, h = (real_features(z).double() for z in (u, h))
    for z, what in ((u, "inputs"), (h, "states")):
        if not bool(z.isfinite().all()):
            raise NonFiniteError(f"`memory` needs finite {what}.\nGot NaN or infinity.\nCheck the weights and data.")
    if not len(h):
        raise ShapeError("`memory` needs at least one sequence.\nGot an empty batch.\nPass a larger batch.")
    u, h = (z / power_of_two_below(z.abs().amax()) if z.numel() else z for z in (u, h))  # so that no square underflows
    T, n = h.shape[1:]
    delays = min(n, T // 2) if delays is None else delays
    require_at_least("delays", delays, 0, T - 1)
    readout = _Readout(*_split(h[:, delays:]))
    block = max(1, _TARGETS // max(1, u[:, delays:].numel()))
    recalls = []
    for k in torch.arange(delays + 1).split(block):
        past = torch.stack([u[:, delays - i : T - i] for i in k.tolist()], 2)  # (B, T - K, block, m)
        recalls.append(readout.recall(*_split(past.flatten(2))).unflatten(0, (len(k), u.shape[-1])))
    return Memory(tuple(tuple(values) for values in torch.cat(recalls).mT.tolist()), n, readout.rows)


def _drawn(source: States, steps: int, sequences: int, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return independent inputs and the states of the layer for them, (B, T, m) and (B, T, n)."""
    layer = find_layer(source)
    if layer is None:
        raise OptionError(
            f"{type(source).__name__} has no recurrent layer for which inputs can be drawn.\n"
            "Expected a layer or a network with one.\nPass inputs as `data`."
        )
    weight = next(layer.parameters())
    generator = torch.Generator().manual_seed(seed)
    u = scale * (2 * torch.rand(sequences, steps, layer.input_size, generator=generator, dtype=torch.float64) - 1)
    u = u.to(weight.device, weight.real.dtype)
    return u, hidden_states(layer, u if layer.batch_first else u.transpose(0, 1))


def _given(source: States, data: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inputs of the layer or function, and the states, (B, T, m) and (B, T, n)."""
    if not isinstance(data, Tensor):
        raise OptionError(
            f"`data` needs to be one tensor, the inputs.\nGot {type(data).__name__}.\nPass only the inputs."
        )
    layer = find_layer(source)
    call, h = layer_states(source, data)
    u = call.input
    u = u if layer is None or layer.batch_first or u.dim() != 3 else u.transpose(0, 1)
    if u.dim() != 3 or u.shape[:2] != h.shape[:2]:
        raise ShapeError(
            "`memory` needs inputs and states of the same sequences and time steps.\n"
            f"Expected inputs of shape {tuple(h.shape[:2])} and a number of features. Got {tuple(u.shape)}.\n"
            "Pass one batch of sequences of equal length."
        )
    return u, h


def _split(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of (B, T, features) for training, validation and test."""
    if len(z) < 3:
        z = z.transpose(0, 1)  # split along time
    count = len(z)
    if count < 3:
        raise ShapeError(
            "`memory` needs enough rows to train, validate and test a readout.\n"
            f"Expected at least 3 sequences, or 3 time steps after the delays. Got {count}.\n"
            "Pass more sequences or steps, or fewer delays."
        )
    quarter = max(1, count // 4)
    train, valid, test = (part.flatten(0, 1) for part in z.split([count - 2 * quarter, quarter, quarter]))
    return train, valid, test


class _Readout:
    """Ridge regressions on the same rows of states, one for each target."""

    def __init__(self, train: Tensor, valid: Tensor, test: Tensor) -> None:
        self.rows = (len(train), len(valid), len(test))
        center = train.mean(0)
        self._U, self._S, Vh = torch.linalg.svd(train - center, full_matrices=False)
        self._valid, self._test = ((rows - center) @ Vh.mT for rows in (valid, test))

    def recall(self, train: Tensor, valid: Tensor, test: Tensor) -> Tensor:
        """Return R^2 of each target on test rows, (targets,)."""
        S, offset = self._S, train.mean(0)
        largest = S.max().square() if len(S) and S.max() > 0 else torch.ones_like(S.sum())
        penalties = _PENALTIES.to(S) * largest
        projected = self._U.mT @ (train - offset)  # (r, targets)

        def errors_of(coordinates: Tensor, targets: Tensor) -> Tensor:
            """Sums of squared errors for each penalty, (penalties, targets)."""
            shrunk = ((S / (S.square() + penalty))[:, None].mul(projected) for penalty in penalties)
            return torch.stack([(targets - offset - coordinates @ part).square().sum(0) for part in shrunk])

        best = errors_of(self._valid, valid).argmin(0, keepdim=True)
        error = errors_of(self._test, test).gather(0, best)[0]
        variance = (test - test.mean(0)).square().sum(0)
        scale = torch.finfo(S.dtype).eps * test.square().sum(0)  # a constant feature varies only by rounding error
        return torch.where(variance > scale, 1 - error / torch.where(variance > scale, variance, 1), 0)
