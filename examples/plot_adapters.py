r"""
Fine-tuning with orthogonal adapters
====================================

An adapter multiplies a frozen weight by an orthogonal matrix. The initial outputs of the layer are the same, bit for
bit, and the angles between its neurons never change. Here a classifier of digits is fine-tuned on the same digits
upside down, with all weights or only with adapters.
"""

import copy

import matplotlib.pyplot as plt
import torch
from torch import nn

import manifold_rnn as mr

torch.set_num_threads(1)
torch.manual_seed(0)

# %%
# The first task is to classify digits of 8 x 8 pixels.

sets = mr.tasks.Digits(by="rows").splits()
(x, y), (test_x, test_y) = sets.train.tensors, sets.test.tensors
base = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def accuracy(model: nn.Module, images: torch.Tensor) -> float:
    """Return the fraction of test images that are classified correctly."""
    with torch.no_grad():
        return float((model(images).argmax(-1) == test_y).float().mean())


def train(model: nn.Module, images: torch.Tensor, lr: float, epochs: int) -> list[float]:
    """Train by Adam, and return the accuracy after each epoch. Test images are rotated like ``images``."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    turned = test_x if images is x else test_x.flip(1, 2)
    scores = [accuracy(model, turned)]
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), y[rows]).backward()
            optimizer.step()
        scores.append(accuracy(model, turned))
    return scores


print(f"first task: {train(base, x, 3e-3, 15)[-1]:.3f}")

# %%
# The second task has the same digits, rotated by 180 degrees. `constrain_matching` freezes everything except the
# adapters.

upside_down = x.flip(1, 2)
full = copy.deepcopy(base)
adapted = copy.deepcopy(base)
mr.constrain_matching(
    adapted, {"1.weight": mr.OrthogonalAdapter(64), "3.weight": mr.OrthogonalAdapter(64)}, freeze_others=True
)
assert torch.equal(adapted(test_x), base(test_x))

curves = {}
for name, model, lr in (("all weights", full, 1e-3), ("orthogonal adapters", adapted, 1e-2)):
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    curves[f"{name}: {count:,} parameters"] = train(model, upside_down, lr, 15)

# %%
# Training does not change the angles between the rows of the adapted weights, so their Gram matrix is unchanged.

W, before = adapted[3].weight.detach(), base[3].weight.detach()
print(f"largest change of the Gram matrix of the rows: {float((W @ W.mT - before @ before.mT).abs().max()):.1e}")

figure, axis = plt.subplots(figsize=(7, 4))
for name, scores in curves.items():
    axis.plot(scores, "o-", label=name)
    print(f"{name:40} accuracy {scores[-1]:.3f}")
axis.axhline(0.1, color="gray", linestyle=":", label="chance level")
axis.set(xlabel="epochs", ylabel="test accuracy", title="Digits upside down")
axis.legend()
figure.tight_layout()
