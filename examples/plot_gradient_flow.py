r"""
Gradients, memory and hidden chains
===================================

Two networks classify handwritten digits pixel by pixel, in 64 time steps. One has an unconstrained recurrent matrix,
the other an orthogonal one. :func:`manifold_rnn.diagnostics.gradient_flow` shows how the gradient of the loss flows
back through time. :func:`manifold_rnn.diagnostics.memory` shows how well the state recalls past inputs.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader

import manifold_rnn as mr

torch.set_num_threads(1)
splits = mr.tasks.Digits().splits()

# %%
# Both networks are trained in the same way.


def train(constraint: mr.Orthogonal | None) -> mr.zoo.Network:
    """Return a trained network."""
    torch.manual_seed(0)
    layer = mr.nn.RNN(1, 32, constraint=constraint, batch_first=True)
    network = mr.zoo.Network(layer, 10)
    optimizer = mr.optim.RiemannianAdam(network.parameters(), lr=3e-3)
    for _ in range(8):
        for x, y in DataLoader(splits.train, batch_size=50, shuffle=True):
            loss = nn.functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


networks = {"free": train(None), "orthogonal": train(mr.Orthogonal())}

# %%
# One batch of validation data is enough for the gradient. The largest Lyapunov exponent is the mean logarithm of the
# growth of a small change of the state in one step. If it is below 0, changes vanish, and so does the gradient.

flows = {name: mr.diagnostics.gradient_flow(network, splits.validation) for name, network in networks.items()}
for name, flow in flows.items():
    print(name, flow.table(), sep=": ")

# %%
# The memory is measured with independent random inputs. A linear map of the state predicts earlier inputs.

memories = {name: mr.diagnostics.memory(network, delays=20) for name, network in networks.items()}
for name, memory in memories.items():
    print(name, memory.table(), sep=": ")

# %%
# The last diagnostic detects a chain of units. Here a chain with a little noise has a random order of its units. The
# response to a pulse reveals the chain. If units are sorted by the time of their largest response, each unit drives the
# next.

generator = torch.Generator().manual_seed(0)
order = torch.randperm(40, generator=generator)
chain = mr.nn.init.chain_(torch.empty(40, 40)) + 0.02 * torch.randn(40, 40, generator=generator)
profile = mr.diagnostics.weight_profile(chain[order][:, order])
print(profile.table())

figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
for name, flow in flows.items():
    axes[0, 0].semilogy(range(1, 65), flow.gradient_mean, label=name)
    axes[1, 1].plot(memories[name].recall[0], label=f"{name}: capacity {memories[name].total:.2f}", marker=".")
axes[0, 0].set(title="gradient over time", xlabel="time step $t$", ylabel=r"mean $\|\partial L / \partial h_t\|$")
axes[1, 1].set(title="recall of past inputs", xlabel="delay $k$", ylabel="$R^2$ of $u_{t-k}$")
for name, axis in (("free", axes[0, 1]), ("orthogonal", axes[0, 2])):
    flows[name].plot(axis, quantity="products").set_title(f"{name}: products of Jacobians")
for name, flow in flows.items():
    axes[1, 0].plot(range(1, 9), flow.lyapunov.exponents, "o-", label=name)
axes[1, 0].set(title="Lyapunov exponents", xlabel="index", ylabel="exponent (log per step)")
profile.plot(axes[1, 2]).set_title("weight profile of a scrambled chain")
for axis, place in ((axes[0, 0], "upper left"), (axes[1, 0], "lower left"), (axes[1, 1], "lower left")):
    axis.legend(fontsize="small", loc=place)
axes[1, 1].set(ylim=(-0.35, 1.05))
