"""Optimizers with plain parameters, their references, and runs of both."""

import torch

from manifold_rnn import optim

NAMES = ("RiemannianSGD", "RiemannianAdam", "RiemannianRMSprop", "RiemannianAdagrad")
REFERENCES = {name: type(f"{name}Reference", (getattr(optim, name),), {}) for name in NAMES}  # by `direction`


def slopes(params, generator):
    for p in params:
        g = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        p.grad = g.mT.contiguous().mT if p.ndim > 1 else g  # whose memory is not in the order of the parameter's


def run(params, optimizer, steps, seed=3, skip=()):
    generator = torch.Generator().manual_seed(seed)
    for k in range(steps):
        slopes(params, generator)
        for i in skip if k == 0 else ():
            params[i].grad = None
        optimizer.step()


def close(a, b, single=1e-5):
    for p, q in zip(a, b, strict=True):
        atol = single if p.dtype in (torch.float32, torch.complex64) else 1e-12
        torch.testing.assert_close(p.detach(), q.detach(), atol=atol, rtol=0)
