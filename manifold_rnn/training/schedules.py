"""Learning-rate schedules: how all learning rates change from step to step."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .settings import ScheduleSettings


def build_schedule(optimizer: Optimizer, settings: ScheduleSettings, steps: int, steps_per_epoch: int) -> LambdaLR:
    r"""Multiply the learning rate of every group by the same factor.

    In the first :math:`w` of all :math:`S` steps, the factor is :math:`(s + 1) / w` at step :math:`s`, counted from 0.
    After that it is 1 for "constant", :math:`\tfrac12 (1 + \cos(\pi (s - w) / (S - w)))` for "cosine", and a power of
    ``factor`` that grows every ``every`` epochs for "step".

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    settings : ScheduleSettings
    steps, steps_per_epoch : int
        Steps of the whole training and of one epoch.

    Returns
    -------
    LambdaLR
        To be stepped once a batch.

    Examples
    --------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    >>> schedule = mr.training.build_schedule(optimizer, mr.training.ScheduleSettings("cosine"), 4, 2)
    >>> for _ in range(2): optimizer.step(); schedule.step()
    >>> assert abs(optimizer.param_groups[0]["lr"] - 0.25) < 1e-9
    """
    warm = math.ceil(settings.warmup * steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        if settings.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
        if settings.name == "step":
            return settings.factor ** (step // (settings.every * steps_per_epoch))
        return 1.0

    return LambdaLR(optimizer, factor)
