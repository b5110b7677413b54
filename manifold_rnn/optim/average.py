"""Averages of the weights of a model over training: exponential moving averages and SWA, for both views."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..constraints.parametrization import Parametrization
from ..constraints.registry import parametrizations
from ..errors import OptionError
from .options import bad_decay


class ConstrainedAverage(AveragedModel):
    """The averaged model that `average` returns: a `torch.optim.swa_utils.AveragedModel`.

    Parameters
    ----------
    model : nn.Module
        The model to average.
    decay : float, optional
        See `average`.
    use_buffers : bool
        See `average`.

    Examples
    --------
    >>> averaged = mr.optim.average(torch.nn.Linear(2, 2))
    >>> assert isinstance(averaged, torch.optim.swa_utils.AveragedModel)
    """

    averages_weights: ClassVar[bool] = True

    def __init__(self, model: nn.Module, decay: float | None = None, use_buffers: bool = False) -> None:
        super().__init__(model, multi_avg_fn=None, use_buffers=use_buffers)
        self.decay = decay
        with torch.no_grad():
            for entry in self._entries().values():
                copy.deepcopy(entry).assign_nearest(entry().detach())  # raises if the constraint has no inverse
        self.avg_fn: Callable[..., Any] = self._mean  # torch's own function would average coordinates
        for name, entry in self._entries().items():
            self.register_buffer(_key(name), entry().detach().clone())

    def _entries(self) -> dict[str, Parametrization]:
        return dict(parametrizations(self.module))

    def _mean(self, average: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
        weight = 1 / (int(count) + 1) if self.decay is None else 1 - self.decay
        return average + (value - average) * weight

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average by the weights of ``model``, and project the constrained ones.

        Parameters
        ----------
        model : nn.Module
            The trained model, with the same structure. One of the two may be wrapped, as by ``torch.compile``.

        Raises
        ------
        OptionError
            If the models have other constrained weights, parameters or buffers. Nothing has been changed then.
        """
        own = self._entries()
        _require_alike(_structure(self.module), _structure(model))
        trained = dict(zip(own, (entry for _, entry in parametrizations(model)), strict=True))
        averages = {name: self._averaged(name, trained[name]().detach()) for name in own}
        for name, entry in own.items():
            copy.deepcopy(entry).assign_nearest(averages[name])  # raises before anything is changed
        constrained = [p for entry in own.values() for p in _tensors(entry)]
        kept = [p.detach().clone() for p in constrained]
        super().update_parameters(model)  # averages free parameters and buffers
        for p, value in zip(constrained, kept, strict=True):
            p.copy_(value)
        for name, entry in own.items():
            getattr(self, _key(name)).copy_(averages[name])
            entry.assign_nearest(averages[name])

    def _averaged(self, name: str, weight: Tensor) -> Tensor:
        before: Tensor = getattr(self, _key(name))
        weight, count = weight.to(before), self.n_averaged.to(before.device)
        return weight if count == 0 else self._mean(before, weight, count)


def average(model: nn.Module, decay: float | None = None, *, use_buffers: bool = False) -> ConstrainedAverage:
    r"""Average the weights of a model over training, and project constrained weights onto their sets.

    .. math::
        \bar W \leftarrow \gamma \bar W + (1 - \gamma) W, \qquad W_{\text{average}} = \operatorname{projx}(\bar W).

    Here ``W`` are the dense weights. Coordinates are never averaged, because their meaning changes whenever the base
    moves. Free parameters are averaged as by torch.

    Parameters
    ----------
    model : nn.Module
        The trained model, with weights in any view.
    decay : float, optional
        :math:`\gamma`, from 0 up to below 1, for an exponential moving average. Default: the mean of all weights, as in
        SWA.
    use_buffers : bool
        Whether to also average buffers, such as those of batch normalization.

    Returns
    -------
    ConstrainedAverage
        An `AveragedModel`. Call ``update_parameters(model)`` after each step or epoch, and use it like a model.

    Raises
    ------
    OptionError
        If ``decay`` is not in [0, 1).
    UnsupportedError
        If a weight of a structured constraint cannot be assigned.

    Notes
    -----
    ``state_dict`` also contains the dense averages, so a resumed run continues with the same average.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(4, 4), "weight", mr.Orthogonal(), view="trivialized", rebase_every=1)
    >>> averaged, optimizer = mr.optim.average(layer, decay=0.9), torch.optim.Adam(layer.parameters())
    >>> for _ in range(3):
    ...     layer(torch.ones(4)).sum().backward(); optimizer.step(); averaged.update_parameters(layer)
    >>> assert mr.linalg.defect(averaged.module.weight) < 1e-5
    """
    if decay is not None and not 0 <= decay < 1:
        raise bad_decay(decay)
    return ConstrainedAverage(model, decay, use_buffers)


# the names under which wrappers hold a model: DataParallel, DDP, torch.compile, FSDP and activation checkpoints
_WRAPPED = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPED)


def _structure(model: nn.Module) -> list[tuple[str, str]]:
    """Return the names of all constrained weights, parameters and buffers in order, with the shapes of the latter."""
    weights = [(_unwrapped(name), "constrained weight") for name, _ in parametrizations(model)]
    shapes = [(_unwrapped(name), f"parameter of shape {tuple(p.shape)}") for name, p in model.named_parameters()]
    shapes += [(_unwrapped(name), f"buffer of shape {tuple(b.shape)}") for name, b in model.named_buffers()]
    return weights + shapes


def _require_alike(own: list[tuple[str, str]], trained: list[tuple[str, str]]) -> None:
    """Raise `OptionError` unless an average and a trained model have the same structure."""
    if own == trained:
        return
    pairs = itertools.zip_longest(own, trained)
    expected, got = next((a, b) for a, b in pairs if a != b)
    expected, got = (f"the {each[1]} {each[0]!r}" if each else "nothing more" for each in (expected, got))
    raise OptionError(
        "The model is not of the structure that it had when its average was made.\n"
        f"Expected {expected}, got {got}. Nothing was changed.\n"
        "Call average(model) after constrain or release."
    )


def _key(name: str) -> str:
    return "average_of_" + name.replace(".", "__")


def _tensors(entry: Parametrization) -> list[Tensor]:
    own = [entry.watched] if entry.is_stored_by_module and entry.watched is not None else []
    return [*own, *entry.parameters(), *entry.buffers()]
