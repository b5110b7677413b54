r"""
Muon: the learning rate is an angle
===================================

`RiemannianMuon` takes the step of steepest descent in the spectral norm. On a group, every eigenangle of such a step
equals the learning rate, for any scale of the gradient. The step of Adam depends on the history of each coordinate.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import manifold_rnn as mr

torch.set_num_threads(1)
n, LR = 16, 0.02
generator = torch.Generator().manual_seed(0)
X = torch.randn(256, n, dtype=torch.float64, generator=generator)
Y = X @ mr.SpecialOrthogonal().random(n, n, dtype=torch.float64, generator=generator).mT

# %%
# The eigenangles of a step are those of the matrix that maps the old weight to the new one.


def fit(kind: type[torch.optim.Optimizer], steps: int, **options: float) -> tuple[list[float], list[torch.Tensor]]:
    """Return the losses, and the eigenangles of every step in order of size."""
    layer = nn.Linear(n, n, bias=False, dtype=torch.float64)
    nn.init.eye_(layer.weight)
    mr.constrain(layer, "weight", mr.SpecialOrthogonal("exp"))
    optimizer = kind(layer.parameters(), lr=LR, **options)
    losses, angles = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer(X) - Y).square().sum(-1).mean()
        loss.backward()
        before = layer.weight.detach().clone()
        optimizer.step()
        step = before.mT @ layer.weight.detach()
        angles.append(torch.linalg.eigvals(step).angle().abs().sort(descending=True).values)
        losses.append(loss.item())
    return losses, angles


muon, muon_angles = fit(mr.optim.RiemannianMuon, 150, momentum=0.0)
adam, adam_angles = fit(mr.optim.RiemannianAdam, 150)
print(f"Muon: angles of the first step from {muon_angles[0].min():.4f} to {muon_angles[0].max():.4f}")
print(f"Adam: angles of the first step from {adam_angles[0].min():.4f} to {adam_angles[0].max():.4f}")

# %%
# All sixteen angles of Muon equal the learning rate. Those of Adam are larger at first, and spread.

figure, axes = plt.subplots(1, 2, figsize=(10, 4))
for name, angles, color in (("Muon", muon_angles, "tab:blue"), ("Adam", adam_angles, "tab:orange")):
    table = torch.stack(angles)
    axes[0].fill_between(range(len(table)), table[:, -1], table[:, 0], alpha=0.4, color=color, label=name)
    axes[0].plot(table[:, 0], color=color)
axes[0].axhline(LR, color="black", linestyle=":", label="learning rate")
axes[0].set(xlabel="steps", ylabel="radians", title="Smallest to largest eigenangle of a step")
axes[0].legend()
axes[1].semilogy(muon, label="Muon")
axes[1].semilogy(adam, label="Adam")
axes[1].set(xlabel="steps", ylabel="loss", title="Procrustes problem on SO(16)")
axes[1].legend()
figure.tight_layout()
