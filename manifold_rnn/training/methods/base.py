"""The contract of a section of settings that changes how a network learns."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from ...tasks import Task
from ...zoo import Network
from ..values import Value


class Method:
    """A section of a run's settings that changes training. Subclasses override the methods that they need.

    A run calls these methods if the section is `active`:

    - `require`, `require_network` and `build`: whenever it builds the network, also to evaluate or to resume.
    - `start`: once, before the first step of a new run.
    - `rates`: when it builds the optimizer.
    - `context`: around each loss, also of validation and test.
    - `loss` and `added_loss`: for each training batch.
    - `added_validation_loss`: for each validation batch.
    - `before_step` and `after_step`: around each step of the optimizer.
    - `numbers`: after each epoch.
    """

    @property
    def active(self) -> bool:
        """Whether the section is set."""
        raise NotImplementedError

    def require(self, settings: Value) -> None:
        """Raise `OptionError` if the other parts of the `RunSettings` do not fit this section."""

    def require_network(self, settings: Value, network: Network) -> None:
        """Raise `OptionError` if the network built from the `RunSettings` does not fit this section."""

    def build(self, network: Network) -> Network:
        """Return the network with the additions of this section, before weights are loaded."""
        return network

    def start(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        """Set initial weights from the training set."""

    def loss(self, network: nn.Module, task: Task, inputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return a loss whose backward pass computes the gradients of this section, or None for the usual loss."""
        return None

    def rates(self) -> dict[str, float]:
        """Return the learning rates of the weights that this section added, by a part of their names."""
        return {}

    def added_loss(self, network: nn.Module, task: Task, progress: float) -> Tensor | None:
        """Return a term that is added to the loss, or None. ``progress`` goes from 0 to 1 over all steps."""
        return None

    def added_validation_loss(self, network: nn.Module, task: Task) -> Tensor | None:
        """Return a term that is added to the validation loss, or None. This loss decides the best checkpoint."""
        return None

    def numbers(self, network: nn.Module) -> dict[str, float]:
        """Return numbers by name. A run logs them after each epoch, and ``inspect`` prints them."""
        return {}

    def context(self, network: nn.Module, progress: float | None) -> AbstractContextManager[object]:
        """Return the context of outputs and losses. ``progress`` is None in validation and test."""
        return nullcontext()

    def before_step(self, network: nn.Module, progress: float) -> None:
        """Change the gradients before they are clipped and the optimizer steps."""

    def after_step(self, network: nn.Module, progress: float) -> None:
        """Change the network after a step of the optimizer."""
