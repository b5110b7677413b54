"""Compiled loops: a C++ library without Python or torch in it, and the operators of torch that call it.

- ``cpp``: the sources
- `building`: compiles them when the package is installed, for each kind of processor
- `loading`: loads the library that fits this processor
- `operators`: ``torch.ops.manifold_rnn``, which `torch` dispatches and traces as its own; scans
- `steps`: operators for steps of optimizers
- `coordinates`: operators for coordinates of skew-symmetric matrices
"""
