r"""
Drift over steps
================

A retraction keeps a weight on its manifold in exact arithmetic. In single precision each step adds a rounding error.
Cayley and the exponential multiply the weight by an orthogonal matrix, which does not remove the error. So the distance
:math:`\lVert x^T x - I \rVert_F` grows with the number of steps. The optimizers correct it by one Newton-Schulz step at
regular intervals, which keeps it at the rounding unit. QR and the polar factor orthonormalize the weight in each step.
"""

import matplotlib.pyplot as plt
import torch

import manifold_rnn as mr

torch.set_num_threads(1)
n, steps = 32, 4000

# %%
# Every step has a new random direction, like gradients from small batches. The distance is measured in double
# precision, so that the rounding errors of the measurement are negligible.


def drift(name: str, *, polished: bool) -> list[float]:
    """Return the distance to the manifold after each hundred steps."""
    manifold = mr.Orthogonal(name)
    generator = torch.Generator().manual_seed(0)
    x = manifold.random(n, n, generator=generator)
    distances = []
    for step in range(1, steps + 1):
        u = manifold.proju(x, torch.randn(n, n, generator=generator) / n)
        x = manifold.retr(x, u)
        if polished and manifold.polish_every and step % manifold.polish_every == 0:
            x = manifold.polish(x)
        if step % 100 == 0:
            distances.append(float(mr.linalg.defect(x.double())))
    return distances


# %%
# Dashed lines are without correction. Solid lines are corrected at the interval of the manifold.

counts = range(100, steps + 1, 100)
figure, axis = plt.subplots(figsize=(7, 4))
for color, name in enumerate(["cayley", "exp", "qr", "polar"]):
    axis.loglog(counts, drift(name, polished=False), "--", color=f"C{color}", alpha=0.6)
    axis.loglog(counts, drift(name, polished=True), color=f"C{color}", label=name)
axis.set(xlabel="steps", ylabel=r"$\|x^T x - I\|_F$", title="Rounding drift in single precision, n = 32")
axis.legend()
figure.tight_layout()
