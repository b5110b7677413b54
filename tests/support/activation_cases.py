"""Nonlinearities of one argument, for laws that hold for all of them."""

import torch

from manifold_rnn.nn import gate, mod_relu, mod_tanh, real_features, split_relu

FUNCTIONS = {
    "gate": gate,
    "mod_relu off": lambda z: mod_relu(z, torch.full((1,), -0.2, dtype=z.real.dtype)),
    "mod_relu on": lambda z: mod_relu(z, torch.full((1,), 0.2, dtype=z.real.dtype)),
    "ideal": lambda z: mod_relu(z, torch.full((1,), -0.2, dtype=z.real.dtype), 0.0),
    "mod_tanh": mod_tanh,
    "real_features": real_features,
    "split_relu": split_relu,
}
