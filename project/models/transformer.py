"""Vision transformer: an image as a sequence of patches.

Shape letters: B batch, C channels, H height, W width, T patches, P patch size, D width, N heads,
K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Every patch attends to every patch; scores are scaled by 1 / sqrt(D / N)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.query_key_value(x).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, N, D/N)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, N, T, D / N)
        x = F.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(x.transpose(1, 2).flatten(2))  # (B, T, D)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normalised before and added to its input."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))  # (B, T, D)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # (B, T, D)


class ViT(nn.Module):
    """Patches -> linear embedding plus learnt positions -> blocks -> mean over patches -> head.

    Source: Dosovitskiy et al. 2020 (arXiv:2010.11929), with mean pooling instead of a class
    token (Beyer et al. 2022, arXiv:2205.01580).

    Args:
        in_channels: Colour channels: 1 for grey, 3 for RGB.
        image_size: Height and width of the images, in pixels; a multiple of `patch_size`.
        num_classes: Number of logits.
        patch_size: Height and width of a patch, in pixels.
        width: Features of a patch inside the network; a multiple of `num_heads`.
        depth: Number of blocks.
        num_heads: Attention heads of each block.
        dropout: Probability in [0, 1) of zeroing an attention weight or a block's output.

    Raises:
        ValueError: If the patches do not tile the image or the heads do not share the width.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        patch_size: int = 4,
        width: int = 64,
        depth: int = 6,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f"image_size {image_size} is not a multiple of patch_size {patch_size}; "
                "choose a patch_size that divides it"
            )
        if width % num_heads:
            raise ValueError(
                f"width {width} is not a multiple of num_heads {num_heads}; "
                "choose a num_heads that divides it"
            )
        self.in_channels, self.image_size, self.num_classes = in_channels, image_size, num_classes
        num_patches = (image_size // patch_size) ** 2
        self.patch_size = patch_size
        self.embedding = nn.Linear(in_channels * patch_size**2, width)
        self.positions = nn.Parameter(torch.randn(num_patches, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, num_heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln K, whatever the input
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        side = self.image_size // self.patch_size
        x = images.unflatten(3, (side, -1)).unflatten(2, (side, -1))  # (B, C, rows, P, columns, P)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, T, C * P * P)
        x = self.embedding(x) + self.positions  # (B, T, D)
        x = self.norm(self.blocks(x))  # (B, T, D)
        return self.head(x.mean(dim=1))  # (B, K)
