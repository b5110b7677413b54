"""Riemannian optimizers: SGD, Adam, RMSprop, Adagrad and Muon on manifolds.

An optimizer moves each constrained parameter on its manifold, and every other parameter as torch.optim does:

>>> layer = mr.constrain(torch.nn.Linear(4, 4), "weight", mr.Orthogonal())
>>> optimizer = mr.optim.RiemannianAdam(layer.parameters(), lr=0.01)
>>> layer(torch.randn(3, 4)).sum().backward(); optimizer.step()
>>> assert mr.linalg.defect(layer.weight) < 1e-5

Parameter groups, schedules and `state_dict` are those of torch:

>>> groups = [{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias], "weight_decay": 1e-4}]
>>> optimizer = mr.optim.RiemannianSGD(groups, lr=0.01, momentum=0.9)
>>> schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)

`Landing` descends near the manifold without retractions, and projects once at the end:

>>> optimizer = mr.optim.Landing(layer.parameters(), lr=0.01)
>>> layer(torch.randn(3, 4)).sum().backward(); optimizer.step(); optimizer.project()

`average` averages weights over training, and projects them onto their manifolds:

>>> averaged = mr.optim.average(layer, decay=0.99)
>>> averaged.update_parameters(layer)
"""

from .adagrad import RiemannianAdagrad
from .adam import RiemannianAdam
from .average import ConstrainedAverage, average
from .base import RiemannianOptimizer
from .landing import Landing
from .muon import RiemannianMuon
from .rmsprop import RiemannianRMSprop
from .sgd import RiemannianSGD

__all__ = [
    "ConstrainedAverage",
    "Landing",
    "RiemannianAdagrad",
    "RiemannianAdam",
    "RiemannianMuon",
    "RiemannianOptimizer",
    "RiemannianRMSprop",
    "RiemannianSGD",
    "average",
]
