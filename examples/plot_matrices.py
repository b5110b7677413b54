r"""
What eigenvalues do not show
============================

Two recurrent matrices can have the same eigenvalues, but treat their inputs differently. A chain passes the state of
every unit to the next unit. All its eigenvalues are 0, but it has the longest memory here. This example compares it
with an orthogonal matrix, and with the matrix of a trained network.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import manifold_rnn as mr

torch.set_num_threads(1)
torch.manual_seed(0)
n = 32

# %%
# An unconstrained network is trained on the digits of scikit-learn, row by row.

from sklearn.datasets import load_digits

digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32).reshape(-1, 8, 8) / 16
y = torch.tensor(digits.target)
network = mr.zoo.Network(mr.nn.RNN(8, n, batch_first=True), 10)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
for _ in range(150):
    chosen = torch.randint(len(x), (64,))
    loss = nn.functional.cross_entropy(network(x[chosen]), y[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# Training made the matrix of this network far from normal. ``table`` prints all numbers of its spectrum.

print(mr.diagnostics.spectrum(network).table())

# %%
# The pseudospectrum shows how far a small perturbation can move the eigenvalues. For the orthogonal matrix, the
# distance is at most the size of the perturbation. Eigenvalues of the chain move from 0 almost to the unit circle.

weight = mr.diagnostics.recurrent_matrix(network).weight
matrices = {
    "trained": weight / mr.linalg.spectral_radius(weight) * 0.95,
    "orthogonal": 0.95 * mr.Orthogonal().random(n, n),
    "chain": torch.ones(n - 1).diag(-1),
}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained")
for axis, (name, W) in zip(axes, matrices.items(), strict=True):
    result = mr.diagnostics.pseudospectrum(W, (1e-8, 1e-3, 1e-2, 1e-1), points=80)
    result.plot(axis)
    axis.set_title(f"{name}: radius {result.radius[1e-2]:.3f} at 1e-02")
    if axis is not axes[-1]:
        axis.get_legend().remove()

# %% The powers of the matrix carry an input forward in time. For the chain, their norm is 1 up to the power 31, and
# then 0. For the orthogonal matrix they never grow. The trained matrix, scaled to a spectral radius of 0.95, amplifies
# its inputs before they decay.

figure, axis = plt.subplots(figsize=(5, 3.7), layout="constrained")
for name, W in matrices.items():
    power, sizes = torch.eye(n), []
    for _ in range(60):
        sizes.append(torch.linalg.matrix_norm(power, 2))
        power = power @ W
    found = mr.diagnostics.spectrum(W)
    axis.plot(sizes, label=f"{name}: at most {found.transient:.3g}")
axis.set(title="norms of the powers", xlabel="power", ylabel="norm")
axis.legend()

# %%
# Fisher memory measures the information about an input in the state with noise. A normal matrix has a total of 1 for
# every input. A chain with its input at the first unit has the sum of 1 / k.

figure, axis = plt.subplots(figsize=(5, 3.7), layout="constrained")
for name, W in matrices.items():
    memory = mr.diagnostics.fisher_memory(W, torch.eye(n)[0], steps=n)
    axis.plot(memory.curve, marker=".", label=f"{name}: total {memory.total:.3g}")
axis.set(title="Fisher memory of the first unit", xlabel="steps since the input", ylabel="J", ylim=(0, 1.05))
axis.legend()

# %%
# A convolution is a matrix too. If its flattened kernel has orthonormal rows, it is still not orthogonal.

kernel = mr.Stiefel().random(36, 4).mT.reshape(4, 4, 3, 3)
figure, axis = plt.subplots(figsize=(5, 3.7), layout="constrained")
mr.diagnostics.conv_singular_values(kernel, 8).plot(axis)
