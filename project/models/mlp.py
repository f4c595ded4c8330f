"""Multilayer perceptrons: on all pixels of an image, and on the last tokens of a text.

Shape letters: B batch, C channels, H height, W width, D width of a hidden layer, K classes,
T time, N tokens of history, E features of a token, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Flatten, then `depth` layers of linear -> batch norm -> ReLU -> dropout, then a linear head.

    Source: Rumelhart, Hinton & Williams 1986, with batch norm (Ioffe & Szegedy 2015,
    arXiv:1502.03167) and dropout (Srivastava et al. 2014).

    Args:
        in_channels: Colour channels: 1 for grey, 3 for RGB.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of logits.
        width: Units of each hidden layer.
        depth: Number of hidden layers; 0 gives a linear classifier.
        dropout: Probability in [0, 1) of zeroing a hidden unit.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        width: int = 512,
        depth: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.in_channels, self.image_size, self.num_classes = in_channels, image_size, num_classes
        self.width, self.depth, self.dropout = width, depth, dropout
        layers: list[nn.Module] = []
        in_features = in_channels * image_size * image_size
        for _ in range(depth):
            # No bias: the batch norm that follows adds its own.
            layers += [nn.Linear(in_features, width, bias=False), nn.BatchNorm1d(width)]
            layers += [nn.ReLU(), nn.Dropout(dropout)]
            in_features = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(in_features, num_classes)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln K, whatever the input
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        x = images.flatten(1)  # (B, C * H * W)
        return self.head(self.layers(x))  # (B, K)


class MLPLanguageModel(nn.Module):
    """The neural n-gram model: the last `history` tokens, side by side, predict the next.

    Source: Bengio et al. 2003, with layer norm (Ba et al. 2016, arXiv:1607.06450) and ReLU. The
    same perceptron stands at every position; before a text begins, tokens are vectors of zeros.

    Args:
        vocab_size: V, number of tokens.
        history: N, tokens that a prediction sees.
        features: E, of each token.
        width: D, units of each hidden layer.
        depth: Number of hidden layers, at least 1.
        dropout: Probability in [0, 1) of zeroing a hidden unit.

    Raises:
        ValueError: If `history` or `depth` is below 1.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        history: int = 16,
        features: int = 64,
        width: int = 512,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(history, depth) < 1:
            raise ValueError(f"history {history} and depth {depth} must be at least 1")
        self.vocab_size, self.history, self.features = vocab_size, history, features
        self.width, self.depth, self.dropout = width, depth, dropout
        self.embedding = nn.Embedding(vocab_size, features)
        layers: list[nn.Module] = []
        in_features = history * features
        for _ in range(depth):
            # Not batch norm: its statistics run over time, so the future would leak in.
            layers += [nn.Linear(in_features, width, bias=False), nn.LayerNorm(width)]
            layers += [nn.ReLU(), nn.Dropout(dropout)]
            in_features = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln V, whatever the input
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens int64 (B, T)."""
        logits, _ = self.extend(tokens)
        return logits

    def extend(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read more tokens: return logits (B, T, V) and the state for the next.

        The state holds the last N - 1 tokens read, int64, (B, N - 1) or fewer at the beginning.
        """
        known = tokens if state is None else torch.cat([state, tokens], dim=1)
        x = self.embedding(known)  # (B, T + state, E)
        missing = self.history - 1 - (known.shape[1] - tokens.shape[1])
        x = F.pad(x, (0, 0, missing, 0))  # (B, T + N - 1, E)
        x = x.unfold(1, self.history, 1).transpose(2, 3).flatten(2)  # (B, T, N * E)
        return self.head(self.layers(x)), known[:, max(0, known.shape[1] - self.history + 1) :]
