"""Images of what a classifier was not made for.

Every function returns pixels float32 (N, C, H, W) in [0, 1] on the CPU, a function of its
generator.

Shape letters: N images, C channels, H height, W width (H = W).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from project.data.image_sets import CIFAR10, KMNIST, MNIST, Digits, FashionMNIST, ImageSet

CIFAR10_FOLDER = "cifar-10-batches-py"
BLOCKS = 4  # along each side of an image whose blocks are shuffled
OTHER_SETS: dict[type[ImageSet], str] = {  # and where they lie below the folder of the data
    FashionMNIST: "FashionMNIST/raw",
    KMNIST: "KMNIST/raw",
    CIFAR10: CIFAR10_FOLDER,
    MNIST: "MNIST/raw",
}


def uniform_noise(like: Tensor, generator: Generator) -> Tensor:
    """Return pixels drawn evenly from [0, 1]."""
    return torch.rand(like.shape, generator=generator)


def gaussian_noise(like: Tensor, mean: Tensor, std: Tensor, generator: Generator) -> Tensor:
    """Return normal pixels with the statistics of each channel, cut to [0, 1].

    Args:
        mean, std: Of the training pixels in [0, 1], (C,).
    """
    noise = torch.randn(like.shape, generator=generator)
    return (noise * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


def constant(like: Tensor, generator: Generator) -> Tensor:
    """Return images of a single colour each, drawn evenly."""
    n, channels = like.shape[:2]
    return torch.rand(n, channels, 1, 1, generator=generator).expand(like.shape).contiguous()


def block_shuffled(pixels: Tensor, generator: Generator) -> Tensor:
    """Return images cut into 4 x 4 blocks that change places, each image in its own way.

    Rows and columns left over at the bottom and at the right stay.
    """
    n, channels, height, _ = pixels.shape
    blocks = min(BLOCKS, height)
    side = height // blocks
    end = blocks * side
    cut = pixels[:, :, :end, :end].unflatten(3, (blocks, side)).unflatten(2, (blocks, side))
    cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (N, blocks^2, C, side, side)
    order = torch.rand(n, blocks**2, generator=generator).argsort(dim=1)
    cut = cut[torch.arange(n)[:, None], order].unflatten(1, (blocks, blocks))
    shuffled = pixels.clone()
    shuffled[:, :, :end, :end] = cut.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, end, end)
    return shuffled


def photographs(like: Tensor, generator: Generator) -> Tensor:
    """Return squares cut anywhere, of any size, out of two photographs (scikit-learn brings them).

    A temple and a flower, 427 x 640; a square is at least as large as the images.
    """
    from sklearn.datasets import load_sample_images

    sources = [
        torch.tensor(image).permute(2, 0, 1).float() / 255  # (3, 427, 640)
        for image in load_sample_images().images
    ]
    n, channels, size, _ = like.shape
    squares = []
    for which, a, b, c in torch.rand(n, 4, generator=generator).tolist():
        source = sources[int(which * len(sources))]
        height, width = source.shape[1:]
        side = min(height, size + int(a * (height - size))) if size < height else height
        top, left = int(b * (height - side + 1)), int(c * (width - side + 1))
        squares.append(resized(source[None, :, top : top + side, left : left + side], size))
    return with_channels(torch.cat(squares), channels)


def other_sets(dataset: ImageSet, root: Path) -> dict[str, ImageSet]:
    """Return further sets that are there without a download, where there are any.

    `other`: the first without a class of this name; `same`: the first with the same classes, from
    another source.
    """
    found: dict[str, ImageSet] = {}
    ours = set(dataset.class_names)
    is_of_nist = "MNIST" in type(dataset).__name__  # MNIST, QMNIST and EMNIST share their writers
    for other, folder in OTHER_SETS.items():
        theirs = set(other.class_names)
        kind = "same" if theirs == ours else "other" if theirs.isdisjoint(ours) else ""
        is_the_same = isinstance(dataset, other) or (
            is_of_nist and kind == "same" and other is MNIST
        )
        if kind and not is_the_same and (root / folder).is_dir():
            found.setdefault(kind, other())
    if ours == set(Digits.class_names) and not isinstance(dataset, Digits):
        found.setdefault("same", Digits())
    return found


def as_images(images: Tensor, like: Tensor) -> Tensor:
    """Return images uint8 (n, c, h, w) of another set in the size and the channels of `like`."""
    return with_channels(resized(images.float() / 255, like.shape[2]), like.shape[1])


def resized(pixels: Tensor, size: int) -> Tensor:
    if pixels.shape[2] == pixels.shape[3] == size:
        return pixels
    scaled = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return scaled.clamp(0, 1)


def with_channels(pixels: Tensor, channels: int) -> Tensor:
    """Make grey pixels colour by repetition, or colour grey by the mean."""
    if pixels.shape[1] == channels:
        return pixels
    return pixels.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1).contiguous()
