"""Compiled loops: a C++ library without Python or torch in it, and the operators of torch that call it.

- ``cpp``: the sources
- `building`: compiles them when the package is installed, for each kind of processor
- `loading`: loads the library that fits this processor
- `operators`: ``torch.ops.manifold_rnn``, which `torch` dispatches and traces as its own; scans
- `steps`: operators for steps of Adam on spheres
- `small`: steps of small orthogonal weights, prepared and committed by two calls
- `coordinates`: operators for coordinates of skew-symmetric matrices
"""
