"""The training data path against the usual one, on one thread, by CPU time.

The usual ways: torchvision's data set (its real class and `__getitem__`, without files) with
`ToTensor` and `Normalize` in a `DataLoader`; nanoGPT's `get_batch`, and a `Dataset` of windows in
a `DataLoader`. Theirs and ours have the same batch size.

Shape letters: B batch, T time.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from project.benchmarks.measuring import Figures, interleaved, num_threads, ratios
from project.benchmarks.synthetic import random_images
from project.data.augment import Augmentation
from project.data.corpora import PythonDocs
from project.data.images import ImageData
from project.data.text import TextData

Paths = dict[str, Callable[[], Iterable[Any]]]  # by the name of a row, what makes its batches
BATCH_SIZE = 128  # of images
TEXT_SHAPES = ((12, 64), (64, 256))  # (B, T): nanoGPT's on a CPU and on a GPU


def data(rounds: int = 3, seconds: float = 0.2, count: int = 60_000) -> list[Figures]:
    """Compare images and tokens per CPU second; each figure takes `seconds` of CPU time."""
    with num_threads(1):
        return [*image_paths(rounds, seconds, count), *text_paths(rounds, seconds)]


def image_paths(rounds: int, seconds: float, count: int) -> list[Figures]:
    from torchvision import transforms as T
    from torchvision.transforms import InterpolationMode

    turn = T.RandomAffine(15, (0.07, 0.07), (0.85, 1.15), 10, InterpolationMode.BILINEAR)
    affine = Augmentation(rotate_degrees=15, scale=0.15, shear_degrees=10, translate_pixels=2)
    crop, crop_rgb = T.RandomCrop(8, padding=1), T.RandomCrop(32, padding=4)
    flipped = T.Compose([crop_rgb, T.RandomHorizontalFlip()])
    sets: list[tuple[str, int, int, str, Any, Augmentation]] = [
        ("MNIST and its kin", 1, 28, "affine", turn, affine),
        ("Digits", 1, 8, "shift", crop, Augmentation(shift_pixels=1)),
        ("CIFAR10", 3, 32, "shift, flip", flipped, Augmentation(shift_pixels=4, flip=True)),
    ]
    found = []
    for name, channels, size, change, transform, augment in sets:
        ours = random_images(count, channels, size, batch_size=BATCH_SIZE)
        changed = copy.copy(ours)  # the same images
        changed.augment = augment
        paths: Paths = {
            "ours": ours.train_dataloader,
            "torchvision": partial(torchvision_loader, ours, []),
            f"ours, {change} per sample": changed.train_dataloader,
            f"torchvision, {change}": partial(torchvision_loader, ours, [transform]),
        }
        rows = list(paths)
        pairs = {"ratio": (rows[0], rows[1]), f"ratio, {change}": (rows[2], rows[3])}
        what = f"training data of {name} ({channels} x {size} x {size}, batch {BATCH_SIZE})"
        found.append(compared(what, "images", paths, pairs, rounds, seconds))
    return found


def torchvision_loader(ours: ImageData, first: list[Any]) -> DataLoader[Any]:
    from torchvision import transforms

    train = ours.splits["train"]
    normalise = transforms.Normalize(ours.mean.div(255).tolist(), ours.std.div(255).tolist())
    change = transforms.Compose([*first, transforms.ToTensor(), normalise])
    dataset = torchvision_set(train.images[:2500], train.labels[:2500], change)
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)


def torchvision_set(images: Tensor, labels: Tensor, transform: Any) -> Any:
    """Return torchvision's MNIST (grey) or CIFAR10 (RGB) of these images, without its files.

    The real class and its real `__getitem__`.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,).
    """
    from torchvision import datasets

    dataset: Any
    if images.shape[1] == 1:
        dataset = object.__new__(datasets.MNIST)
        dataset.data, dataset.targets = images[:, 0], labels
    else:
        dataset = object.__new__(datasets.CIFAR10)
        dataset.data = images.permute(0, 2, 3, 1).contiguous().numpy()
        dataset.targets = labels.tolist()
    dataset.transform, dataset.target_transform = transform, None
    return dataset


def text_paths(rounds: int, seconds: float) -> list[Figures]:
    found = []
    # Windows deletes no file that is mapped into memory.
    with TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        for rows, length in TEXT_SHAPES:
            ours = TextData(
                PythonDocs(), context_length=length, batch_size=rows, seed=0, cache_dir=cache
            )
            ours.prepare_data()
            ours.setup("fit")
            tokens = ours.splits["train"]
            batches = len(ours.train_dataloader())
            windows = TokenWindows(tokens, length)
            paths: Paths = {
                "ours": ours.train_dataloader,
                "nanoGPT's get_batch": partial(
                    nanogpt_batches, Path(tokens.filename), rows, length, batches
                ),
                "Dataset in a DataLoader": partial(
                    DataLoader, windows, batch_size=rows, shuffle=True
                ),
            }
            pairs = {f"ours / {name}": ("ours", name) for name in list(paths)[1:]}
            what = f"training data of PythonDocs (bytes, batch {rows} x {length})"
            found.append(compared(what, "tokens", paths, pairs, rounds, seconds))
    return found


def compared(
    what: str,
    unit: str,
    paths: Paths,
    pairs: dict[str, tuple[str, str]],
    rounds: int,
    seconds: float,
) -> Figures:
    measures = {row: partial(rate, path, seconds) for row, path in paths.items()}
    samples = interleaved(rounds, measures)
    return Figures(what, f"{unit} per CPU second", samples, ratios(samples, pairs))


def nanogpt_batches(
    path: Path, rows: int, length: int, count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as nanoGPT's `get_batch` (train.py, 2023) makes them: a new map for each."""
    for _ in range(count):
        tokens = np.memmap(path, dtype=np.uint8, mode="r")
        places = torch.randint(len(tokens) - length, (rows,))
        x = torch.stack(
            [torch.from_numpy((tokens[i : i + length]).astype(np.int64)) for i in places]
        )
        y = torch.stack(
            [torch.from_numpy((tokens[i + 1 : i + 1 + length]).astype(np.int64)) for i in places]
        )
        yield x, y


class TokenWindows(Dataset[tuple[Tensor, Tensor]]):
    """A window of T tokens and the next of each, one at a time."""

    def __init__(self, tokens: NDArray[Any], length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.length
        window = torch.from_numpy(self.tokens[start : start + self.length + 1].astype(np.int64))
        return window[:-1], window[1:]


def rate(batches: Callable[[], Iterable[Any]], seconds: float) -> float:
    """Consume whole passes for `seconds` of CPU time; return targets per second, of all threads."""
    count = 0
    started = time.process_time()
    while (spent := time.process_time() - started) < seconds:
        count += sum(batch[1].numel() for batch in batches())
    return count / spent
