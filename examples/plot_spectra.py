r"""
Spectra under training
======================

The gradient through :math:`T` time steps contains a product of :math:`T` recurrent matrices. It vanishes if their
eigenvalues are inside the unit circle, and grows if they are outside. Here the same recurrent network learns to recall
the first of many inputs, once without a constraint and once with an orthogonal recurrent matrix. Only one argument
differs.
"""

import sys

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import manifold_rnn as mr

torch.set_num_threads(1)
hidden, length, steps = 48, 100, 150

# %%
# In the task, a sequence begins with one of eight symbols, followed by weak noise. The symbol must be predicted at
# the end.


def batch(generator: torch.Generator, size: int = 32) -> tuple[Tensor, Tensor]:
    """Return sequences of shape (size, length, 8) and the symbols that they begin with."""
    symbols = torch.randint(8, (size,), generator=generator)
    x = 0.03 * torch.randn(size, length, 8, generator=generator)
    x[:, 0] = nn.functional.one_hot(symbols, 8).float()
    return x, symbols


# %%
# The layer and the optimizer are the same in both runs. The optimizer treats unconstrained weights as torch's Adam
# does.


def train(constraint: mr.Orthogonal | None) -> tuple[list[float], list[Tensor]]:
    """Return the loss of every step, and the eigenvalues of the recurrent matrix at start, middle and end."""
    torch.manual_seed(0)
    layer = mr.nn.RNN(8, hidden, nonlinearity="modrelu", batch_first=True, constraint=constraint)
    readout = nn.Linear(hidden, 8)
    optimizer = mr.optim.RiemannianAdam([*layer.parameters(), *readout.parameters()], lr=5e-3)
    generator = torch.Generator().manual_seed(1)
    losses, spectra = [], []
    for step in range(steps + 1):
        if step % (steps // 2) == 0:
            spectra.append(torch.linalg.eigvals(layer.weight_hh_l0.detach()))
        x, symbols = batch(generator)
        loss = nn.functional.cross_entropy(readout(layer(x)[0][:, -1]), symbols)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, spectra


runs = {"free": train(None), "orthogonal": train(mr.Orthogonal("cayley"))}

# %%
# The initial eigenvalues of the unconstrained matrix are well inside the circle, so hardly any gradient from the end
# reaches the first input. The eigenvalues of the orthogonal matrix can only move along the circle, and the network
# learns the task. Chance level is a loss of log 8.

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6))
angles = torch.linspace(0, 2 * torch.pi, 200)
for axis, (name, (losses, spectra)) in zip(axes, runs.items(), strict=False):
    axis.plot(angles.cos(), angles.sin(), color="0.8", zorder=0)
    for values, when, shade in zip(spectra, ["start", "middle", "end"], [0.35, 0.6, 0.95], strict=True):
        axis.scatter(values.real, values.imag, s=12, color=plt.cm.viridis_r(shade), label=when)
    axis.set(title=f"{name}: eigenvalues", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    axes[2].plot(losses, label=name)
axes[0].legend(loc="lower left", fontsize="small")
axes[2].set(title=f"loss: recall the first of {length} inputs", xlabel="steps", ylim=(0, None))
axes[2].legend()
figure.tight_layout()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)  # if the script is run with a file name
