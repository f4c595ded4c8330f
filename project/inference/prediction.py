"""What a trained model says of files: the class of an image, the loss of each token of a text."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from project.checkpoints.checkpoint_file import read
from project.checkpoints.loading import checkpoint_of, on_device, rebuild
from project.data.corpora import Document
from project.data.image_files import read_image
from project.data.images import normalisation, normalise_
from project.data.loader import IGNORED
from project.data.text import Streams, TextData, Windows, take_windows
from project.intervals import mean_interval
from project.messages import UsageError
from project.tasks.language_modeling import token_losses
from project.tasks.sizes import is_classifier

IMAGES_OF_A_BATCH = 256


@dataclass(frozen=True)
class ImageVerdict:
    """What a model says of an image.

    Attributes:
        was: Size and mode of the file, such as `640x480 RGBA`.
        probabilities: Of the classes, (K,).
        looks_inverted: Whether its negative would be as bright as the training images, and it is
            not: dark on light where those were light on dark, or the other way round.
    """

    path: str
    was: str
    probabilities: list[float]
    looks_inverted: bool


@dataclass(frozen=True)
class TextVerdict:
    """What a model says of a text.

    Attributes:
        pieces: Text of each token, (n,).
        losses: Of each token after the first, nats, (n - 1,).
        interval: 95 % interval of their mean over windows, None for a single window.
        num_bytes: That the tokens after the first stand for.
        num_unknown: Characters that the tokenizer does not know; their loss means little.
    """

    path: str
    pieces: list[str]
    losses: list[float]
    interval: tuple[float, float] | None
    num_bytes: int
    num_unknown: int

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)

    @property
    def bits_per_byte(self) -> float | None:
        return sum(self.losses) / math.log(2) / self.num_bytes if self.num_bytes else None


Broken = tuple[str, str]  # a file and what is wrong with it


class ImageModel:
    """An image classifier from its checkpoint alone.

    Attributes:
        class_names: Of the logits, (K,).
        read_as: What images become, such as `28x28 grey`.
    """

    def __init__(self, task: Any, data: dict[str, Any], device: str, invert: bool = False) -> None:
        network = task.network
        self.task, self.device, self.invert = on_device(task, device), device, invert
        self.class_names: list[str] = data["classes"]
        self.image_size: int = data.get("image_size") or network.image_size
        self.in_channels: int = data.get("in_channels") or network.in_channels
        mean, std = torch.tensor(data["mean"]), torch.tensor(data["std"])
        self.scale_and_offset = normalisation(mean, std).to(device)
        colour = "grey" if self.in_channels == 1 else "colour"
        self.read_as = f"{self.image_size}x{self.image_size} {colour}"

    def __call__(self, paths: list[str]) -> Iterator[ImageVerdict | Broken]:
        """Yield a verdict, or (path, reason), for each file, in order."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets go of Python's lock
            for first in range(0, len(paths), IMAGES_OF_A_BATCH):
                chunk = paths[first : first + IMAGES_OF_A_BATCH]
                found = list(pool.map(self.read, chunk))
                images = [pixels for pixels, _ in found if isinstance(pixels, Tensor)]
                said = iter(self.classify(torch.stack(images)) if images else [])
                for path, (pixels, text) in zip(chunk, found, strict=True):
                    if isinstance(pixels, Tensor):
                        yield ImageVerdict(path, text, *next(said))
                    else:
                        yield path, text

    def read(self, path: str) -> tuple[Tensor | None, str]:
        try:
            return read_image(Path(path), self.image_size, self.in_channels)
        except ValueError as error:
            return None, str(error)

    @torch.inference_mode()
    def classify(self, pixels: Tensor) -> list[tuple[list[float], bool]]:
        """Return the probabilities of each class, and whether an image looks inverted.

        Args:
            pixels: uint8 (B, C, H, W).
        """
        if self.invert:
            pixels = 255 - pixels
        images, negatives = (
            normalise_(values.to(self.device).float(), self.scale_and_offset)
            for values in (pixels, 255 - pixels)
        )
        probabilities = self.task(images).float().softmax(dim=1)  # (B, K)
        brightness = images.flatten(1).mean(dim=1).abs()  # 0 for an image like the training's
        inverted = (brightness > 1) & (negatives.flatten(1).mean(dim=1).abs() < brightness / 2)
        return list(zip(probabilities.tolist(), inverted.tolist(), strict=True))


