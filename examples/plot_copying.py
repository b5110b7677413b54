r"""
The copying task
================

A network reads ten symbols, and repeats them after a delay. The gradient must flow back over the whole delay, so this
task tests long memory. Three networks with 64 units are trained here with a delay of 50 time steps, each on the same
number of batches.
"""

import matplotlib.pyplot as plt
import torch

import manifold_rnn as mr

torch.set_num_threads(1)
task = mr.tasks.Copying(delay=50)
STEPS, BATCH = 400, 32

# %%
# The figure shows one sequence, and the targets of the network at every time step.

figure, axis = plt.subplots(figsize=(8, 2.5))
task.plot(axis)
figure.tight_layout()

# %%
# The networks differ in their cell and in the constraint on its recurrent matrix.

LAYERS = {
    "free": lambda: mr.nn.RNN(task.input_size, 64, nonlinearity="modrelu", batch_first=True),
    "orthogonal": lambda: mr.nn.RNN(
        task.input_size, 64, nonlinearity="modrelu", batch_first=True, constraint=mr.Orthogonal()
    ),
    "LSTM": lambda: mr.nn.LSTM(task.input_size, 64, batch_first=True),
}


def train(build) -> list[float]:
    """Return the loss of every step."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = mr.zoo.Network(build(), task.output_size)
    optimizer = mr.optim.RiemannianAdam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(STEPS):
        x, target = task.sample(BATCH, generator=generator)
        optimizer.zero_grad()
        loss = task.loss(network(x, every_step=True), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


curves = {name: train(build) for name, build in LAYERS.items()}

# %%
# The baseline predicts blanks during the delay, and every symbol with equal probability after it. The loss of the
# network with the orthogonal matrix falls below the baseline after about a hundred steps. The losses of the others do
# not.

figure, axis = plt.subplots(figsize=(7, 4))
for name, losses in curves.items():
    axis.semilogy(losses, label=name)
    print(f"{name:12} loss {sum(losses[-20:]) / 20:.3f}")
axis.axhline(task.baseline().loss, color="gray", linestyle=":", label="baseline")
axis.set(xlabel="steps", ylabel="loss", title="Copying ten symbols after 50 time steps")
axis.legend()
figure.tight_layout()
