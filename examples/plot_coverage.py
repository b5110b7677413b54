r"""
Test coverage of a recurrent network
====================================

Accuracy on a test set does not measure how much of the behaviour of a network is tested. Coverage counts the time steps
with large states or large changes, and the patterns over time, that test cases reach. Here an LSTM learns handwritten
digits row by row. Then random mutants of test images are run, and a search looks for inputs that reach the uncovered
features.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import manifold_rnn as mr

torch.set_num_threads(1)
torch.manual_seed(0)

# %%
# An image of 8 x 8 pixels is a sequence of 8 rows. Any recurrent layer can be measured, including those of torch.

bunch = load_digits()
x, y = torch.tensor(bunch.images, dtype=torch.float32) / 16, torch.tensor(bunch.target)
train, test = train_test_split(range(len(y)), test_size=360, stratify=y, random_state=0)
network = mr.zoo.Network(mr.nn.LSTM(8, 32, constraint={"g": mr.Orthogonal()}, batch_first=True), 10)
optimizer = mr.optim.RiemannianAdam(network.parameter_groups(5e-3))
for _ in range(12):
    for batch in torch.tensor(train)[torch.randperm(len(train))].split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
accuracy = float((network(x[test]).argmax(-1) == y[test]).float().mean())
print(f"test accuracy {accuracy:.1%}")

# %%
# Coverage is measured on a scale: the range of the sums of the states on the training set. The test set does not
# reach all features. No input may reach some of them. For example, the state cannot be large after one row.

covered = mr.diagnostics.coverage(network, calibrate=x[train], cases=x[test], pieces=4)
print(covered.table())

# %%
# A campaign mutates 100 test images. After each round of mutants it searches for the features that are still
# uncovered. It also counts the mutants that the network classifies differently from the original image.

start = mr.diagnostics.coverage(network, calibrate=x[train], pieces=4)
record = mr.diagnostics.campaign(network, start, x[test][:100], cases=2000)
print(record.table())

# %%
# The coverage grows with the number of cases, mostly by the searches. The figure also shows an adversarial mutant
# and its original image.

figure, axes = plt.subplot_mosaic([["coverage", "seed", "broken"]], width_ratios=[3, 1, 1], figsize=(11, 3.6))
record.plot(axes["coverage"])
if record.broken:
    seed, broken = x[test][record.broken[0]], record.examples[0]
    for name, image in (("seed", seed), ("broken", broken)):
        answer = int(network(image[None]).argmax())
        axes[name].imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axes[name].set(title=f"{name}: {answer}", xticks=(), yticks=())
figure.tight_layout()

# %%
# A single search returns the input that it found. Here it searches for one time step of boundary coverage.

step = next(feature for feature in reversed(covered.unreached) if feature.metric == "boundary")
found = mr.diagnostics.search(network, covered, x[test][:100], feature=step, offspring=200)
print(found.table())
