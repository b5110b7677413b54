"""Imports geoopt, before any other file does, without the warnings about ``torch.jit`` that its helpers give."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r".torch\.jit", DeprecationWarning)
    import geoopt as geoopt
