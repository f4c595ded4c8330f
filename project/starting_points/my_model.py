"""A network for images: say here in a line what is new about it.

Shape letters: B batch, C channels, H height, W width, D features, K classes.
"""

from torch import Tensor, nn


class MyModel(nn.Module):
    """Convolutions that keep the size of the image, each added to its input, then a mean.

    Source: residual learning (He et al. 2016, arXiv:1603.05027) and the mean over all places
    (Lin et al. 2013, arXiv:1312.4400).

    Args:
        in_channels: Colour channels: 1 for grey, 3 for RGB.
        image_size: Height and width of the images, in pixels; any will do.
        num_classes: Number of logits.
        width: D, features of a place.
        depth: Number of convolutions after the first.
        dropout: Probability in [0, 1) of zeroing a feature before the head.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        width: int = 48,
        depth: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        # Each argument is kept: a checkpoint builds the network again from these.
        self.in_channels, self.image_size, self.num_classes = in_channels, image_size, num_classes
        self.width, self.depth, self.dropout = width, depth, dropout
        self.stem = nn.Conv2d(in_channels, width, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, kernel_size=3, padding=1)
            )
            for _ in range(depth)
        )
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)
        nn.init.zeros_(self.head.weight)  # the loss starts at ln K, whatever the input
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        x = self.stem(images)  # (B, D, H, W)
        for block in self.blocks:
            x = x + block(x)
        x = x.mean(dim=(2, 3))  # (B, D)
        return self.head(self.drop(x))  # (B, K)
