"""A network, a task and an optimizer as one Lightning module."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..errors import NonFiniteError
from ..tasks import Task
from .optimizers import build_optimizer, require_groups
from .run_parts import OptimizerSettings, ScheduleSettings
from .schedules import build_schedule


class SequenceModule(LightningModule):
    """Trains a network on a task.

    Parameters
    ----------
    network : nn.Module
        Maps a batch of sequences to what the task's loss takes. For a task that is ``carried`` it has a ``carry_on`` as
        `manifold_rnn.zoo.Network` has; if it has ``parameter_groups(lr)``, those are trained.
    task : Task
        Gives loss and metric.
    optimizer : OptimizerSettings, optional
    schedule : ScheduleSettings, optional
        Stepped once a batch.
    steps, steps_per_epoch : int
        What the schedule is spread over.

    Attributes
    ----------
    state : Tensor or tuple of Tensor or None
        Of a ``carried`` task: where the stream stands, detached.
    inside_epoch : bool
        Whether the next epoch of the trainer is the rest of one, whose losses and stream are here already.
    loss_sum, loss_count : Tensor
        Of the sequences of this epoch so far, and of this process: the training loss is their quotient.

    Raises
    ------
    OptionError
        If no weight has the name of one of the optimizer's groups.
    NonFiniteError
        While training, if the loss is NaN or infinite.

    Notes
    -----
    Logs ``val_loss``, ``val_metric``, ``test_loss``, ``test_metric``.

    Examples
    --------
    >>> module = mr.training.SequenceModule(mr.training.LSTMClassifier(1, 4, 10), mr.tasks.Digits())
    >>> assert module(torch.zeros(3, 64, 1)).shape == (3, 10)
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        optimizer: OptimizerSettings | None = None,
        schedule: ScheduleSettings | None = None,
        *,
        steps: int = 1,
        steps_per_epoch: int = 1,
    ) -> None:
        super().__init__()
        self.network, self.task = network, task
        self.optimizer_settings = optimizer or OptimizerSettings()
        require_groups(network, self.optimizer_settings)  # before a run writes anything
        self.schedule_settings = schedule or ScheduleSettings()
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.state: Any = None
        self.inside_epoch = False
        self.loss_sum, self.loss_count = (torch.zeros((), dtype=torch.float64) for _ in range(2))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs for sequences, or for the next pieces of a stream."""
        every_step = {"every_step": True} if self.task.every_step else {}
        if not self.task.carried:
            outputs: Tensor = self.network(inputs, **every_step)
            return outputs
        network: Any = self.network
        outputs, state = network.carry_on(inputs, self.state, **every_step)
        self.state = _detached(state)
        return outputs

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, after checking that it is a number."""
        inputs, targets = self._converted(batch)
        loss = self.task.loss(self(inputs), targets)
        value = loss.detach()
        if not value.isfinite():
            raise NonFiniteError(
                "Training needs a finite loss.\n"
                f"Got {value.item()} in epoch {self.current_epoch + 1}.\nLower the learning rate."
            )
        self.loss_sum += value.cpu().double() * len(targets)
        self.loss_count += len(targets)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and metric of a validation batch."""
        self._log_scores("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and metric of a test batch."""
        self._log_scores("test", batch)

    def on_validation_epoch_start(self) -> None:
        """Begin the validation stream at its start."""
        self.state = None

    def on_validation_epoch_end(self) -> None:
        """Forget it."""
        self.state = None

    def on_test_epoch_start(self) -> None:
        """Begin the test stream at its start."""
        self.state = None

    def train_loss(self) -> float:
        """Return the mean loss of the epoch so far, over all processes."""
        total, count = self.losses().tolist()
        return float(total / count)

    def losses(self) -> Tensor:
        """Return ``loss_sum`` and ``loss_count`` of all processes together."""
        both = torch.stack([self.loss_sum, self.loss_count])
        if self.trainer.world_size == 1:
            return both
        total: Tensor = self.trainer.strategy.reduce(both.to(self.device), reduce_op="sum")
        return total.cpu()

    def on_train_epoch_start(self) -> None:
        """Forget the losses of the epoch before, and its stream, unless the run goes on in the middle of one."""
        if not self.inside_epoch:
            self.loss_sum.zero_()
            self.loss_count.zero_()
            self.state = None
        self.inside_epoch = False

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule, stepped once a batch."""
        optimizer = build_optimizer(self.network, self.optimizer_settings)
        schedule = build_schedule(optimizer, self.schedule_settings, self.steps, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _log_scores(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        inputs, targets = self._converted(batch)
        outputs = self(inputs)
        scores = {
            f"{stage}_loss": self.task.loss(outputs, targets),
            f"{stage}_metric": self.task.metric(outputs, targets),
        }
        self.log_dict(scores, batch_size=len(targets), sync_dist=self.trainer.world_size > 1)

    def _converted(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The batch in the precision of the readout; symbols stay integers."""
        dtype = next(p.dtype for p in self.network.parameters() if p.is_floating_point())
        inputs, targets = (x.to(dtype) if x.is_floating_point() else x for x in batch)
        return inputs, targets


def _detached(state: Any) -> Any:
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
