"""Outputs of a layer may be written into, as those of torch's layers."""

import pytest
import torch
from torch.nn import functional as F

import manifold_rnn as mr

WRITES = {
    "residual": (lambda y, x: y.add_(x), lambda y, x: y + x),
    "relu": (lambda y, x: y.relu_(), lambda y, x: y.relu()),
    "dropout": (lambda y, x: F.dropout(y, 0.0, True, True), lambda y, x: y),
}
LAYERS = [(mr.nn.RNN, backend, f) for backend in ("auto", "reference", "fused") for f in ("tanh", "relu", "modrelu")]
LAYERS += [(kind, backend, None) for kind in (mr.nn.LSTM, mr.nn.GRU) for backend in ("auto", "reference")]


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"batch_first": True}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(("kind", "backend", "nonlinearity"), LAYERS)
def test_gradients_survive_what_is_written_into_an_output(kind, backend, nonlinearity, write, options):
    torch.manual_seed(0)
    chosen = options if nonlinearity is None else {**options, "nonlinearity": nonlinearity}
    size = 8 if "bidirectional" in options else 4
    layer, x = kind(size, 4, backend=backend, **chosen), torch.randn(5, 3, size)
    found = []
    for change in WRITES[write]:
        y = change(layer(x)[0], x)
        found.append(torch.autograd.grad(y.square().sum(), list(layer.parameters())))
    torch.testing.assert_close(*found)
