"""
Constrain the attention of a transformer
========================================

A table of name patterns makes the projections of attention orthogonal. Their singular values stay at 1, so these
weights cannot increase the attention logits. Without the constraint, the singular values spread during training.

In the task, the first half of a sequence is random and the second half repeats it. The model must attend to earlier
tokens.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional

import manifold_rnn as mr

torch.set_num_threads(1)
tokens, half, size, heads, steps = 8, 8, 32, 4, 250


def sequences(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return sequences of random tokens that are repeated once."""
    return torch.randint(tokens, (count, half), generator=generator).repeat(1, 2)


# %%
# The model is torch's encoder with a causal mask. It adds learned positions to the embeddings.


class Model(nn.Module):
    """Logits of the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(tokens, size), nn.Parameter(torch.randn(2 * half, size))
        layer = nn.TransformerEncoderLayer(size, heads, 2 * size, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, norm=nn.LayerNorm(size), enable_nested_tensor=False)
        self.head = nn.Linear(size, tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[-1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return self.head(self.encoder(self.embedding(x) + self.positions[:length], mask=mask, is_causal=True))


# %%
# The constraints are a table. ``in_proj_weight`` stacks the matrices of queries, keys and values, so it has three
# blocks.

tables = {
    "unconstrained": {},
    "orthogonal": {
        "*.in_proj_weight": mr.manifolds.Blocks(mr.Orthogonal(), blocks=3),
        "*.out_proj.weight": mr.Orthogonal(),
    },
}


def train(table: dict[str, mr.manifolds.Manifold]) -> tuple[Model, list[float]]:
    """Return the trained model, and the loss on the second half at every step."""
    torch.manual_seed(0)
    model, generator = Model(), torch.Generator().manual_seed(1)
    if table:
        mr.constrain_matching(model, table)
    optimizer = mr.optim.RiemannianAdam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        x = sequences(32, generator)
        loss = functional.cross_entropy(model(x[:, :-1])[:, half - 1 :].flatten(0, 1), x[:, half:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


trained = {name: train(table) for name, table in tables.items()}

# %%
# Both models learn the task. Their degrees of freedom and singular values differ.

for name, (model, losses) in trained.items():
    q, k, _ = model.encoder.layers[0].self_attn.in_proj_weight.detach().chunk(3)
    largest = [float(torch.linalg.matrix_norm(W, 2)) for W in (q, k)]
    print(f"{name:14} {mr.degrees_of_freedom(model):6,} degrees of freedom   last loss {losses[-1]:.3f}   ", end="")
    print(f"largest singular values of queries and keys: {largest[0]:.2f}, {largest[1]:.2f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
for name, (model, losses) in trained.items():
    left.semilogy(losses, label=name)
    for layer, style in zip(model.encoder.layers, ("-", "--"), strict=True):
        q = layer.self_attn.in_proj_weight.detach().chunk(3)[0]
        right.plot(torch.linalg.svdvals(q), style, color=left.lines[-1].get_color())
left.set(xlabel="steps", ylabel="loss on the second half")
left.legend()
right.set(xlabel="number", ylabel="singular value", title="Queries (dashed: second layer)", ylim=(0, None))
figure.tight_layout()
