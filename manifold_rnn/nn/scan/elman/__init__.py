"""Scans of a recurrence in Elman form, h_t = f(W h_{t-1} + V x_t + b), forward and backward.

Every scan here is an `engine.Engine`. It computes the states of all steps, and the gradients of all inputs from those
of the states. One autograd function runs every engine. The results equal those of `engine.plain_states`.

- `fused`: torch operations in place, one buffer of states
- `native`: one call of a compiled C++ library on a CPU
- `triton`: one GPU kernel for all steps forward, one backward
"""
