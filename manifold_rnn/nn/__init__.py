"""Recurrent layers, their cells, nonlinearities, starting points and scans."""

from . import cells, init, scan
from .activations import ModReLU, mod_relu, real_features
from .layer import Layer
from .rnn import RNN

__all__ = ["RNN", "Layer", "ModReLU", "cells", "init", "mod_relu", "real_features", "scan"]
