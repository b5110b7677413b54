"""Compiled loops: a C++ library that uses neither Python nor torch, and the torch operators that call it.

- ``cpp``: the sources
- `building`: compiles the sources at installation, once for each kind of processor
- `loading`: loads the fastest library that this processor can run
- `operators`: scans as ``torch.ops.manifold_rnn``, which torch dispatches and traces
- `steps`: operators for steps of Adam on spheres
- `small`: steps of small orthogonal weights, computed by one call and written by another
- `coordinates`: operators for coordinates of skew-symmetric matrices
"""
