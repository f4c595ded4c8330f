"""A network for text: say here in a line what is new about it.

Shape letters: B batch, T time, D features, V vocabulary.
"""

import torch
from torch import Tensor, nn


class MyLanguageModel(nn.Module):
    """A memory whose gate z sees the token and not the memory: h becomes (1 - z) h + z c.

    Source: minGRU (Feng et al. 2024, arXiv:2410.01201), step by step in place of their scan.

    Args:
        vocab_size: V, number of tokens.
        width: D, features of a token.
        dropout: Probability in [0, 1) of zeroing a feature before the head.
    """

    def __init__(self, vocab_size: int = 256, width: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        # Each argument is kept: a checkpoint builds the network again from these.
        self.vocab_size, self.width, self.dropout = vocab_size, width, dropout
        self.embedding = nn.Embedding(vocab_size, width)
        self.gate = nn.Linear(width, width)
        self.candidate = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln V, whatever the input
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens int64 (B, T)."""
        logits, _ = self.extend(tokens)
        return logits

    def extend(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read more tokens: return logits (B, T, V) and the state (B, D) for the next.

        A network without this method is given each window from its beginning.
        """
        x = self.embedding(tokens)  # (B, T, D)
        gate, candidate = self.gate(x).sigmoid(), self.candidate(x)  # (B, T, D)
        h = torch.zeros_like(x[:, 0]) if state is None else state  # (B, D)
        memories = []
        for t in range(tokens.shape[1]):
            h = h + gate[:, t] * (candidate[:, t] - h)
            memories.append(h)
        x = x + torch.stack(memories, dim=1)  # (B, T, D)
        return self.head(self.drop(self.norm(x))), h
