"""Riemannian optimizers: torch.optim's, on manifolds."""

from .adam import RiemannianAdam
from .base import RiemannianOptimizer
from .sgd import RiemannianSGD

__all__ = ["RiemannianAdam", "RiemannianOptimizer", "RiemannianSGD"]
