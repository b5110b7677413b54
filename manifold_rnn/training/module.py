"""A network, a task and an optimizer as one Lightning module."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import grad_norm
from torch import Tensor, nn
from torch.optim import Optimizer

from ..diagnostics import defects, eigenvalues
from ..diagnostics.sources import has_recurrent_matrix
from ..errors import NonFiniteError, OptionError
from ..tasks import Task
from .methods import Method
from .optimizers import build_optimizer, build_schedule, require_groups
from .settings import OptimizerSettings, ScheduleSettings
from .values import Value, Values


class SequenceModule(LightningModule):
    """Trains a network on a task, under any `lightning.pytorch.Trainer`.

    Parameters
    ----------
    network : nn.Module
        Network that maps a batch of sequences to the inputs of the task's loss. If it has ``parameter_groups(lr)``, the
        optimizer uses them. For a task that is ``carried`` it needs a method ``carry_on`` as in
        `manifold_rnn.zoo.Network`.
    task : Task
        Task that defines loss and metric.
    optimizer : OptimizerSettings, optional
        Settings of the optimizer.
    schedule : ScheduleSettings, optional
        Schedule of the learning rates, over all steps of the trainer.
    max_steps : int, optional
        Largest number of steps in the schedule.
    methods : sequence of Method
        Sections of a run's settings that change how the network learns.

    Attributes
    ----------
    state : Tensor or tuple of Tensor or None
        State of the network after the last batch of a ``carried`` task, detached.
    totals : Tensor
        Sum of the losses and number of the sequences of this epoch in this process. The training loss is their
        quotient. Checkpoints contain both, and the state.

    Raises
    ------
    OptionError
        If a group of the optimizer matches no weight.
    NonFiniteError
        While training, if the loss is NaN or infinite.

    Notes
    -----
    Batches log ``loss`` and ``grad_2.0_norm...``. Epochs log ``train_loss``, ``val_loss``, ``val_metric`` and
    ``weights/...``. The test logs ``test_loss`` and ``test_metric``.

    Examples
    --------
    >>> module = mr.training.SequenceModule(mr.zoo.scornn(1, 4, 10), mr.tasks.Digits())
    >>> assert module(torch.zeros(3, 64, 1)).shape == (3, 10)
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        optimizer: OptimizerSettings | None = None,
        schedule: ScheduleSettings | None = None,
        *,
        max_steps: int | None = None,
        methods: Sequence[Method] = (),
    ) -> None:
        super().__init__()
        self.network, self.task, self.max_steps, self.methods = network, task, max_steps, methods
        self.optimizer_settings = _with_rates(optimizer or OptimizerSettings(), methods)
        require_groups(network, self.optimizer_settings)  # before a run writes anything
        self.schedule_settings = schedule or ScheduleSettings()
        self.state: Tensor | tuple[Tensor, ...] | None = None
        self.totals = torch.zeros(2, dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the network for sequences, or for the next pieces of a stream."""
        every_step = {"every_step": True} if self.task.every_step else {}
        if not self.task.carried:
            return self.network(inputs, **every_step)
        network: Value = self.network
        outputs, state = network.carry_on(inputs, self.state, **every_step)
        self.state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        return outputs

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, after checking that it is finite."""
        inputs, targets = self._converted(batch)
        loss = self._loss(inputs, targets)
        value = loss.detach()
        if not value.isfinite():
            raise NonFiniteError(
                "Training needs a finite loss.\n"
                f"Got {value.item()} in epoch {self.current_epoch + 1}, batch {batch_idx + 1}.\n"
                "Lower the learning rate."
            )
        self.totals += torch.stack([value.cpu().double() * len(targets), torch.tensor(len(targets))])
        self.log("loss", value, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and metric of a validation batch."""
        self._log_scores("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and metric of a test batch."""
        self._log_scores("test", batch)

    def train_loss(self) -> float:
        """Return the mean loss of the epoch so far, over all processes."""
        loss, count = self._totals_of_all().tolist()
        return float(loss / count)

    def on_train_epoch_start(self) -> None:
        """Reset the losses and the stream. A trainer that resumes within an epoch does not call this."""
        self.totals.zero_()
        self.state = None

    def on_train_start(self) -> None:
        """Move the loaded state of a stream to the device of the network."""
        self.state = move_data_to_device(self.state, self.device)

    def on_train_epoch_end(self) -> None:
        """Log the training loss, the numbers of the methods, and the largest defect or else the spectral radius."""
        self.log("train_loss", self.train_loss(), rank_zero_only=True)
        if not self.loggers:
            return
        for method in self.methods:
            self.log_dict(method.numbers(self.network), rank_zero_only=True)
        if (defect := defects(self.network).largest) is not None:
            self.log("weights/defect", defect, rank_zero_only=True)
        elif has_recurrent_matrix(self.network):
            radius = max(map(abs, eigenvalues(self.network)), default=0.0)
            self.log("weights/spectral_radius", radius, rank_zero_only=True)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the methods change the gradients, then log the norm of each gradient and of all, before clipping."""
        for method in self.methods:
            method.before_step(self.network, self._progress())
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning does not declare it
        if self.loggers and (self.global_step + 1) % every == 0:
            self.log_dict(grad_norm(self.network, 2), rank_zero_only=True)

    def on_validation_epoch_start(self) -> None:
        """Reset the stream, before and after the validation and before the test."""
        self.state = None

    on_validation_epoch_end = on_test_epoch_start = on_validation_epoch_start

    def configure_optimizers(self) -> Value:
        """Return the optimizer and its schedule, which is stepped once per batch."""
        optimizer = build_optimizer(self.network, self.optimizer_settings)
        steps = min(self.trainer.estimated_stepping_batches, self.max_steps or math.inf)
        if steps == math.inf:
            raise OptionError(
                "The schedule needs a number of steps.\nGot neither max_epochs nor max_steps.\nSet one in the trainer."
            )
        schedule = build_schedule(optimizer, self.schedule_settings, int(steps), int(self.trainer.num_training_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_end(self, outputs: Value, batch: Value, batch_idx: int) -> None:
        """Let the methods change the network after a step."""
        for method in self.methods:
            method.after_step(self.network, self._progress())

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch: the method's if it defines one, else the task's, plus the terms that methods add."""
        progress = self._progress()
        with self._contexts(progress):
            losses = (method.loss(self.network, self.task, inputs, targets) for method in self.methods)
            loss = next((loss for loss in losses if loss is not None), None)
            if loss is None:
                loss = self.task.loss(self(inputs), targets)
            for method in self.methods:
                added = method.added_loss(self.network, self.task, progress)
                loss = loss if added is None else loss + added
        return loss

    def _contexts(self, progress: float | None) -> ExitStack:
        """The contexts of all methods."""
        contexts = ExitStack()
        for method in self.methods:
            contexts.enter_context(method.context(self.network, progress))
        return contexts

    def _progress(self) -> float:
        """The fraction of all steps that are finished."""
        steps = min(self.trainer.estimated_stepping_batches, self.max_steps or math.inf)
        return min(1.0, self.global_step / max(1, steps))

    def on_save_checkpoint(self, checkpoint: Values) -> None:
        """Add the losses of this epoch and the states of the stream, from all processes."""
        state: Value = self.state
        if self.trainer.world_size > 1 and state is not None:
            state = self.all_gather(state)
        checkpoint["sequence_module"] = {"totals": self._totals_of_all(), "state": state}

    def on_load_checkpoint(self, checkpoint: Values) -> None:
        """Restore the losses of this epoch and the state of the stream."""
        saved, rank = checkpoint["sequence_module"], self.trainer.global_rank
        if rank == 0:  # the saved losses are the sum over all processes
            self.totals = saved["totals"].clone()
        state = saved["state"]
        if state is not None and self.trainer.world_size > 1:
            state = tuple(part[rank] for part in state) if isinstance(state, tuple) else state[rank]
        self.state = state

    def _totals_of_all(self) -> Tensor:
        """Sum of the losses and number of sequences, over all processes."""
        if self.trainer.world_size == 1:
            return self.totals.clone()
        return self.trainer.strategy.reduce(self.totals.to(self.device), reduce_op="sum").cpu()

    def _log_scores(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        inputs, targets = self._converted(batch)
        with self._contexts(None):
            outputs = self(inputs)
        for score in ("loss", "metric"):
            value = getattr(self.task, score)(outputs, targets)
            if (stage, score) == ("val", "loss"):
                added = (method.added_validation_loss(self.network, self.task) for method in self.methods)
                value = sum((part for part in added if part is not None), value)
            self.log(f"{stage}_{score}", value, batch_size=len(targets), sync_dist=self.trainer.world_size > 1)

    def _converted(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The batch in the precision of the readout. Symbols stay integers."""
        dtype = next(p.dtype for p in self.network.parameters() if p.is_floating_point())
        inputs, targets = (x.to(dtype) if x.is_floating_point() else x for x in batch)
        return inputs, targets


def _with_rates(settings: OptimizerSettings, methods: Sequence[Method]) -> OptimizerSettings:
    """The settings of the optimizer, with a group for each method that sets a learning rate."""
    groups: dict[str, Values] = {part: {"lr": rate} for method in methods for part, rate in method.rates().items()}
    return replace(settings, groups={**groups, **settings.groups})
