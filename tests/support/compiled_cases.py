"""Compiled steps beside those of torch: who takes a step, and pairs of weights that both may take."""

import contextlib
import math

import torch

from manifold_rnn.optim import base, small, spheres
from support.optimizer_cases import point
from support.tolerances import atol

WAYS = ["compiled", "torch", "stacked"]


def take(way, monkeypatch):
    """Let Adam step on spheres in one of the ways: compiled or in place where that serves, or many together."""
    if way == "torch":
        monkeypatch.setattr(spheres, "library", lambda: None)
    if way == "stacked":
        monkeypatch.setattr(spheres, "_FEW", math.inf)


class Watch:
    """Which batches the compiled step has taken, and a switch that leaves all to torch."""

    def __init__(self, monkeypatch):
        self.taken, self.off = [], False
        monkeypatch.setattr(base, "prepared", self)

    def __call__(self, *args):
        call = None if self.off else small.prepared(*args)
        self.taken.append(call is not None)
        return call

    @contextlib.contextmanager
    def torch(self):
        """The rule of torch takes all steps."""
        self.off = True
        try:
            yield
        finally:
            self.off = False


def pair(manifold, n, dtype, generator, count=2):
    """Points, and others with the same values, of which one may lie by columns in memory."""
    first = [point(manifold, (n, n), dtype, generator) for _ in range(count)]
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    for p in second:
        p.manifold = manifold
    return first, second


def set_gradients(first, second, size, generator, by_columns=False):
    for p, q in zip(first, second, strict=True):
        g = size * torch.randn(p.shape, dtype=p.dtype, generator=generator)
        p.grad = g.mT.contiguous().mT if by_columns else g
        q.grad = g.clone()


def assert_near(first, second, optimizer, other, factor=1.0):
    for p, q in zip(first, second, strict=True):
        close = {"atol": factor * atol(p.dtype), "rtol": factor * atol(p.dtype)}
        torch.testing.assert_close(p.detach(), q.detach(), **close)
        ours, theirs = optimizer.state[p], other.state[q]
        assert ours.keys() == theirs.keys() and ours.get("step") == theirs.get("step")
        for name in ours.keys() - {"step"}:
            assert ours[name].dtype == theirs[name].dtype and ours[name].shape == theirs[name].shape
            torch.testing.assert_close(ours[name], theirs[name], **close)
