"""The contract of a section of settings that changes how a network learns."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from ...tasks import Task
from ...zoo import Network
from ..values import Value


class Method:
    """What a section of a run's settings changes about training; a subclass overrides what it needs.

    A run calls `require`, `require_network` and `build` whenever it builds the network, also to evaluate or to resume;
    `start` once, before the first step of a run that starts; `rates` when it builds the optimizer; `loss` and
    `added_loss` for each training batch; `added_validation_loss` for each validation batch; `before_step` and
    `after_step` around each step of the optimizer; `numbers` after each epoch. It computes each loss, also of
    validation and test, within `context`. Nothing is called while the section is not `active`.
    """

    @property
    def active(self) -> bool:
        """Whether the section is set."""
        raise NotImplementedError

    def require(self, settings: Value) -> None:
        """Raise `OptionError` if the other parts of the `RunSettings` do not fit to this section."""

    def require_network(self, settings: Value, network: Network) -> None:
        """Raise `OptionError` if the network that the `RunSettings` build does not fit to this section."""

    def build(self, network: Network) -> Network:
        """Return the network with what this section adds to it, before weights are loaded."""
        return network

    def start(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        """Set initial weights from the training set."""

    def loss(self, network: nn.Module, task: Task, inputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the loss of a batch, whose backward pass leaves the gradients that this section defines, or None."""
        return None

    def rates(self) -> dict[str, float]:
        """Return the learning rates of weights that this section has added, by a part of their names."""
        return {}

    def added_loss(self, network: nn.Module, task: Task, progress: float) -> Tensor | None:
        """Return what is added to the loss, once it is computed; ``progress`` goes from 0 to 1 over all steps."""
        return None

    def added_validation_loss(self, network: nn.Module, task: Task) -> Tensor | None:
        """Return what is added to the validation loss, by which the best checkpoint is chosen."""
        return None

    def numbers(self, network: nn.Module) -> dict[str, float]:
        """Return numbers by name, which a run logs after each epoch and ``inspect`` prints."""
        return {}

    def context(self, network: nn.Module, progress: float | None) -> AbstractContextManager[object]:
        """Return the context of a loss, its outputs and `added_loss`; ``progress`` is None in validation and test."""
        return nullcontext()

    def before_step(self, network: nn.Module, progress: float) -> None:
        """Change the gradients before they are clipped and the optimizer steps."""

    def after_step(self, network: nn.Module, progress: float) -> None:
        """Change the network after a step of the optimizer."""
