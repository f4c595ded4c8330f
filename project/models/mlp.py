"""Multilayer perceptron: every pixel is joined to every unit.

Shape letters: B batch, C channels, H height, W width, D width of a hidden layer, K classes.
"""

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