class TextModel:
    """A language model from its checkpoint alone; texts are cut into windows as in its test."""

    def __init__(self, task: Any, data: TextData, device: str, encoding: str = "utf-8") -> None:
        self.task, self.data, self.device = on_device(task, device), data, device
        self.encoding = encoding
        self.byte_counts = np.array(data.tokenizer.byte_counts())

    def __call__(self, paths: list[str]) -> Iterator[TextVerdict | Broken]:
        """Yield a verdict, or (path, reason), for each file, in order."""
        for path in paths:
            try:
                document = Document(path, Path(path))
                tokens, num_unknown = self.data.document_tokens(document, self.encoding)
            except ValueError as error:
                yield path, str(error).replace("--data.corpus.encoding", "--encoding")
                continue
            except OSError as error:
                yield path, f"{path!r} cannot be read: {error.strerror}"
                continue
            losses, windows = self.losses(tokens)
            yield TextVerdict(
                path,
                [self.data.tokenizer.decode([token]) for token in tokens.tolist()],
                losses.tolist(),
                mean_interval(*windows),
                int(self.byte_counts[tokens[1:]].sum()),
                num_unknown,
            )

    @torch.inference_mode()
    def losses(self, tokens: Any) -> tuple[Tensor, tuple[list[float], list[int]]]:
        """Return the loss of each token after the first, (n - 1,), and (sums, counts) of windows.

        Args:
            tokens: Unsigned (n,).
        """
        streams, length = self.data.streams, self.data.context_length
        rows = 1 if streams else self.data.eval_batch_size
        layout = (
            Streams(len(tokens), length, rows, whole=False)
            if streams
            else Windows(len(tokens), length, whole=False)
        )
        state: Any = None
        losses, sums, counts = [], [], []
        for first in range(0, layout.num_windows, rows):
            indices = np.arange(first, min(first + rows, layout.num_windows))
            windows = take_windows(tokens, *layout.place(indices, 0), length, streams and first > 0)
            windows = windows._replace(
                inputs=windows.inputs.to(self.device), targets=windows.targets.to(self.device)
            )
            logits, state = self.task.read(windows, state if windows.continues else None)
            counted = windows.targets != IGNORED  # (B, T)
            here = token_losses(logits, windows.targets)
            losses.append(here[counted].cpu())
            sums += here.sum(dim=1).tolist()
            counts += counted.sum(dim=1).tolist()
        return torch.cat(losses), (sums, counts)


def model_of(
    run: str, device: str, allowed: list[str], *, invert: bool = False, encoding: str = "utf-8"
) -> ImageModel | TextModel:
    """Return the model in the checkpoint of a run.

    Raises:
        UsageError: If there is none, or it does not say what its inputs mean.
    """
    path = checkpoint_of(run)
    content = read(path)
    task, data = rebuild(content, allowed)
    kept = content.get(type(data).__qualname__, {})
    if isinstance(data, TextData) and hasattr(task, "read"):
        return TextModel(task, data, device, encoding)
    if (
        "classes" in kept
        and hasattr(task, "network")
        and is_classifier(task.network, kept["classes"])
    ):
        return ImageModel(task, kept, device, invert)
    raise UsageError(
        f"{type(task).__name__} in {str(path)!r} gives neither classes of ImageData nor losses of "
        "TextData, so what it says of a file is not known; load it in Python with "
        f"{type(task).__name__}.load_from_checkpoint"
    )
