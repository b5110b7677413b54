"""A small transformer for characters, its data and its loss, for several benchmarks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

import manifold_rnn as mr

TEXT, LENGTH = "tinyshakespeare.txt", 64


class Attention(nn.Module):
    """Causal attention with separate projections without biases."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2) for p in self.projections())
        return self.o_proj(
            functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-3, -2).flatten(-2)
        )

    def projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.q_proj, self.k_proj, self.v_proj


class Block(nn.Module):
    """Attention and two dense layers, each with a norm before it and a residual connection."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(size), Attention(size, heads)
        self.mlp_norm, self.up_proj = nn.LayerNorm(size), nn.Linear(size, 4 * size, bias=False)
        self.down_proj = nn.Linear(4 * size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down_proj(functional.gelu(self.up_proj(self.mlp_norm(x))))


class Transformer(nn.Module):
    """Logits of the next character, of shape (batch, time steps, characters)."""

    def __init__(self, characters: int, size: int = 128, heads: int = 4, blocks: int = 4, length: int = LENGTH) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(characters, size), nn.Embedding(length, size)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, characters, bias=False)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        x = self.embedding(characters) + self.positions.weight[: characters.shape[-1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Text:
    """Batches of consecutive characters and of the next characters, from a part of the training text."""

    def __init__(self, batch: int, first: float = 0.0, last: float = 1.0) -> None:
        self.task, self.batch = mr.tasks.Characters(TEXT, length=LENGTH), batch
        self.splits = self.task.splits()
        count = len(self.splits.train)
        self.first, self.last = int(first * count), int(last * count)
        self.characters = self.task.output_size

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a batch for training."""
        rows = torch.randint(self.first, self.last, (self.batch,), generator=generator)
        return self._pieces(self.splits.train, rows)

    def validation(self, count: int = 128) -> tuple[Tensor, Tensor]:
        """Return ``count`` evenly spaced pieces of the validation text."""
        pieces = self.splits.validation
        return self._pieces(pieces, torch.linspace(0, len(pieces) - 1, count).long())

    @staticmethod
    def _pieces(pieces: torch.utils.data.TensorDataset, rows: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = pieces[rows]
        return inputs.argmax(-1), targets

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy, natural logarithm."""
        return self.task.loss(outputs, targets)
