"""Data, outputs and loss for the diagnostics that need data."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ..errors import DtypeError, NonFiniteError, OptionError, ShapeError
from ..zoo import Network
from .evaluation import loaded, reading

Data: TypeAlias = tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def first_batch(data: Data, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of the first batch of data, on a device."""
    loader = DataLoader(data, batch_size=size) if isinstance(data, Dataset) else data
    with reading(loader):
        pair = tuple(next(loaded(loader), ()) if isinstance(loader, DataLoader) else loader)
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        got = ", ".join(type(part).__name__ for part in pair) or "nothing"
        raise OptionError(
            "This diagnostic needs a batch of inputs and targets.\n"
            f"Expected two tensors, or a Dataset or DataLoader of pairs. Got {got:.80}.\n"
            "Pass (inputs, targets)."
        )
    inputs, targets = (part.to(device) for part in pair)
    return inputs, targets


def tensors_of(data: Data, who: str) -> tuple[Tensor, Tensor]:
    """Return the inputs and the targets of all sequences, after checking them."""
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=4096)
    if isinstance(data, DataLoader):
        with reading(data):
            batches = [batch for batch in loaded(data) if _is_pair(batch)]
        if not batches:
            raise OptionError(
                f"{who} needs pairs of tensors, inputs and targets.\nGot other items.\nPass (inputs, targets)."
            )
        if len({(x.shape[1:], y.shape[1:]) for x, y in batches}) > 1:
            raise ShapeError(
                f"{who} needs sequences of equal length in all batches.\nGot batches of inputs with shapes "
                f"{sorted({tuple(x.shape) for x, _ in batches})!s:.80}.\nPad them to one length."
            )
        data = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    if not _is_pair(data):
        raise OptionError(
            f"{who} needs a pair of tensors, inputs and targets, or a dataset of such pairs.\n"
            f"Got {type(data).__name__}.\nPass for example task.splits().test."
        )
    x, y = data
    if x.dim() < 2 or not x.numel() or len(x) != len(y):
        raise ShapeError(
            f"{who} needs inputs of shape (B, T, ...) and as many targets, of at least one sequence.\n"
            f"Got inputs {tuple(x.shape)} and targets {tuple(y.shape)}.\nCheck which axis is the batch."
        )
    if not (x.is_floating_point() or x.is_complex()):
        raise DtypeError(
            f"{who} needs real or complex inputs, because it perturbs them.\nGot {x.dtype}.\n"
            "Pass one-hot vectors or embeddings instead of symbols."
        )
    if not x.isfinite().all():
        count = int((~x.isfinite()).sum())
        raise NonFiniteError(f"{who} needs finite inputs. Got {count} of {x.numel()} entries that are not.")
    return _own(x), _own(y)


def _is_pair(data: object) -> TypeGuard[tuple[Tensor, Tensor]]:
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def _own(x: Tensor) -> Tensor:
    """The tensor without its graph. A tensor from inference mode is copied."""
    return x.detach().clone() if x.is_inference() else x.detach()


def outputs_for(network: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """Return the outputs of a network, at every time step if the targets have one for each step."""
    at_steps = targets.dim() == (3 if targets.is_floating_point() or targets.is_complex() else 2)
    out = network(x, every_step=True) if at_steps and isinstance(network, Network) else network(x)
    return out[0] if isinstance(out, tuple) else out


def default_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy over the last axis for integer targets, else the mean squared error."""
    is_classes = not targets.is_floating_point() and not targets.is_complex()
    expected = tuple(outputs.shape[:-1] if is_classes else outputs.shape)
    if tuple(targets.shape) != expected:
        raise ShapeError(
            "The outputs of the network do not fit the targets.\n"
            f"Expected targets of shape {expected} for outputs of shape {tuple(outputs.shape)}. "
            f"Got {tuple(targets.shape)}.\nChange the targets, or pass `loss`."
        )
    if is_classes:
        return F.cross_entropy(outputs.flatten(0, -2), targets.flatten().long())
    return (outputs - targets).abs().square().mean()
