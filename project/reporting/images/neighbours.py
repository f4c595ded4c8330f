"""Which images are the same, and which are nearest, pixel by pixel.

Perceptual hashes are of no use on images this small: of MNIST's 10,000 test images, 2,220 share a
64-bit dHash with a training image, and none is a copy.

Shape letters: N images asked about, M images searched, D pixels of an image, k neighbours,
K classes.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from project.reporting.images.opened import Images
from project.reporting.subject import Subject

QUERIES_PER_N = 10  # images whose neighbours are looked for, for each of `n`
QUERIES = 1000  # images asked about at once
SEARCHED = 10_000  # images searched at once: products take 4 x QUERIES x SEARCHED bytes, 40 MB
Track = Callable[[Iterable[Tensor], str, int], Iterator[Tensor]]


class Neighbours(NamedTuple):
    """Of each image its nearest, the nearest first.

    Attributes:
        distances: Euclidean, over pixels in [0, 1], float32 (N, k).
        indices: Into the images searched, int64 (N, k).
    """

    distances: Tensor
    indices: Tensor


class Known(NamedTuple):
    """What is nearest, among train and validation, to images of the measured split.

    Attributes:
        asked: Their indices in the measured split, int64 (N,).
        seed: Of their draw; None where all were asked about.
        splits, labels: Those searched, the labels one after the other, int64 (M,).
        nearest: One each, (N, 1).
    """

    asked: Tensor
    seed: int | None
    splits: list[str]
    labels: Tensor
    nearest: Neighbours

    def guesses(self) -> Tensor:
        """Return the label of the nearest image, int64 (N,)."""
        return self.labels[self.nearest.indices[:, 0]]


def known_images(subject: Subject, images: Images) -> Known:
    """Return the image nearest to each of the measured split, or of a sample; computed once."""
    if images.known is None:
        measured = images.measured_split
        splits = [split for split in images.splits if split != measured]
        searched = torch.cat([images.data.splits[split].images.cpu() for split in splits])
        labels = torch.cat([images.labels(split) for split in splits])
        asked, seed = drawn(subject, images, measured, "neighbours")
        pixels = images.data.splits[measured].images.cpu()[asked]
        found = nearest(pixels, searched, device=images.device, track=subject.track)
        images.known = Known(asked, seed, splits, labels, found)
    return images.known


def drawn(subject: Subject, images: Images, split: str, name: str) -> tuple[Tensor, int | None]:
    """Return the indices of the images to ask about, and the seed where not all of them are."""
    most = QUERIES_PER_N * subject.n
    if images.count(split) <= most:
        return torch.arange(images.count(split)), None
    return images.sample(split, most, subject.generator(f"data {name}")), subject.seed


def same_images(images: dict[str, Tensor]) -> list[list[tuple[str, int]]]:
    """Return the groups of images that are equal in every pixel, as (split, index), by SHA-256.

    Args:
        images: uint8 (N, C, H, W) of each split.
    """
    groups: dict[bytes, list[tuple[str, int]]] = {}
    for split, pixels in images.items():
        for index, image in enumerate(pixels.cpu().contiguous().numpy()):
            groups.setdefault(hashlib.sha256(image).digest(), []).append((split, index))
    return [group for group in groups.values() if len(group) > 1]


def nearest(
    asked: Tensor,
    searched: Tensor,
    k: int = 1,
    own: Tensor | None = None,
    device: torch.device | str = "cpu",
    track: Track | None = None,
) -> Neighbours:
    """Return the `k` nearest of `searched` for each image of `asked`, by products of matrices.

    |a - b|^2 = |a|^2 + |b|^2 - 2 a b finds them; their distances are then taken from the
    differences, which rounding does not spoil where two images are nearly the same.

    Args:
        asked, searched: uint8 (N, ...) and (M, ...), of the same shape but for the first.
        k: At most M, or M - 1 with `own`; fewer are returned where there are not so many.
        own: Place of each image asked about among those searched, int64 (N,), which is left out.
        track: Shows how far it is; given the parts, a title and their number.
    """
    k = min(k, len(searched) - (own is not None))
    parts = torch.arange(len(asked)).split(QUERIES) if len(asked) else ()
    # A common shift changes no distance, and the less the numbers are, the less is rounded away.
    centre = mean_image(searched).to(device)
    found = []
    for part in track(parts, "comparing images", len(parts)) if track else parts:
        rows = flat(asked[part], device) - centre  # (n, D)
        left_out = None if own is None else own[part].to(device)
        indices = candidates(rows, searched, k, centre, left_out)  # (n, k)
        distances = exact_distances(asked[part], searched, indices, device)
        order = distances.argsort(dim=1, stable=True)
        found.append((distances.gather(1, order).cpu(), indices.gather(1, order).cpu()))
    if not found:
        return Neighbours(torch.zeros(0, k), torch.zeros(0, k, dtype=torch.int64))
    return Neighbours(torch.cat([d for d, _ in found]), torch.cat([i for _, i in found]))


def candidates(
    rows: Tensor, searched: Tensor, k: int, centre: Tensor, left_out: Tensor | None
) -> Tensor:
    """Return the indices of the `k` nearest, int64 (n, k), for rows (n, D) minus the centre."""
    best = torch.full((len(rows), k), torch.inf, device=rows.device)
    indices = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, len(searched), SEARCHED):
        block = flat(searched[start : start + SEARCHED], rows.device) - centre  # (m, D)
        # Without |a|^2, which is the same for all of a row.
        squares = torch.addmm(block.square().sum(1), rows, block.T, alpha=-2)  # (n, m)
        if left_out is not None:
            inside = ((left_out >= start) & (left_out < start + len(block))).nonzero().flatten()
            squares[inside, left_out[inside] - start] = torch.inf
        values, places = squares.topk(min(k, len(block)), dim=1, largest=False)
        both = torch.cat([best, values], dim=1)
        best, order = both.topk(k, dim=1, largest=False)
        indices = torch.cat([indices, places + start], dim=1).gather(1, order)
    return indices


def exact_distances(
    asked: Tensor, searched: Tensor, indices: Tensor, device: torch.device | str
) -> Tensor:
    """Return the distance of each image (n, ...) to those at `indices` (n, k), float32 (n, k)."""
    rows = flat(asked, device)
    columns = [
        (rows - flat(searched[column.to(searched.device)], device)).norm(dim=1)
        for column in indices.T
    ]
    return torch.stack(columns, dim=1) if columns else torch.zeros(len(rows), 0, device=device)


def flat(images: Tensor, device: torch.device | str) -> Tensor:
    """Return uint8 images (n, ...) as rows in [0, 1], float32 (n, D)."""
    return images.to(device).flatten(1).float() / 255


def mean_image(images: Tensor) -> Tensor:
    """Return the mean of uint8 images (M, ...) in [0, 1], float32 (D,)."""
    total = torch.zeros(images[0].numel(), device=images.device)
    for part in images.split(SEARCHED):
        total += part.flatten(1).float().sum(0)
    return total / (255 * len(images))


def class_shares(neighbours: Neighbours, labels: Tensor, num_classes: int) -> Tensor:
    """Return the share of each class among the neighbours, weighted by 1 / distance, (N, K).

    Args:
        labels: Of the images searched, int64 (M,).
    """
    weights = 1 / neighbours.distances.clamp(min=1e-6)  # (N, k)
    shares = torch.zeros(len(weights), num_classes)
    shares.scatter_add_(1, labels[neighbours.indices], weights)
    return shares / shares.sum(1, keepdim=True)
