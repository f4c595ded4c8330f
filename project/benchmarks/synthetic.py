"""Data whose content does not matter for the time that they take: no network, no files."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from project.data.corpora import PythonDocs
from project.data.image_sets import ImageSet, LabelledImages
from project.data.images import ImageData
from project.data.text import TextData


class RandomImages(ImageSet):
    """Uniform noise in ten classes.

    Args:
        count: Training images; a tenth of it are test images.
        channels: 1 for grey, 3 for RGB.
        size: Height and width, in pixels.
    """

    class_names = tuple("0123456789")

    def __init__(self, count: int = 30_000, channels: int = 1, size: int = 28) -> None:
        self.count, self.channels, self.size = count, channels, size

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        generator = torch.Generator().manual_seed(0)
        shape = (self.count, self.channels, self.size, self.size)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        labels = torch.arange(self.count) % 10
        test = slice(max(20, self.count // 10))
        return LabelledImages(images, labels), LabelledImages(images[test], labels[test])


def random_images(count: int, channels: int = 1, size: int = 28, **options: object) -> ImageData:
    """Return the data module of `RandomImages`, set up; `options` are of `ImageData`."""
    data = ImageData(RandomImages(count, channels, size), seed=0, **options)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def random_tokens(path: Path, count: int) -> NDArray[np.uint8]:
    """Write a file of `count` tokens in [0, 256) and map it into memory."""
    numbers = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, count, 1 << 24):
            size = min(1 << 24, count - start)
            file.write(numbers.integers(0, 256, size, dtype=np.uint8).tobytes())
    return np.memmap(path, dtype=np.uint8, mode="r")


def text_of(tokens: NDArray[np.uint8], context_length: int, batch_size: int) -> TextData:
    """Return the data module whose training split are these tokens."""
    data = TextData(PythonDocs(), context_length=context_length, batch_size=batch_size, seed=0)
    data.splits = {"train": tokens}
    return data
