"""Batches of input pairs and outputs: checked, in double precision, in pieces whose products fit into memory."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, NonFiniteError, OptionError, ShapeError

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]
_NUMBERS, _MOST_ROWS = 2**21, 2**14  # largest number of products and of rows in a piece


class Estimates(NamedTuple):
    """The result of the first pass over the data."""

    sequences: int
    x_mean: Tensor  # (m,)
    x_covariance: Tensor  # (m, m)
    y_mean: Tensor  # (k,)
    y_variance: Tensor  # (k,)


class Batches:
    """Data that can be read several times.

    Parameters
    ----------
    batches : iterable of (x0, x1, y)
        Must start from the beginning each time it is iterated.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        if not isinstance(batches, Iterable) or isinstance(batches, Tensor | Iterator):
            raise OptionError(
                "The batches are read seven times, so they must be iterable several times.\n"
                f"Expected an iterable that restarts each time, such as a list or a DataLoader; got "
                f"{type(batches).__name__}.\nPut the batches of a generator into a list."
            )
        self._batches = batches
        first = next(iter(batches), None)
        if first is None:
            raise ShapeError("Moments need sequences.\nExpected at least one batch, got none.\nPass data.")
        x0, _, y = _checked(first)
        self.inputs, self.outputs = x0.shape[1], y.shape[1]
        self.dtype, self.device = x0.dtype, x0.device
        widest = max(self.inputs**2, self.outputs * self.inputs, self.outputs**2)
        self._rows = min(_MOST_ROWS, max(1, _NUMBERS // widest))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the data in pieces, in float64."""
        for batch in self._batches:
            x0, x1, y = _checked(batch)
            got = (x0.shape[1], y.shape[1])
            if got != (self.inputs, self.outputs) or x0.device != self.device:
                raise ShapeError(
                    "All batches need the same numbers of inputs and outputs, on one device.\n"
                    f"Expected {(self.inputs, self.outputs)} on {self.device}, got {got} on {x0.device}.\n"
                    "Check how the batches are created."
                )
            for parts in zip(*(tensor.detach().split(self._rows) for tensor in (x0, x1, y)), strict=True):
                pieces = tuple(part.to(torch.float64) for part in parts)
                for name, piece in zip(("x0", "x1", "y"), pieces, strict=True):
                    _require_finite(piece, name)
                yield pieces[0], pieces[1], pieces[2]

    def estimates(self) -> Estimates:
        """Return means and covariances, from sums around the means of the pieces."""
        count, x_count = 0, 0
        x_mean = x_scatter = y_mean = y_scatter = torch.zeros((), dtype=torch.float64, device=self.device)
        for x0, x1, y in self:
            x = torch.cat([x0, x1])
            x_count, x_mean, x_scatter = _merged(x_count, x_mean, x_scatter, x, square=False)
            count, y_mean, y_scatter = _merged(count, y_mean, y_scatter, y, square=True)
        return Estimates(count, x_mean, x_scatter / max(1, x_count), y_mean, y_scatter / max(1, count))


def _merged(count: int, mean: Tensor, scatter: Tensor, new: Tensor, *, square: bool) -> tuple[int, Tensor, Tensor]:
    """Add rows to a count, a mean, and the sum of squares or outer products around the mean."""
    own = new.mean(0)
    off, total = new - own, count + len(new)
    step = own - mean
    between = step.square() if square else torch.outer(step, step)
    within = off.square().sum(0) if square else off.mT @ off
    return total, mean + step * (len(new) / total), scatter + within + between * (count * len(new) / total)


def _checked(batch: object) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) != 3 or not all(isinstance(part, Tensor) for part in batch):
        got = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise OptionError(
            f"Moments need the tensors x0, x1 and y.\nExpected three tensors, got {got}.\n"
            "`moments.two_steps` creates them from sequences."
        )
    x0, x1, y = batch
    for name, part in {"x0": x0, "x1": x1, "y": y}.items():
        if not part.is_floating_point():
            raise DtypeError(
                f"Moments need real floating-point numbers.\nExpected a dtype such as float32 for {name}, got "
                f"{part.dtype}.\nPass real and imaginary parts as separate columns, and classes as one-hot vectors."
            )
    shapes = tuple(tuple(part.shape) for part in (x0, x1, y))
    matrices = all(len(shape) == 2 and shape[0] and shape[1] for shape in shapes)
    if not matrices or shapes[0] != shapes[1] or shapes[0][0] != shapes[2][0]:
        raise ShapeError(
            "x0, x1 and y have incompatible shapes.\nExpected (N, m), (N, m) and (N, k), got "
            f"{', '.join(map(str, shapes))}.\nPass one row for each sequence; use y[:, None] for a single output."
        )
    if not x0.device == x1.device == y.device:
        raise DeviceError(
            "x0, x1 and y need to be on one device.\n"
            f"Expected {x0.device}, got {x1.device} and {y.device}.\nMove them with .to(device)."
        )
    return x0, x1, y


def _require_finite(x: Tensor, name: str) -> None:
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"Moments need finite numbers.\nExpected them in {name}, got {int((~finite).sum())} of {x.numel()} that "
            "are not.\nLeave these sequences out; a quadratic recurrence overflows after a few steps."
        )
