"""Transformers: ViT reads an image as patches; GPT and the textbook encoder predict the next token.

Shape letters: B batch, C channels, H height, W width, T patches or tokens, P patch size, D width,
N heads, V vocabulary, K classes.
"""

from typing import Literal, NamedTuple

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
        self.width, self.depth, self.num_heads, self.dropout = width, depth, num_heads, dropout
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


class GPTState(NamedTuple):
    """What `GPT` keeps of the tokens it has read.

    Attributes:
        tokens: int64 (B, t), those in the context, t at most `context_length`.
        keys_values: (depth, 2, B, N, context_length, D / N), of which the first t are filled.
    """

    tokens: Tensor
    keys_values: Tensor


class CausalSelfAttention(nn.Module):
    """Every token attends to itself and those before it, by rotated and normalised keys.

    Scores are scaled by 1 / sqrt(D / N). Queries and keys are normalised to a root mean square of
    1 (Henry et al. 2020, arXiv:2010.04245), so that scores cannot grow with the weights, and
    rotated by their position (Su et al. 2021, arXiv:2104.09864).
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)  # a block starts as the identity

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], past: Tensor | None = None, start: int = 0
    ) -> Tensor:
        """Return (B, T, D) for x (B, T, D), whose first token stands at position `start`.

        Args:
            rotation: Cosines and sines of the T positions, each (T, D / N / 2).
            past: Keys and values (2, B, N, context_length, D / N): the first `start` are read,
                those of x are written behind them.
        """
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, N, T, D / N)
            for layer in (self.query, self.key, self.value)
        )
        query, key = (rotate(F.rms_norm(q, q.shape[-1:]), rotation) for q in (query, key))
        mask = None
        if past is not None:
            end = start + x.shape[1]
            past[0, :, :, start:end], past[1, :, :, start:end] = key, value
            key, value = past[:, :, :, :end].to(query.dtype)
            if start > 0:  # `is_causal` would align the first query with the first key
                mask = torch.ones(x.shape[1], end, dtype=torch.bool, device=x.device).tril(start)
        x = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None,
        )
        return self.out(x.transpose(1, 2).flatten(2))  # (B, T, D)


class GPTBlock(nn.Module):
    """Causal attention and a perceptron, each normalised before and added to its input."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        feed_forward: Literal["relu2", "swiglu"],
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention = CausalSelfAttention(width, num_heads, dropout)
        self.feed_forward = SquaredReLU(width) if feed_forward == "relu2" else SwiGLU(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], past: Tensor | None = None, start: int = 0
    ) -> Tensor:
        attended = self.attention(F.rms_norm(x, x.shape[-1:]), rotation, past, start)
        x = x + self.dropout(attended)  # (B, T, D)
        return x + self.dropout(self.feed_forward(F.rms_norm(x, x.shape[-1:])))  # (B, T, D)


class SquaredReLU(nn.Module):
    """Linear -> ReLU^2 -> linear, 4 D wide (So et al. 2021, arXiv:2109.08668)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.out.weight)  # a block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.widen(x)).square())  # (B, T, D)


class SwiGLU(nn.Module):
    """A linear layer gated by another's SiLU, 8/3 D wide (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 8 * width // 3
        self.gate = nn.Linear(width, inner, bias=False)
        self.widen = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        nn.init.zeros_(self.out.weight)  # a block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.gate(x)) * self.widen(x))  # (B, T, D)


