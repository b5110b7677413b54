r"""
Hyper-connections with doubly stochastic mixing
===============================================

A transformer adds the output of each block to one residual stream. Hyper-connections keep n streams. Each block reads a
weighted sum of the streams, mixes them by an n x n matrix, and writes its output back:

.. math:: x \leftarrow H x + b\, F(a^\top x), \qquad x \in \mathbb R^{n \times C}.

With an unconstrained matrix H, the streams can grow or vanish over many blocks. With a doubly stochastic H they cannot,
because products of such matrices are doubly stochastic, and their norm is 1. ``mr.Birkhoff`` constructs them in three
ways.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import manifold_rnn as mr

torch.set_num_threads(1)
STREAMS, WIDTH, DEPTH, STEPS, TOKENS, LENGTH, DELAY = 4, 32, 4, 80, 8, 16, 5


class HyperConnection(nn.Module):
    """A block with hyper-connections, for streams of shape (batch, time, streams, width)."""

    def __init__(self, block: nn.Module, constraint: mr.constraints.Constraint) -> None:
        super().__init__()
        self.block = block
        self.read = nn.Parameter(torch.zeros(STREAMS))  # a = softmax(read)
        self.write = nn.Parameter(torch.zeros(STREAMS))  # b = 2 sigmoid(write)
        self.mix = nn.Linear(STREAMS, STREAMS, bias=False)
        beside_identity = 0.9 * torch.eye(STREAMS) + 0.1 / STREAMS
        mr.constrain(self.mix, "weight", constraint, view="trivialized", init=lambda _: beside_identity)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(torch.einsum("btnc,n->btc", x, self.read.softmax(0)))
        return self.mix(x.mT).mT + 2 * self.write.sigmoid()[:, None] * out.unsqueeze(-2)


class Attention(nn.Module):
    """Causal self-attention with a norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        h = self.norm(x)
        return self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]


class Transformer(nn.Module):
    """Alternating blocks of attention and of a small network, with hyper-connections."""

    def __init__(self, constraint: mr.constraints.Constraint) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        mlps = [
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))
            for _ in range(DEPTH // 2)
        ]
        blocks = [block for mlp in mlps for block in (Attention(), mlp)]
        self.layers = nn.Sequential(*(HyperConnection(block, constraint) for block in blocks))
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place.weight
        streams = x.unsqueeze(-2).expand(-1, -1, STREAMS, -1)
        return self.out(self.layers(streams).mean(-2))


# %%
# The task is to predict the token from five steps ago. Chance level is a loss of log 8, which is 2.08.


def fit(constraint: mr.constraints.Constraint) -> tuple[list[float], Transformer]:
    """Return the losses of training, and the network."""
    torch.manual_seed(0)
    network = Transformer(constraint)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        tokens = torch.randint(TOKENS, (32, LENGTH))
        logits = network(tokens)[:, DELAY:]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, :-DELAY].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, network


kinds = ["orthostochastic", "permutations", "sinkhorn"]
runs = {kind: fit(mr.Birkhoff(kind)) for kind in kinds}

# %%
# Rows and columns still sum to 1 after training.

for kind, (losses, network) in runs.items():
    defects = [float(entry.defect()) for _, entry in mr.constraints.parametrizations(network)]
    print(f"{kind:<16} loss {losses[0]:.2f} to {losses[-1]:.2f}, largest residual of a sum {max(defects):.1e}")

# %%
# The initialization matters in deep networks. If :math:`\sigma_2` is the second largest singular value of H, the
# differences between streams are multiplied by up to :math:`\sigma_2^{48}` over 48 blocks. With logits of 1 on the
# diagonal, all streams are averaged. With logits of 8 they stay different.


def mixed(scale: float) -> Tensor:
    """Return the second singular value of the product after each block."""
    module = mr.Birkhoff("sinkhorn").trivialize(torch.ones(STREAMS, STREAMS, dtype=torch.float64))
    with torch.no_grad():
        module.logits.copy_(scale * torch.eye(STREAMS))
        second = torch.linalg.svdvals(module())[1]
    return second ** torch.arange(1, 49)


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
for (kind, (losses, _)), width in zip(runs.items(), (7, 4, 1.5), strict=True):  # the curves coincide
    left.plot(losses, label=kind, linewidth=width)
left.axhline(torch.tensor(float(TOKENS)).log(), color="0.6", linestyle="--", label="chance level")
left.set(xlabel="steps", ylabel="loss", title="Training")
left.legend()
for scale in (1.0, 3.0, 8.0):
    right.semilogy(range(1, 49), mixed(scale), label=f"logits {scale:.0f} I")
right.set(
    xlabel="blocks", ylabel="remaining fraction of differences", title="Streams of a deep network at initialization"
)
right.legend()
figure.tight_layout()
