r"""
Matrices of fixed norm: AdamH
=============================

AdamH ("hyperball") keeps the Frobenius norm R of each hidden matrix, and steps in the direction U of Adam:

.. math:: W \leftarrow R\, \frac{W - \eta R\, U / |U|}{|W - \eta R\, U / |U||}.

The part of U along W only changes the norm, which is then scaled back. So the angle of the step is not the learning
rate. `RiemannianAdam` with ``scale="angle"`` projects first, and rotates W by exactly the learning rate:

.. math:: W \leftarrow W \cos\eta - R \sin\eta\, \frac{P_W U}{|P_W U|}.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import manifold_rnn as mr

torch.set_num_threads(1)

# %%
# The data are points on three rings.


def rings(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points on three noisy rings, and the number of the ring."""
    ring = torch.randint(3, (count,), generator=generator)
    angle = 6.2832 * torch.rand(count, generator=generator)
    radius = 1 + ring + 0.15 * torch.randn(count, generator=generator)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1), ring


def network() -> nn.Sequential:
    """Return an MLP with normalized hidden states. The norm of a hidden matrix does not change its outputs."""
    torch.manual_seed(0)
    hidden = [layer for _ in range(3) for layer in (nn.RMSNorm(32), nn.Linear(32, 32, bias=False), nn.ReLU())]
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), *hidden, nn.RMSNorm(32), nn.Linear(32, 3))


# %%
# ``radius="init"`` keeps the current norm of each matrix. The norm is not stored separately. The state dict is that
# of the plain model, and a loaded checkpoint defines the norms.


def train(kind: str, steps: int = 200) -> tuple[list[float], list[float], list[float]]:
    """Return the losses, and the norm and the angle of the last hidden matrix after each step."""
    model, generator = network(), torch.Generator().manual_seed(1)
    hidden = [f"{k}.weight" for k in (3, 6, 9)]
    if kind == "AdamH":
        mr.constrain_matching(model, dict.fromkeys(hidden, mr.Sphere((-2, -1), radius="init")))
    matrices = [model.get_parameter(name) for name in hidden]
    others = [p for p in model.parameters() if not any(p is q for q in matrices)]
    groups = [{"params": matrices, "lr": 0.05, "betas": (0.9, 0.95)}, {"params": others, "lr": 0.003}]
    if kind == "AdamH":
        groups[0]["scale"] = "angle"
        optimizer = mr.optim.RiemannianAdam(groups)
    else:
        optimizer = torch.optim.AdamW([{**groups[0], "lr": 0.003, "weight_decay": 0.1}, groups[1]])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    losses, norms, angles = [], [], []
    for _ in range(steps):
        x, target = rings(128, generator)
        before = matrices[-1].detach().clone()
        loss = cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        after = matrices[-1].detach()
        losses.append(loss.item())
        norms.append(after.norm().item())
        angles.append(2 * torch.atan2((after / after.norm() - before / before.norm()).norm(), torch.tensor(2.0)).item())
    return losses, norms, angles


results = {kind: train(kind) for kind in ("AdamH", "AdamW")}
for kind, (losses, norms, angles) in results.items():
    print(f"{kind}: loss {losses[-1]:.3f}, norm {norms[0]:.4f} to {norms[-1]:.4f}, first angle {angles[0]:.4f}")

# %%
# The angle of AdamH follows the schedule of the learning rate exactly. The angle of AdamW depends on the norm of the
# weight.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
for kind, (losses, _, angles) in results.items():
    left.plot(losses, label=kind)
    right.plot(angles, label=kind)
left.set(xlabel="steps", ylabel="loss", yscale="log", title="Three rings")
right.set(xlabel="steps", ylabel="radians", title="Rotation of a hidden matrix in a step")
left.legend()
figure.tight_layout()
