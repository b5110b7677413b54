"""Imports geoopt, before any other file does, without the warnings about ``torch.jit`` that its helpers give."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r".torch\.jit")  # a DeprecationWarning, since torch 2.14 a FutureWarning
    import geoopt as geoopt
