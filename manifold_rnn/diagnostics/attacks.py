"""Perturbed inputs, and how well a network answers them: random noise and steps along the gradient of the loss."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from ..errors import DtypeError, NonFiniteError, OptionError, ShapeError

Loss = Callable[[Tensor, Tensor], Tensor]
Pairs = tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any]
Norm = Literal["inf", "2"]

_SHARE = 0.25  # of the radius, in a step after the first


def tensors_of(data: Pairs, who: str) -> tuple[Tensor, Tensor]:
    """Return the inputs and the targets of all sequences, checked: data is such a pair, a dataset or a loader."""
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=4096)
    if isinstance(data, DataLoader):
        batches = [batch for batch in data if isinstance(batch, (tuple, list)) and len(batch) == 2]
        if batches:
            data = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    if not (isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)):
        raise OptionError(
            f"{who} needs data that are a pair of tensors, inputs and targets, or a dataset of such pairs.\n"
            f"Got {type(data).__name__}.\nPass e.g. task.splits().test."
        )
    x, y = data
    if x.dim() < 2 or not x.numel() or len(x) != len(y):
        raise ShapeError(
            f"{who} needs inputs of shape (B, T, ...) and as many targets, of at least one sequence.\n"
            f"Got inputs {tuple(x.shape)} and targets {tuple(y.shape)}.\nCheck which axis is the batch."
        )
    if not (x.is_floating_point() or x.is_complex()):
        raise DtypeError(
            f"{who} perturbs inputs, which must be real or complex numbers.\nGot {x.dtype}.\n"
            "Pass one-hot vectors or embeddings in the place of symbols."
        )
    if not x.isfinite().all():
        count = int((~x.isfinite()).sum())
        raise NonFiniteError(f"{who} needs finite inputs. Got {count} of {x.numel()} entries that are not.")
    return x.detach(), y.detach()


@dataclass(frozen=True, eq=False)
class Judge:
    """A network with data, and how its answers are scored: by accuracy where targets are classes, else by the loss."""

    network: nn.Module
    x: Tensor
    y: Tensor
    loss: Loss
    by_accuracy: bool
    batch_size: int
    bounds: tuple[float, float] | None

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
        """Return the judge of a network, whose answer to one sequence must fit the targets."""
        with torch.no_grad():
            answer = network(x[:1])
        if not isinstance(answer, Tensor):
            raise ShapeError(
                f"{who} needs a network whose output is a tensor.\nGot {type(answer).__name__} from "
                f"{type(network).__name__}.\nWrap it in a module that returns what the loss compares."
            )
        classes = not (y.is_floating_point() or y.is_complex())
        fits = answer.shape[:-1] == y[:1].shape if classes else answer.shape == y[:1].shape
        if loss is None and not fits:
            kind = "class numbers of shape (B, ...) for outputs (B, ..., C)" if classes else "numbers like the outputs"
            raise ShapeError(
                f"{who} needs targets that fit the outputs: {kind}.\nGot targets {tuple(y.shape)}, and outputs "
                f"{tuple(answer.shape)} for one sequence.\nPass loss=, or a module that answers where the targets are."
            )
        by_accuracy = classes and fits
        if by_accuracy and (int(y.min()) < 0 or int(y.max()) >= answer.shape[-1]):
            raise OptionError(
                f"{who} needs class numbers from 0 to {answer.shape[-1] - 1}.\nGot {int(y.min())} to {int(y.max())}.\n"
                "Check the targets and the readout."
            )
        loss = loss or (_cross_entropy if classes else _squares)
        value = loss(answer, y[:1])
        if not isinstance(value, Tensor) or value.dim():
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(
                f"{who} needs a loss that is a scalar, the mean over a batch.\nGot {got}.\nTake the mean of it."
            )
        return cls(network, x, y, loss, by_accuracy, batch_size, bounds)

    @property
    def name(self) -> str:
        return "accuracy" if self.by_accuracy else "loss"

    def batches(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(tensor.split(self.batch_size) for tensor in tensors), strict=True)

    def clamped(self, x: Tensor) -> Tensor:
        return x if self.bounds is None else x.clamp(*self.bounds)

    @torch.no_grad()
    def score(self, x: Tensor, network: nn.Module | None = None) -> float:
        """Accuracy, or loss, for inputs in the place of the given ones."""
        return self._mean(self._answers(part, y, network) for part, y in self.batches(x, self.y))

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradient of the loss by the inputs of a batch."""
        # cuDNN has no backward pass for recurrent layers in evaluation mode
        off = torch.backends.cudnn.flags(enabled=False) if x.is_cuda else contextlib.nullcontext()
        with torch.enable_grad(), off:
            x = x.detach().requires_grad_()
            value = self.loss(self.network(x), y)
            g = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
        return torch.zeros_like(x) if g is None else g

    def attacked(self, norm: Norm, radius: float, steps: int) -> tuple[float, float]:
        """Scores after one step of length ``radius``, and under the worst of that and ``steps`` further ones.

        Further steps are a quarter as long and projected onto the ball. A sequence counts as right if it is right
        throughout; a loss is the largest of a batch.
        """
        first, worst = [], []
        for x, y in self.batches(self.x, self.y):
            d = self.clamped(x + _along(self.gradient(x, y), norm, radius)) - x
            with torch.no_grad():
                one = result = self._answers(x + d, y)
            for _ in range(steps):
                d = _projected(d + _along(self.gradient(x + d, y), norm, _SHARE * radius), norm, radius)
                d = self.clamped(x + d) - x
                with torch.no_grad():
                    answers = self._answers(x + d, y)
                result = result & answers if self.by_accuracy else torch.maximum(result, answers)
            first.append(one)
            worst.append(result)
        return self._mean(first), self._mean(worst)

    def _answers(self, x: Tensor, y: Tensor, network: nn.Module | None = None) -> Tensor:
        """Whether each answer of a batch is right, or how large the loss is, once for each sequence."""
        outputs = (network or self.network)(x)
        if self.by_accuracy:
            right: Tensor = outputs.argmax(-1) == y
            return right
        return self.loss(outputs, y).detach().double().expand(len(x))

    def _mean(self, answers: Iterable[Tensor]) -> float:
        return float(torch.cat(list(answers)).double().mean())


def _along(g: Tensor, norm: Norm, radius: float) -> Tensor:
    """The step of a length along which the loss grows fastest; none where the gradient is zero."""
    real = torch.view_as_real(g) if g.is_complex() else g
    if norm == "inf":
        step = radius * real.sign()
    else:
        largest = real.abs().flatten(1).amax(1).reshape(-1, *(1,) * (real.dim() - 1))
        unit = real / torch.where(largest > 0, largest, 1)  # whose squares do not vanish
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
    """Euclidean length of each sequence, with the axes of ``x``."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *(1,) * (x.dim() - 1))


def _root(x: Tensor) -> float:
    """Root of the number of entries of a sequence, the length of one whose entries are 1."""
    return float(x[0].numel()) ** 0.5


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten().long())


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().square().mean()
