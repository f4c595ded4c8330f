"""Recurrent networks: one reads an image row by row, the other a text token by token.

Shape letters: B batch, C channels, H height, W width, T time, D units, K classes, V vocabulary.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cell = Literal["elman", "gru", "lstm"]


def recurrent_layer(cell: Cell) -> type[nn.RNN | nn.GRU | nn.LSTM]:
    """Return torch's layers for a cell.

    Raises:
        ValueError: If there is no such cell.
    """
    layers: dict[str, Any] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
    if cell not in layers:
        raise ValueError(f"cell {cell!r} is not one of {', '.join(layers)}")
    return layers[cell]


@torch.no_grad()
def initialise_recurrence(recurrent: nn.RNNBase) -> None:
    """Make recurrent weights orthogonal, and open the forget gate of an LSTM."""
    width = recurrent.hidden_size
    for name, parameter in recurrent.named_parameters():
        if name.startswith("weight_hh"):  # one square matrix a gate
            for gate in parameter.chunk(parameter.shape[0] // width):
                nn.init.orthogonal_(gate)
        elif name.startswith("bias_ih") and isinstance(recurrent, nn.LSTM):
            parameter[width : 2 * width] = 1.0  # gates are stored as i, f, g, o


class RNN(nn.Module):
    """A recurrent cell over the rows; a linear head on what it remembers at the end.

    Source: `elman` (Elman 1990), `lstm` (Hochreiter & Schmidhuber 1997, with its forget gate
    open at the start: Jozefowicz et al. 2015), `gru` (Cho et al. 2014, arXiv:1406.1078).

    Args:
        in_channels: Colour channels: 1 for grey, 3 for RGB.
        image_size: Height and width of the images, in pixels: the length of the sequence.
        num_classes: Number of logits.
        cell: `elman` (tanh), `gru` or `lstm`.
        width: Units of each direction of each layer.
        depth: Number of layers.
        bidirectional: Read a second time from bottom to top.
        dropout: Probability in [0, 1) of zeroing a feature between layers and before the head.

    Raises:
        ValueError: If there is no such cell.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        cell: Cell = "lstm",
        width: int = 128,
        depth: int = 2,
        bidirectional: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_channels, self.image_size, self.num_classes = in_channels, image_size, num_classes
        self.cell, self.width, self.depth = cell, width, depth
        self.bidirectional, self.dropout = bidirectional, dropout
        self.recurrent = recurrent_layer(cell)(
            in_channels * image_size,
            width,
            num_layers=depth,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if depth > 1 else 0.0,
        )
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width * (2 if bidirectional else 1), num_classes)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln K, whatever the input
        nn.init.zeros_(self.head.bias)
        initialise_recurrence(self.recurrent)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        rows = images.permute(0, 2, 1, 3).flatten(2)  # (B, H, C * W)
        _, state = self.recurrent(rows)
        if isinstance(state, tuple):  # LSTM: (hidden, cell)
            state = state[0]
        directions = 2 if self.bidirectional else 1
        last = state[-directions:]  # of the top layer: (directions, B, D)
        return self.head(self.drop(last.transpose(0, 1).flatten(1)))  # (B, K)


class RNNLanguageModel(nn.Module):
    """Embedding -> recurrent layers -> the embedding again as output layer.

    Source: Merity et al. 2017 (AWD-LSTM, arXiv:1708.02182): dropout masks that stay the same over
    time (Gal & Ghahramani 2016, arXiv:1512.05287), DropConnect on the recurrent weights, tied
    embedding. `elman`, `gru` and `lstm` as in `RNN`.

    What it has read is in its state, which has no end: `context_length` is not an argument.

    Args:
        vocab_size: V, number of tokens.
        cell: `elman` (tanh), `gru` or `lstm`.
        width: D, units of each layer and features of a token.
        depth: Number of layers.
        dropout: Probability in [0, 1) of zeroing a feature before, between and after the layers,
            for a whole window.
        weight_drop: Probability in [0, 1) of zeroing a recurrent weight for a whole window.
        tied: Use the embedding as the output layer (Press & Wolf 2017, arXiv:1608.05859).

    Raises:
        ValueError: If there is no such cell.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        cell: Cell = "lstm",
        width: int = 220,
        depth: int = 2,
        dropout: float = 0.0,
        weight_drop: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.vocab_size, self.cell, self.width, self.depth = vocab_size, cell, width, depth
        self.dropout, self.weight_drop, self.tied = dropout, weight_drop, tied
        self.embedding = nn.Embedding(vocab_size, width)
        layer = recurrent_layer(cell)
        layers = [layer(width, width, batch_first=True) for _ in range(depth)]
        for recurrent in layers:
            initialise_recurrence(recurrent)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.bias)
        # The loss starts at ln V: a gain of 0 does for a shared matrix what zeros do for its own.
        self.gain: nn.Parameter | None = None
        if tied:
            self.head.weight = self.embedding.weight
            self.gain = nn.Parameter(torch.zeros(width))
        else:
            nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens int64 (B, T), read from an empty state."""
        logits, _ = self.extend(tokens)
        return logits

    def extend(
        self, tokens: Tensor, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Read more tokens: return logits (B, T, V) and the state for the next.

        The state holds one tensor a layer: (1, B, D), for `lstm` (2, B, D), hidden above cell.
        """
        x = self.locked_dropout(self.embedding(tokens))  # (B, T, D)
        after = []
        for layer, recurrent in enumerate(self.layers):
            x, last = self.run_layer(recurrent, x, None if state is None else state[layer])
            x = self.locked_dropout(x)  # (B, T, D)
            after.append(last)
        if self.gain is not None:
            x = x * self.gain
        return self.head(x), after  # (B, T, V)

    def run_layer(self, layer: Any, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the layer's output (B, T, D) and its state after, shaped as in `extend`."""
        is_lstm = isinstance(layer, nn.LSTM)
        if state is None:
            state = x.new_zeros(2 if is_lstm else 1, x.shape[0], layer.hidden_size)
        before = state.chunk(2) if is_lstm else state
        if self.training and self.weight_drop > 0:
            # The layer keeps a list of its weights: one replaced by its name would not be used.
            function: Any = {"RNN_TANH": torch.rnn_tanh, "GRU": torch.gru, "LSTM": torch.lstm}[
                layer.mode
            ]
            recurrent_weight = F.dropout(layer.weight_hh_l0, self.weight_drop)
            weights = [layer.weight_ih_l0, recurrent_weight, layer.bias_ih_l0, layer.bias_hh_l0]
            # Has biases, one layer, no dropout, training, one direction, batch first.
            x, *after = function(x, before, weights, True, 1, 0.0, True, False, True)
            return x, torch.cat(after)
        x, last = layer(x, before)
        return x, torch.cat(last) if is_lstm else last

    def locked_dropout(self, x: Tensor) -> Tensor:
        """Zero the same features at every time step of x (B, T, D), others in each row."""
        if not self.training or self.dropout == 0:
            return x
        return x * F.dropout(torch.ones_like(x[:, :1]), self.dropout)  # (B, 1, D)
