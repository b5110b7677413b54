"""Online learning: rules that compute gradients forward in time, instead of by backpropagation through time.

`RFLO` is a network of a leaky layer and a readout. The backward pass of any loss computes the gradients of the rule:

>>> layer = mr.nn.Layer(mr.nn.cells.LeakyElman(leak=0.25), 2, 8, batch_first=True)
>>> network = mr.online.RFLO(layer, torch.nn.Linear(8, 3))
>>> network(torch.randn(4, 20, 2)).square().mean().backward()

The same rule trains a constrained weight, with any optimizer:

>>> layer = mr.nn.Layer(mr.nn.cells.LeakyElman(), 2, 8, constraint=mr.Orthogonal())
>>> network = mr.online.RFLO(layer, torch.nn.Linear(8, 1))
>>> optimizer = mr.optim.RiemannianSGD(network.parameters(), lr=0.1)

Or train step by step while the sequence runs. The memory does not depend on the length of the sequence:

>>> for x, target in zip(torch.randn(50, 1, 2), torch.randn(50, 1, 1)):
...     output = network.step(x, target)
...     optimizer.step()
...     optimizer.zero_grad()
>>> assert mr.linalg.defect(layer.weight_hh_l0) < 1e-5
"""

from ..nn.cells.leaky_form import LeakyForm
from .motifs import MotifChain
from .rflo import RFLO

__all__ = ["RFLO", "LeakyForm", "MotifChain"]
