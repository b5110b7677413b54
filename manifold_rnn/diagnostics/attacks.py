"""Scores of a network for perturbed inputs: random noise, and steps along the gradient of the loss."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError, OptionError, ShapeError
from .batches import Loss, default_loss, outputs_for

Norm = Literal["inf", "2"]

_SHARE = 0.25  # size of a step after the first, as a fraction of the radius


@dataclass(frozen=True, eq=False)
class Judge:
    """Scores a network on data: by accuracy if the targets are classes, else by the loss."""

    network: nn.Module
    x: Tensor
    y: Tensor
    loss: Loss
    by_accuracy: bool
    batch_size: int
    bounds: tuple[float, float] | None
    who: str

    @classmethod
    def of(
        cls,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        loss: Loss | None,
        batch_size: int,
        bounds: tuple[float, float] | None,
        who: str,
    ) -> "Judge":
        """Return the judge of a network. Its output for one sequence must fit the targets."""
        with torch.no_grad():
            answer = outputs_for(network, x[:1], y)
        if not isinstance(answer, Tensor):
            raise ShapeError(
                f"{who} needs a network whose output is a tensor.\nGot {type(answer).__name__} from "
                f"{type(network).__name__}.\nWrap it in a module that returns what the loss compares."
            )
        classes = not (y.is_floating_point() or y.is_complex())
        fits = answer.shape[:-1] == y[:1].shape if classes else answer.shape == y[:1].shape
        by_accuracy = classes and fits
        if by_accuracy and (int(y.min()) < 0 or int(y.max()) >= answer.shape[-1]):
            raise OptionError(
                f"{who} needs class numbers from 0 to {answer.shape[-1] - 1}.\nGot {int(y.min())} to {int(y.max())}.\n"
                "Check the targets and the readout."
            )
        if loss is not None and not callable(loss):
            raise OptionError(
                f"`loss` needs a function of outputs and targets.\nGot {loss!r:.40}.\nPass a function or None."
            )
        loss = loss or default_loss
        value = loss(answer, y[:1])
        if not isinstance(value, Tensor) or value.dim():
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(
                f"{who} needs a loss that is a scalar, the mean over a batch.\nGot {got}.\nReturn this mean."
            )
        return cls(network, x, y, loss, by_accuracy, batch_size, bounds, who)

    @property
    def name(self) -> str:
        return "accuracy" if self.by_accuracy else "loss"

    def batches(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(tensor.split(self.batch_size) for tensor in tensors), strict=True)

    def clamped(self, x: Tensor) -> Tensor:
        return x if self.bounds is None else x.clamp(*self.bounds)

    def clean(self) -> float:
        """The score without perturbation. Raises `NonFiniteError` if an output is not finite."""
        for x, y in self.batches(self.x, self.y):
            with torch.no_grad():
                outputs = outputs_for(self.network, x, y)
            if not outputs.isfinite().all():
                count = int((~outputs.isfinite()).sum())
                raise NonFiniteError(
                    f"{self.who} needs finite outputs of the network for the given inputs.\n"
                    f"Got {count} of {outputs.numel()} entries that are not.\nCheck the weights of the network."
                )
        return self.score(self.x)

    @torch.no_grad()
    def score(self, x: Tensor, network: nn.Module | None = None) -> float:
        """Accuracy or loss for inputs that replace the given ones."""
        return self._mean(self._answers(part, y, network) for part, y in self.batches(x, self.y))

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradient of the loss with respect to the inputs of a batch."""
        # cuDNN has no backward pass for recurrent layers in evaluation mode
        off = torch.backends.cudnn.flags(enabled=False) if x.is_cuda else contextlib.nullcontext()
        with torch.enable_grad(), off:
            x = x.detach().requires_grad_()
            value = self.loss(outputs_for(self.network, x, y), y)
            g = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
        return torch.zeros_like(x) if g is None else g

    def attacked(self, norm: Norm, radius: float, steps: int) -> tuple[float, float]:
        """Scores after one step of length ``radius``, and after the worst of ``steps`` steps.

        The one step is the first of the ``steps``. Further steps are a quarter as long and projected onto the ball. A
        sequence is correct if it is correct after every step. A loss is the largest one over the steps.
        """
        first, worst = [], []
        for x, y in self.batches(self.x, self.y):
            d = self.clamped(x + _along(self.gradient(x, y), norm, radius)) - x
            with torch.no_grad():
                one = result = self._answers(x + d, y)
            for _ in range(steps - 1):
                d = _projected(d + _along(self.gradient(x + d, y), norm, _SHARE * radius), norm, radius)
                d = self.clamped(x + d) - x
                with torch.no_grad():
                    answers = self._answers(x + d, y)
                result = result & answers if self.by_accuracy else torch.maximum(result, answers)
            first.append(one)
            worst.append(result)
        return self._mean(first), self._mean(worst)

    def _answers(self, x: Tensor, y: Tensor, network: nn.Module | None = None) -> Tensor:
        """Whether each output of a batch is correct, or the loss, repeated for each sequence.

        An output that is not finite is wrong, and its loss is infinite.
        """
        outputs = outputs_for(network or self.network, x, y)
        if self.by_accuracy:
            right: Tensor = (outputs.argmax(-1) == y) & outputs.isfinite().all(-1)
            return right
        return self.loss(outputs, y).detach().double().nan_to_num(math.inf, math.inf).expand(len(x))

    def _mean(self, answers: Iterable[Tensor]) -> float:
        return float(torch.cat(list(answers)).double().mean())


def _along(g: Tensor, norm: Norm, radius: float) -> Tensor:
    """The step of this length along which the loss grows fastest. It is zero where the gradient is zero."""
    real = torch.view_as_real(g) if g.is_complex() else g
    if norm == "inf":
        step = radius * real.sign()
    else:
        largest = real.abs().flatten(1).amax(1).reshape(-1, *(1,) * (real.dim() - 1))
        unit = real / torch.where(largest > 0, largest, 1)  # scaled, so that squares do not underflow
        size = _lengths(unit)
        step = unit * (radius * _root(unit) / torch.where(size > 0, size, 1))
    return torch.view_as_complex(step) if g.is_complex() else step


def _projected(d: Tensor, norm: Norm, radius: float) -> Tensor:
    real = torch.view_as_real(d) if d.is_complex() else d
    if norm == "inf":
        real = real.clamp(-radius, radius)
    else:
        real = real / (_lengths(real) / (radius * _root(real))).clamp(min=1)
    return torch.view_as_complex(real) if d.is_complex() else real


def _lengths(x: Tensor) -> Tensor:
    """Euclidean length of each sequence, broadcastable to ``x``."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *(1,) * (x.dim() - 1))


def _root(x: Tensor) -> float:
    """Square root of the number of entries of a sequence."""
    return float(x[0].numel()) ** 0.5
