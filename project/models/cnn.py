"""Convolutional networks: residual over an image, causal and dilated over a text.

Shape letters: B batch, C channels, H height, W width, K classes, T time, D width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Convolution -> batch norm -> ReLU; height and width stay."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        # No bias: the batch norm that follows adds its own.
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))  # (B, C_out, H, W)


class CNN(nn.Module):
    """Three stages of `width`, 2 `width` and 4 `width` channels; the later two have a skip.

    Source: residual learning (He et al. 2015, arXiv:1512.03385) on the LeNet plan of
    convolution and pooling (LeCun et al. 1998). `width` 32 has 290 k parameters and 22 M
    multiply-adds for a 28 x 28 image, `width` 48 has 642 k and 50 M.

    Args:
        in_channels: Colour channels: 1 for grey, 3 for RGB.
        image_size: Height and width of the images, in pixels, at least 4.
        num_classes: Number of logits.
        width: Channels of the first stage.
        dropout: Probability in [0, 1) of zeroing a feature before the head.

    Raises:
        ValueError: If `image_size` is below 4: nothing would be left after pooling twice.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        width: int = 32,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if image_size < 4:
            raise ValueError(f"CNN halves the image twice, so image_size {image_size} must be >= 4")
        self.in_channels, self.image_size, self.num_classes = in_channels, image_size, num_classes
        self.width, self.dropout = width, dropout

        self.stem = ConvBlock(in_channels, width, kernel_size=5)
        self.widen2 = ConvBlock(width, 2 * width)
        self.residual2 = ConvBlock(2 * width, 2 * width)
        self.widen3 = ConvBlock(2 * width, 4 * width)
        self.residual3 = ConvBlock(4 * width, 4 * width)
        side = min(3, image_size // 4)  # of the grid of features that the head sees
        self.pool = nn.AdaptiveMaxPool2d(side)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width * side * side, num_classes)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln K, whatever the input
        nn.init.zeros_(self.head.bias)
        # Channels last: convolutions took 0.6-0.7 of the time of channels first on a CPU.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        x = images.contiguous(memory_format=torch.channels_last)
        # Filters of a sharded network are not channels last, and would undo it for grey images.
        x = self.stem(x).contiguous(memory_format=torch.channels_last)  # (B, width, H, W)
        x = F.max_pool2d(x, 2)  # (B, width, H / 2, W / 2)
        x = self.widen2(x)  # (B, 2 width, H / 2, W / 2)
        x = F.max_pool2d(x + self.residual2(x), 2)  # (B, 2 width, H / 4, W / 4)
        x = self.widen3(x)  # (B, 4 width, H / 4, W / 4)
        x = self.pool(x + self.residual3(x))  # (B, 4 width, side, side)
        return self.head(self.drop(x).flatten(1))  # (B, K)


class CausalConvBlock(nn.Module):
    """Norm -> dilated convolution over the past -> gate -> linear, added to the input."""

    def __init__(self, width: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.reach = (kernel_size - 1) * dilation  # tokens back that the filter sees
        # Not batch norm: its statistics run over time, so the future would leak in.
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, 2 * width, kernel_size, dilation=dilation)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)  # a block starts as the identity
        nn.init.zeros_(self.out.bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        past = F.pad(self.norm(x), (0, 0, self.reach, 0))  # (B, reach + T, D)
        y = self.conv(past.transpose(1, 2)).transpose(1, 2)  # (B, T, 2 D)
        return x + self.dropout(self.out(F.glu(y, dim=2)))  # (B, T, D)


class CausalCNN(nn.Module):
    """Stacked causal convolutions whose dilation doubles, so that the reach grows as 2^depth.

    Source: WaveNet (van den Oord et al. 2016, arXiv:1609.03499) and the temporal convolutional
    network (Bai et al. 2018, arXiv:1803.01271), gated as by Dauphin et al. 2016 (arXiv:1612.08083).

    Args:
        vocab_size: V, number of tokens.
        width: D, features of a token.
        depth: Number of blocks; block i has dilation 2^i.
        kernel_size: Taps of each filter, at least 2.
        dropout: Probability in [0, 1) of zeroing a feature of a block's output.

    Attributes:
        receptive_field: Tokens that a prediction sees, 1 + (kernel_size - 1) (2^depth - 1).

    Raises:
        ValueError: If `kernel_size` is below 2.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        width: int = 128,
        depth: int = 6,
        kernel_size: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if kernel_size < 2:
            raise ValueError(
                f"kernel_size {kernel_size} must be at least 2: the past has to be seen"
            )
        self.vocab_size, self.width, self.depth = vocab_size, width, depth
        self.kernel_size, self.dropout = kernel_size, dropout
        self.receptive_field = 1 + (kernel_size - 1) * (2**depth - 1)
        self.embedding = nn.Embedding(vocab_size, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(CausalConvBlock(width, kernel_size, 2**i, dropout) for i in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln V, whatever the input
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens int64 (B, T)."""
        x = self.blocks(self.drop(self.embedding(tokens)))  # (B, T, D)
        return self.head(self.norm(x))  # (B, T, V)

    def extend(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read more tokens: return logits (B, T, V) and the state for the next.

        The state holds the last tokens read, int64 (B, up to receptive_field - 1): nothing that
        lies further back can be seen.
        """
        known = tokens if state is None else torch.cat([state, tokens], dim=1)
        logits = self(known)[:, known.shape[1] - tokens.shape[1] :]
        return logits, known[:, max(0, known.shape[1] - self.receptive_field + 1) :]
