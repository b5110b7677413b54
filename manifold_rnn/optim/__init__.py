"""Riemannian optimizers: torch.optim's, on manifolds."""

from .adagrad import RiemannianAdagrad
from .adam import RiemannianAdam
from .base import RiemannianOptimizer
from .landing import Landing
from .rmsprop import RiemannianRMSprop
from .sgd import RiemannianSGD

__all__ = [
    "Landing",
    "RiemannianAdagrad",
    "RiemannianAdam",
    "RiemannianOptimizer",
    "RiemannianRMSprop",
    "RiemannianSGD",
]
