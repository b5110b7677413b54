"""Imports geoopt before any other file does, and hides the warnings of its helpers about ``torch.jit``."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r".torch\.jit")  # a DeprecationWarning, since torch 2.14 a FutureWarning
    import geoopt as geoopt
