"""Optimizers with the options that use every state, and what a refused step must leave as it was."""

import copy

import torch

from manifold_rnn import optim

BASE = optim.RiemannianOptimizer


def is_optimizer(kind):
    """Whether it is an optimizer that can be made, not the base of all."""
    return isinstance(kind, type) and issubclass(kind, BASE) and kind is not BASE


OPTIMIZERS = sorted(name for name in optim.__all__ if is_optimizer(getattr(optim, name)))
OPTIONS = {
    "RiemannianAdam": {"amsgrad": True},
    "RiemannianSGD": {"momentum": 0.9},
    "RiemannianRMSprop": {"momentum": 0.9, "centered": True},
    "Landing": {"momentum": 0.9},
}


def made(name, params, lr=0.1, **more):
    return getattr(optim, name)(params, lr=lr, **OPTIONS.get(name, {}), **more)


def point(manifold, shape, dtype, generator):
    p = torch.nn.Parameter(manifold.random(*shape, dtype=dtype, generator=generator))
    p.manifold = manifold
    return p


def frozen(params, optimizer):
    """Copies of the parameters and of the optimizer's state."""
    return [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict()["state"])


def same(a, b):
    """Whether two such copies are equal bit for bit, NaN included."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if not isinstance(a, torch.Tensor):
        return type(a) is type(b) and a == b
    return a.dtype == b.dtype and a.shape == b.shape and bits(a).equal(bits(b))


def bits(x):
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    return x.reshape(-1).clone().view(torch.uint8)
