r"""
Weights of unit length: nGPT
============================

In nGPT, every vector of length d in the matrices of a transformer has norm 1, where d is the width of the model. The
axis of these vectors depends on the layer. A `torch.nn.Linear` that reads the residual stream has rows of length d. One
that writes to the stream has columns of length d. `Oblique(-1)` constrains rows, and `Oblique(-2)` columns. The pattern
table below defines this for the whole model. The published recipe normalizes after a plain step of Adam. Here the
optimizer moves on the spheres.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize, scaled_dot_product_attention

import manifold_rnn as mr

torch.set_num_threads(1)
torch.manual_seed(0)
WIDTH, HEADS, SYMBOLS, LENGTH = 32, 4, 12, 24

# %%
# A block moves the state a little towards the outputs of attention and the MLP, and normalizes it again.


class Block(nn.Module):
    """Attention and an MLP with normalized outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp_in, self.mlp_out = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.share = nn.Parameter(torch.full((2, WIDTH), 0.2))
        self.gain = nn.Parameter(torch.full((4 * WIDTH,), float(WIDTH) ** 0.5))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        scale = (WIDTH / HEADS) ** 0.5
        heads = scaled_dot_product_attention(normalize(q, dim=-1), normalize(k, dim=-1), v, is_causal=True, scale=scale)
        proposal = normalize(self.attention_out(heads.transpose(1, 2).flatten(-2)), dim=-1)
        h = normalize(h + self.share[0].abs() * (proposal - h), dim=-1)
        proposal = normalize(self.mlp_out(torch.relu(self.gain * self.mlp_in(h))), dim=-1)
        return normalize(h + self.share[1].abs() * (proposal - h), dim=-1)


class Model(nn.Module):
    """Embeddings, two blocks, and logits from cosines with the output embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.readout = nn.Linear(WIDTH, SYMBOLS, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = normalize(self.embedding(x) + self.place.weight[: x.shape[1]], dim=-1)
        return self.sharpness * self.readout(self.blocks(h))


# %%
# Every weight that reads the stream has unit rows. Every weight that writes to it has unit columns.

reads, writes = mr.Oblique(-1), mr.Oblique(-2)
RECIPE = {
    "*embedding.weight": reads,
    "place.weight": reads,
    "readout.weight": reads,
    "*query.weight": reads,
    "*key.weight": reads,
    "*value.weight": reads,
    "*mlp_in.weight": reads,
    "*attention_out.weight": writes,
    "*mlp_out.weight": writes,
}


def batch(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return sequences whose second half repeats the first."""
    half = torch.randint(SYMBOLS, (count, LENGTH // 2), generator=generator)
    return torch.cat([half, half], 1)


def train(*, spheres: bool, steps: int = 150) -> tuple[Model, list[float]]:
    """Return a trained model and its losses on the second half of the sequences."""
    torch.manual_seed(1)
    generator, model = torch.Generator().manual_seed(2), Model()
    if spheres:
        mr.constrain_matching(model, RECIPE)
    held = [p for p in model.parameters() if mr.manifolds.manifold_of(p) is not None]
    free = [p for p in model.parameters() if mr.manifolds.manifold_of(p) is None]
    groups = [{"params": held, "lr": 0.03}, {"params": free, "lr": 0.03 if spheres else 0.003}]
    optimizer = mr.optim.RiemannianAdam([group for group in groups if group["params"]])
    losses = []
    for _ in range(steps):
        x = batch(32, generator)
        logits = model(x)[:, LENGTH // 2 - 1 : -1]
        loss = cross_entropy(logits.flatten(0, 1), x[:, LENGTH // 2 :].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


model, on_spheres = train(spheres=True)
_, unconstrained = train(spheres=False)
print(f"loss after {len(on_spheres)} steps: {on_spheres[-1]:.3f} on spheres, {unconstrained[-1]:.3f} unconstrained")

# %%
# The norms along the chosen axis are 1. Along the other axis they are not, so a wrong axis is easy to detect.

block = model.blocks[0]
for name in ("mlp_in", "mlp_out"):
    W = getattr(block, name).weight.detach()
    rows, columns = W.norm(dim=-1), W.norm(dim=-2)
    print(f"{name:8} rows {rows.min():.2f} to {rows.max():.2f}, columns {columns.min():.2f} to {columns.max():.2f}")

figure, axis = plt.subplots(figsize=(7, 4))
axis.plot(on_spheres, label="on spheres, RiemannianAdam")
axis.plot(unconstrained, label="unconstrained, Adam")
axis.axhline(torch.log(torch.tensor(float(SYMBOLS))), color="gray", linestyle=":", label="chance level")
axis.set(xlabel="steps", ylabel="loss", title="Repeating a sequence: a transformer of width 32")
axis.legend()
figure.tight_layout()
