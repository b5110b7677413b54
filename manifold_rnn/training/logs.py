"""What TensorBoard shows of a run."""

import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from .inspection import recurrent_matrix, spectrum, worst_defect
from .keeping import Keeper
from .progress import Watcher


class Scalars(Callback):
    """Logs loss, learning rates and gradient norms as training goes on, and scores and the defect of every epoch.

    Parameters
    ----------
    folder : Path
        For the event files.
    every : int
        Steps between two entries.
    keeper : Keeper
        Knows the step; entries of a run that was killed after its last checkpoint are marked as replaced.
    watcher : Watcher
        Has the scores.
    """

    def __init__(self, folder: Path, every: int, keeper: Keeper, watcher: Watcher) -> None:
        self._folder, self._every, self._keeper, self._watcher = folder, every, keeper, watcher
        self._writer: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the log."""
        if trainer.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter  # here, because it takes a second to import

            self._writer = SummaryWriter(str(self._folder), purge_step=self._keeper.start.step or None)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norm of the gradient of every layer, before it is clipped."""
        if self._due(trainer, 1):
            module: Any = pl_module
            for layer, norm in gradient_norms(module.network).items():
                self._log(trainer, f"gradient/{layer}", norm, 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the loss and the rates."""
        if self._due(trainer, 0):
            self._log(trainer, "loss/batch", float(outputs["loss"]))
            for index, group in enumerate(trainer.optimizers[0].param_groups):
                self._log(trainer, f"rate/{index}", group["lr"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores, and how far the network is off its manifolds, or its spectral radius if it has none."""
        if self._writer is None:
            return
        record, module = self._watcher.history[-1], pl_module
        for name in ("train_loss", "val_loss", "val_metric"):
            self._log(trainer, f"epoch/{name}", getattr(record, name))
        network: Any = module.network
        defect = worst_defect(network)
        if defect is not None:
            self._log(trainer, "weights/defect", defect)
        elif recurrent_matrix(network)[1].numel():
            self._log(trainer, "weights/spectral_radius", max(map(abs, spectrum(network)), default=0.0))
        self._writer.flush()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the log."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _due(self, trainer: Trainer, ahead: int) -> bool:
        return self._writer is not None and (self._keeper.start.step + trainer.global_step + ahead) % self._every == 0

    def _log(self, trainer: Trainer, name: str, value: float, ahead: int = 0) -> None:
        self._writer.add_scalar(name, value, self._keeper.start.step + trainer.global_step + ahead)


def gradient_norms(network: torch.nn.Module) -> dict[str, float]:
    """Return the norm of the gradient of each level of the network, and of each other part.

    Examples
    --------
    >>> from manifold_rnn.training.logs import gradient_norms
    >>> network = mr.zoo.exprnn(1, 4, 2)
    >>> network(torch.ones(2, 3, 1)).sum().backward()
    >>> assert sorted(gradient_norms(network)) == ["layer0", "readout"]
    """
    squares: dict[str, float] = {}
    for name, p in network.named_parameters():
        if p.grad is not None:
            level = re.search(r"_l(\d+)", name)
            part = f"layer{level[1]}" if level else name.split(".")[0]
            squares[part] = squares.get(part, 0.0) + float(torch.linalg.vector_norm(p.grad)) ** 2
    return {part: square**0.5 for part, square in squares.items()}
