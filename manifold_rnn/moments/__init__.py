"""Fits a quadratic recurrent network to moments of its data, without gradients.

The outputs ``y`` depend on two independent Gaussian inputs, through a network of unknown weights:

>>> x0, x1 = torch.randn(2, 20_000, 4)
>>> A, U, C = torch.eye(4)[:2], torch.tensor([[0.1, 0.2], [-0.2, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
>>> y = (x1 @ A.T + (x0 @ A.T).square() @ U.T).square() @ C
>>> fit = mr.moments.fit(x0, x1, y, hidden=2)
>>> assert fit.r2 > 0.98

Longer sequences can be divided into such pairs of inputs:

>>> pairs = mr.moments.two_steps(torch.stack([x0, x1], 1), y)
>>> assert mr.moments.fit(*pairs, hidden=2).r2 == fit.r2

The directions of a fit can initialize a layer of any cell:

>>> layer = mr.nn.LSTM(4, 8, batch_first=True)
>>> _ = mr.nn.init.moments_(layer, (torch.stack([x0, x1], 1), y), 2)
"""

from .conditions import Check
from .fitting import fit, fit_batches
from .result import QuadraticFit, Residual
from .sequences import two_steps

__all__ = ["Check", "QuadraticFit", "Residual", "fit", "fit_batches", "two_steps"]
