r"""
An LSTM with orthogonal gates
=============================

The recurrent matrices of the four gates of an LSTM are stacked in one tensor. `constrain` treats it as four blocks, and
keeps the chosen blocks orthogonal. The layer remains a torch.nn.LSTM.

The images are those of MNIST if the folder in ``MANIFOLD_RNN_DATA`` contains its files. Otherwise they are the smaller
digits of scikit-learn.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

import manifold_rnn as mr

torch.set_num_threads(1)
STEPS = 200

# %%
# An image is read as a sequence of rows.

folder = Path(os.environ.get("MANIFOLD_RNN_DATA", "."))
if list(folder.glob("**/train-images*")):
    sets = mr.tasks.PixelMNIST().splits()
    part = [sets.train[:6000], sets.test[:1000]]
    (x, y), (test_x, test_y) = [(images.view(-1, 28, 28), digits) for images, digits in part]
else:
    sets = mr.tasks.Digits(by="rows").splits()
    (x, y), (test_x, test_y) = sets.train.tensors, sets.test.tensors
print(f"{len(x)} images of {x.shape[1]} rows with {x.shape[2]} pixels")


class Classifier(nn.Module):
    """Torch's LSTM with a readout of its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(x.shape[2], 64, batch_first=True)
        self.readout = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.readout(self.lstm(images)[0][:, -1])


# %%
# Gates have the order i, f, g, o. ``which=(2,)`` constrains only the matrix of g.

CONSTRAINED = {"free": (), "g orthogonal": (2,), "all orthogonal": (0, 1, 2, 3)}


def train(which: tuple[int, ...]) -> tuple[Classifier, list[float], float]:
    """Return the network, its losses, and its accuracy on the test images."""
    torch.manual_seed(0)
    network = Classifier()
    if which:
        mr.constrain(network.lstm, "weight_hh_l0", mr.Orthogonal(), blocks=4, which=which)
    optimizer = mr.optim.RiemannianAdam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(STEPS):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        accuracy = (network(test_x).argmax(-1) == test_y).float().mean()
    return network, losses, float(accuracy)


results = {name: train(which) for name, which in CONSTRAINED.items()}
for name, (_, _, accuracy) in results.items():
    print(f"{name:16} test accuracy {accuracy:.3f}")

# %%
# The singular values of the constrained matrices are 1. Those of the unconstrained ones spread.

figure, axes = plt.subplots(1, 2, figsize=(10, 4))
for name, (network, losses, _) in results.items():
    smooth = torch.tensor(losses).unfold(0, 10, 10).mean(-1)
    axes[0].plot(range(5, STEPS, 10), smooth, label=name)
    G = network.lstm.weight_hh_l0.detach().view(4, 64, 64)[2]
    axes[1].plot(torch.linalg.svdvals(G), label=name, linestyle="--" if name == "all orthogonal" else "-")
axes[0].set(xlabel="steps", ylabel="loss", title="Training")
axes[1].set(xlabel="number", ylabel="singular value", title="Recurrent matrix of the gate g")
axes[0].legend()
axes[1].legend()
figure.tight_layout()
