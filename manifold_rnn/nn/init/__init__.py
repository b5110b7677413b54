"""Initializations of a recurrent matrix: skew-symmetric exponents of rotations, and non-normal matrices.

As in torch.nn.init, each function except `moments_` fills a tensor in place. An exponent gives a rotation:

>>> A = mr.nn.init.henaff_(torch.empty(8, 8))
>>> assert mr.linalg.defect(mr.linalg.expm_skew(A)) < 1e-5

You can assign a matrix to the weight of a layer with a constraint:

>>> rnn = mr.nn.RNN(3, 8, constraint=mr.Orthogonal())
>>> with torch.no_grad():
...     _ = rnn.weight_hh_l0.copy_(mr.linalg.expm_skew(mr.nn.init.cayley_(torch.empty(8, 8))))

A layer without a constraint can have a non-normal matrix:

>>> _ = mr.nn.init.chain_(mr.nn.RNN(3, 8).weight_hh_l0, gain=1.02)

Moments of the training set give the input weights of a whole layer:

>>> x = torch.randn(2_000, 5, 3)
>>> fit = mr.nn.init.moments_(mr.nn.LSTM(3, 8), (x, x[:, -1].square()), 3)
"""

from .moments import moments_
from .nonnormal import chain_, feedback_chain_, ramp_, scaled_identity_, scaled_orthogonal_, source_
from .skew import cayley_, haar_, haar_diagonal_, henaff_, normal_diagonal_

__all__ = [
    "cayley_",
    "chain_",
    "feedback_chain_",
    "haar_",
    "haar_diagonal_",
    "henaff_",
    "moments_",
    "normal_diagonal_",
    "ramp_",
    "scaled_identity_",
    "scaled_orthogonal_",
    "source_",
]
