"""Recurrent network that reads an image row by row, from top to bottom.

Shape letters: B batch, C channels, H height, W width, D units, K classes.
"""

from typing import Literal

import torch
from torch import Tensor, nn


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
        cell: Literal["elman", "gru", "lstm"] = "lstm",
        width: int = 128,
        depth: int = 2,
        bidirectional: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_channels, self.image_size, self.num_classes = in_channels, image_size, num_classes
        cells = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
        if cell not in cells:
            raise ValueError(f"cell {cell!r} is not one of {', '.join(cells)}")
        self.recurrent = cells[cell](
            in_channels * image_size,
            width,
            num_layers=depth,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if depth > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * (2 if bidirectional else 1), num_classes)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln K, whatever the input
        nn.init.zeros_(self.head.bias)
        for name, parameter in self.recurrent.named_parameters():
            if name.startswith("weight_hh"):  # one square matrix a gate
                for gate in parameter.chunk(parameter.shape[0] // width):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias_ih") and cell == "lstm":
                with torch.no_grad():
                    parameter[width : 2 * width] = 1.0  # gates are stored as i, f, g, o

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        rows = images.permute(0, 2, 1, 3).flatten(2)  # (B, H, C * W)
        _, state = self.recurrent(rows)
        if isinstance(state, tuple):  # LSTM: (hidden, cell)
            state = state[0]
        directions = 2 if self.recurrent.bidirectional else 1
        last = state[-directions:]  # of the top layer: (directions, B, D)
        return self.head(self.dropout(last.transpose(0, 1).flatten(1)))  # (B, K)
