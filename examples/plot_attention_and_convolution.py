r"""
Attention heads and convolutions
================================

`constrain` treats any weight as matrices. Here every head of an attention layer gets orthonormal rows, and a
convolution becomes an orthogonal map from image to image. The figure shows the singular values.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import manifold_rnn as mr

torch.set_num_threads(1)
torch.manual_seed(0)

# %%
# Queries, keys and values of four heads are twelve blocks of 8 x 32 in one tensor.

free = nn.MultiheadAttention(embed_dim=32, num_heads=4)
heads = nn.MultiheadAttention(embed_dim=32, num_heads=4)
mr.constrain(heads, "in_proj_weight", mr.Stiefel(), blocks=3 * 4)

# %%
# A kernel with orthonormal rows is not an orthogonal convolution, because its patches overlap. `OrthogonalConv`
# gives one.

plain = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", bias=False)
flattened = mr.constrain(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", bias=False), "weight", mr.Stiefel())
orthogonal = mr.constrain(
    nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", bias=False), "weight", mr.OrthogonalConv()
)
x = torch.randn(1, 8, 16, 16)
for name, layer in {"free": plain, "orthonormal rows": flattened, "orthogonal": orthogonal}.items():
    print(f"{name:18} |conv(x)| / |x| = {(layer(x).norm() / x.norm()).item():.4f}")

# %%
# The constraints hold during training. Here one step has a large learning rate.

optimizer = mr.optim.RiemannianAdam([*heads.parameters(), *flattened.parameters(), *orthogonal.parameters()], lr=0.1)
tokens = torch.randn(10, 2, 32)
loss = heads(tokens, tokens, tokens)[0].square().mean() + flattened(x).abs().mean() + orthogonal(x).abs().mean()
loss.backward()
optimizer.step()

figure, axes = plt.subplots(1, 2, figsize=(10, 4))
for name, layer in {"free": free, "Stiefel, 12 blocks": heads}.items():
    values = torch.linalg.svdvals(layer.in_proj_weight.detach().view(12, 8, 32)).mean(0)
    axes[0].plot(range(1, 9), values, "o-", label=name)
axes[0].set(xlabel="number", ylabel="singular value, mean of 12", title="Attention heads", ylim=(0, None))
axes[0].legend()
for name, layer in {"free": plain, "orthonormal rows": flattened, "orthogonal": orthogonal}.items():
    values = mr.diagnostics.conv_singular_values(layer.weight.detach(), (16, 16)).values
    axes[1].plot(values, label=name)
axes[1].set(xlabel="number", ylabel="singular value", title="Convolution as a map of 16 x 16 images", ylim=(0, None))
axes[1].legend()
figure.tight_layout()
