"""A set of images: say here in a line what is in it, and where it comes from.

Shape letters: N images, H height, W width.
"""

from pathlib import Path

import torch
from torch import Tensor

from project.data.image_sets import (
    TEST_SPLIT_SEED,
    ImageSet,
    LabelledImages,
    stratified_sample,
    take_split,
)


class MyData(ImageSet):
    """Grey 16 x 16 pictures of diamonds, discs and squares, drawn when they are asked for.

    Args:
        num_images: Of all classes and both splits together.
    """

    class_names = ("diamond", "disc", "square")

    def __init__(self, num_images: int = 1500) -> None:
        self.num_images = num_images

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        # Yours in their place: uint8 (N, C, H, H) and int64 (N,), read from below `root`, such as
        # images = torch.from_numpy(np.load(root / "my_data.npz")["images"])
        images, labels = drawn(self.num_images)
        # Where yours have an official test split, return that: LabelledImages(images, labels).
        test = stratified_sample(labels, 0.2, TEST_SPLIT_SEED)
        return take_split(images, labels, test)


def drawn(num_images: int) -> tuple[Tensor, Tensor]:
    """Return noisy pictures uint8 (N, 1, 16, 16) and their classes int64 (N,), always the same."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_images) % 3
    draws = torch.rand(3, num_images, 1, 1, generator=generator)
    centre_row, centre_column, radius = 5 + 5 * draws[0], 5 + 5 * draws[1], 3 + 2 * draws[2]
    places = torch.arange(16.0)
    down = (places[:, None] - centre_row).abs()  # (N, 16, 1)
    across = (places - centre_column).abs()  # (N, 1, 16)
    distances = torch.stack([down + across, down.hypot(across), down.maximum(across)])
    distance = distances[labels, torch.arange(num_images)]  # (N, H, W), of each one's own class
    ink = (radius - distance).clamp(0, 1) + 0.2 * torch.randn(distance.shape, generator=generator)
    return (255 * ink.clamp(0, 1)).to(torch.uint8)[:, None], labels
