r"""
Swap the retraction
===================

The retraction is independent of the weight and the optimizer, and you can change it by name at any time. The problem
here is to rotate one set of points onto another. This is the orthogonal Procrustes problem :math:`\min_W \lVert X W^T -
Y \rVert^2`, whose solution is known in closed form.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import manifold_rnn as mr

torch.set_num_threads(1)
n, steps = 24, 150
generator = torch.Generator().manual_seed(0)
X = torch.randn(200, n, dtype=torch.float64, generator=generator)
target = mr.SpecialOrthogonal().random(n, n, dtype=torch.float64, generator=generator)
Y = X @ target.mT

# %%
# Each of the four retractions has one run. Another run changes its retraction every thirty steps.


def fit(names: list[str]) -> list[float]:
    """Return the loss of every step. Each of the retractions is used in turn for an equal number of steps."""
    layer = nn.Linear(n, n, bias=False, dtype=torch.float64)
    nn.init.eye_(layer.weight)
    mr.constrain(layer, "weight", mr.SpecialOrthogonal(names[0]))
    optimizer = mr.optim.RiemannianSGD(layer.parameters(), lr=0.15, momentum=0.8)
    losses = []
    for step in range(steps):
        mr.set_retraction(layer, "weight", names[step * len(names) // steps])
        optimizer.zero_grad()
        loss = (layer(X) - Y).square().sum(-1).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


names = ["cayley", "exp", "qr", "polar"]
curves = {name: fit([name]) for name in names}
curves["each in turn"] = fit([*names, "cayley"])

# %%
# All runs reach the solution. Near it the steps are small, and every retraction is close to the geodesic.

figure, axis = plt.subplots(figsize=(7, 4))
for name, losses in curves.items():
    axis.semilogy(
        losses, label=name, linestyle="--" if name in names else "-", color=None if name in names else "black"
    )
axis.set(xlabel="steps", ylabel="loss", title="Procrustes problem on SO(24)")
axis.legend()
figure.tight_layout()

# %%
# For larger steps they differ. The larger the step, the farther a retraction is from the geodesic.

A = mr.linalg.skew(torch.randn(n, n, dtype=torch.float64, generator=generator))
A = A / torch.linalg.matrix_norm(A, 2)
sizes = torch.logspace(-2, 0.5, 40).tolist()
figure, axis = plt.subplots(figsize=(7, 4))
for name in ["cayley", "qr", "polar"]:
    phi = mr.retractions.get(name).group_map
    axis.loglog(sizes, [float((phi(t * A) - mr.linalg.expm_skew(t * A)).norm()) for t in sizes], label=name)
axis.set(xlabel="size of the step", ylabel="distance to the geodesic", title="Order two and order one")
axis.legend()
figure.tight_layout()
