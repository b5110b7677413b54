"""Random quadratic systems, their data, and how far a fit is from one, whatever the order and the signs."""

from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor


class System(NamedTuple):
    A: Tensor
    U: Tensor
    C: Tensor

    def outputs(self, x0, x1, h=0.0):
        h = (x0 @ self.A.T + h).square()
        return (x1 @ self.A.T + h @ self.U.T).square() @ self.C


def system(seed, m=4, n=3, k=3, coupling=0.15):
    g = torch.Generator().manual_seed(seed)
    A, U, C = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((n, m), (n, n), (n, k)))
    return System(A / A.norm(dim=1, keepdim=True), coupling * U, C)


def data(net, count, seed=0, noise=0.1):
    """Standard Gaussian inputs, and outputs with noise."""
    g = torch.Generator().manual_seed(10_000 + seed)
    x0, x1 = (torch.randn(count, net.A.shape[1], generator=g, dtype=torch.float64) for _ in range(2))
    e = torch.randn(count, net.C.shape[1], generator=g, dtype=torch.float64)
    return x0, x1, net.outputs(x0, x1) + noise * e


def matched(fit, net):
    """The weights of a fit, ordered and signed as those of a system."""
    n = len(net.A)
    A, U, C = (part.double() for part in (fit.A, fit.U, fit.C))
    cosines = (A / A.norm(dim=1, keepdim=True)) @ (net.A / net.A.norm(dim=1, keepdim=True)).T
    order = max(permutations(range(n)), key=lambda p: sum(cosines[p[i], i].abs() for i in range(n)))
    signs = torch.stack([cosines[order[i], i] for i in range(n)]).sign()
    order = list(order)
    return System(A[order] * signs[:, None], U[order][:, order] * signs[:, None], C[order])


class Errors(NamedTuple):
    cosine: float  # the smallest of a direction
    U: float  # relative
    r2: float  # of outputs without noise, on new data


def errors(fit, net, seed=0):
    A, U, _ = matched(fit, net)
    cosines = (A * net.A).sum(1) / A.norm(dim=1) / net.A.norm(dim=1)
    x0, x1, y = data(net, 20_000, seed + 500, noise=0.0)
    rest = fit.predict(x0.to(fit.A), x1.to(fit.A)).double() - y
    return Errors(
        float(cosines.min()), float((U - net.U).norm() / net.U.norm()), 1 - float(rest.var(0).sum() / y.var(0).sum())
    )