class GPT(nn.Module):
    """A decoder-only transformer: rotary positions, RMSNorm, QK-norm, ReLU^2 or SwiGLU, no biases.

    Source: Radford et al. 2019 (GPT-2), with RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467)
    before each part, after the embedding and before the head, and the parts' own sources.

    Args:
        vocab_size: V, number of tokens.
        context_length: The most tokens that a prediction may see, and that `forward` takes.
        width: D, features of a token; a multiple of `num_heads`, by an even number.
        depth: Number of blocks.
        num_heads: Attention heads of each block.
        feed_forward: `relu2`, or `swiglu` with as many parameters.
        dropout: Probability in [0, 1) of zeroing an embedding, an attention weight or an output.
        tied: Use the embedding as the output layer (Press & Wolf 2017, arXiv:1608.05859).

    Raises:
        ValueError: If the heads do not share the width, by an even number of features.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        vocab_size: int = 256,
        context_length: int = 64,
        width: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        feed_forward: Literal["relu2", "swiglu"] = "relu2",
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(
                f"width {width} is not a multiple of 2 x num_heads {num_heads}; "
                "choose a num_heads whose double divides it"
            )
        if context_length < 2:
            raise ValueError(f"context_length {context_length} must be at least 2")
        self.vocab_size, self.context_length = vocab_size, context_length
        self.width, self.depth, self.num_heads = width, depth, num_heads
        self.feed_forward, self.dropout, self.tied = feed_forward, dropout, tied
        self.embedding = nn.Embedding(vocab_size, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            GPTBlock(width, num_heads, feed_forward, dropout) for _ in range(depth)
        )
        self.head = nn.Linear(width, vocab_size, bias=False)
        # The loss starts at ln V: a gain of 0 does for a shared matrix what zeros do for its own.
        self.gain: nn.Parameter | None = None
        if tied:
            nn.init.normal_(self.embedding.weight, std=0.02)
            self.head.weight = self.embedding.weight
            self.gain = nn.Parameter(torch.zeros(width))
        else:
            nn.init.zeros_(self.head.weight)
        cos, sin = rotation_table(context_length, width // num_heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens int64 (B, T)."""
        return self.read(tokens)

    def extend(self, tokens: Tensor, state: GPTState | None = None) -> tuple[Tensor, GPTState]:
        """Read more tokens: return logits (B, T, V) and the state for the next.

        The past is not computed again, and `state` is changed: use the returned one. When the
        context is full, its older half is forgotten and the newer half read once more, so that
        every prediction sees at least half a context.
        """
        if state is None:
            state = GPTState(tokens[:, :0], self.empty_past(tokens))
        seen, past = state
        logits = []
        while tokens.shape[1] > 0:
            if seen.shape[1] == self.context_length:
                seen = seen[:, -(self.context_length // 2) :]
                self.read(seen, past)
            room = self.context_length - seen.shape[1]
            fresh, tokens = tokens[:, :room], tokens[:, room:]
            logits.append(self.read(fresh, past, start=seen.shape[1]))
            seen = torch.cat([seen, fresh], dim=1)
        return torch.cat(logits, dim=1), GPTState(seen, past)

    def empty_past(self, tokens: Tensor) -> Tensor:
        """Return room for the keys and values of a whole context, of B rows as in `tokens`."""
        head_width = self.width // self.num_heads
        shape = (self.depth, 2, len(tokens), self.num_heads, self.context_length, head_width)
        return self.embedding.weight.new_empty(shape)

    def read(self, tokens: Tensor, past: Tensor | None = None, start: int = 0) -> Tensor:
        """Return logits (B, T, V) for tokens (B, T) that stand from position `start` on."""
        end = start + tokens.shape[1]
        if end > self.context_length:
            raise ValueError(
                f"{end} tokens are more than the context_length {self.context_length} that this "
                "GPT was built for; give it fewer, or build it with a larger context_length"
            )
        rotation = self.cos[start:end], self.sin[start:end]
        x = self.embedding(tokens)  # (B, T, D)
        x = self.drop(F.rms_norm(x, x.shape[-1:]))
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, None if past is None else past[layer], start)
        x = F.rms_norm(x, x.shape[-1:], self.gain)
        return self.head(x)  # (B, T, V)


def rotation_table(num_positions: int, width: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the angles of each pair of features, (T, width / 2) float32.

    Pair i turns by base^(-2 i / width) radians a position (Su et al. 2021).
    """
    frequencies = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + D / 2) of the last dimension by its angle; x is (..., T, D)."""
    cos, sin = rotation
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1).to(x.dtype)


class SinusoidalTransformer(nn.Module):
    """The textbook transformer, an encoder with a causal mask (Vaswani et al. 2017).

    Made of torch's own layers: embedding times sqrt(D), sinusoidal positions, dropout, then
    blocks of attention and ReLU perceptron with layer norms, and a linear head. It is kept for
    comparison with `GPT`; the norms stand before each part, without which it needs a warm-up.

    Args:
        vocab_size: V, number of tokens.
        context_length: The most tokens that `forward` takes.
        width: D, features of a token; a multiple of `num_heads`.
        depth: Number of blocks.
        num_heads: Attention heads of each block.
        dropout: Probability in [0, 1) of zeroing a feature or an attention weight.

    Raises:
        ValueError: If the heads do not share the width.
    """

    positions: Tensor

    def __init__(
        self,
        vocab_size: int = 256,
        context_length: int = 64,
        width: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"width {width} is not a multiple of num_heads {num_heads}; "
                "choose a num_heads that divides it"
            )
        self.vocab_size, self.context_length = vocab_size, context_length
        self.width, self.depth, self.num_heads, self.dropout = width, depth, num_heads, dropout
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.register_buffer("positions", sinusoids(context_length, width), persistent=False)
        self.drop = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln V
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens int64 (B, T)."""
        length = tokens.shape[1]
        if length > self.context_length:
            raise ValueError(
                f"{length} tokens are more than the context_length {self.context_length} that this "
                "SinusoidalTransformer was built for; give it fewer, or build it with a larger one"
            )
        x = self.embedding(tokens) * self.width**0.5  # (B, T, D)
        x = self.drop(x + self.positions[:length])
        hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        return self.head(self.encoder(x, mask=hidden, is_causal=True))  # (B, T, V)


def sinusoids(num_positions: int, width: int) -> Tensor:
    """Return the positional encoding of Vaswani et al. 2017, float32 (num_positions, width).

    Feature 2i is sin(t / 10000^(2i / width)), feature 2i + 1 the cosine of the same angle; an odd
    width ends in a sine.
    """
    wavelengths = 10_000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] / wavelengths
    pairs = torch.stack([angles.sin(), angles.cos()], dim=2)  # (T, ceil(width / 2), 2)
    return pairs.flatten(1)[:, :width].float()
