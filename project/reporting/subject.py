"""What a report is about: a trained model with its data, opened from its checkpoint alone.

Shape letters: B batch, C channels, H height, W width, K classes, T time, V vocabulary,
N examples of a split.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from project.checkpoints.checkpoint_file import is_address, is_folder, read, sha256_of
from project.data.images import ImageData
from project.data.loader import IGNORED, derived_seed
from project.data.text import TextData, TokenBatch, take_windows
from project.messages import UsageError
from project.reporting.progress import Progress
from project.tasks.language_modeling import token_losses
from project.tasks.sizes import is_classifier

Item = TypeVar("Item")
BATCH = 500  # images that are classified at once


@dataclass
class Subject:
    """One model, its data and its run.

    Attributes:
        run: The run directory; None for a checkpoint that lies elsewhere.
        content: Of the checkpoint file.
        record: Of `run.json`; empty without a run.
        task, network, data: As they were trained, in evaluation mode, on `device`, float32.
        n: Examples of what is costly, such as attacks.
        seed: Of all that is drawn.
        notes: What a reader must know about the data.
        images, text: One of them, with the data open.
        closed: Why the data could not be opened; empty when they are.
    """

    run: Path | None
    checkpoint: Path
    content: dict[str, Any]
    record: dict[str, Any]
    task: Any
    network: nn.Module
    data: Any
    device: torch.device
    n: int = 1000
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    closed: str = ""
    images: "Images | None" = None
    text: "Text | None" = None
    progress: Progress = field(default_factory=Progress)

    @property
    def kind(self) -> str:
        """Return `images`, `text`, or `other` for data or a task that are neither."""
        if isinstance(self.data, ImageData):
            classes = self.content.get("ImageData", {}).get("classes")
            return "images" if is_classifier(self.network, classes) else "other"
        has_read = self.task is None or hasattr(self.task, "read")
        return "text" if isinstance(self.data, TextData) and has_read else "other"

    @cached_property
    def checkpoint_sha256(self) -> str:
        """Return the hash of the checkpoint file, which may be large: read once."""
        return sha256_of(self.checkpoint)

    def track(self, items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
        """Yield `items` while a bar shows how far it is."""
        return self.progress.track(items, what, total)

    def generator(self, name: str, *numbers: int) -> torch.Generator:
        """Return a generator on the CPU whose draws are a function of (seed, name, numbers)."""
        return torch.Generator().manual_seed(derived_seed(f"report {name}", self.seed, *numbers))


class Classifier(nn.Module):
    """A network with its normalisation inside: pixels in [0, 1] to logits, both float32.

    So an attack, a corruption or an attribution is stated in pixels, whatever the network was
    trained on. Its parameters ask for no gradient; a gradient reaches the pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        """Take a network and the statistics of its training pixels in [0, 255], (C,)."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean[:, None, None].float() / 255)
        self.register_buffer("std", std[:, None, None].float() / 255)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, K) for pixels (B, C, H, W) in [0, 1]."""
        return self.network((pixels - self.mean) / self.std).float()


class Images:
    """A classifier and the images that it is asked about.

    Attributes:
        classifier: Frozen, in evaluation mode.
        class_names: Of the logits, (K,).
        splits: Names of those there are: `train`, `val`, `test`.
    """

    def __init__(self, network: nn.Module, data: ImageData, device: torch.device) -> None:
        assert data.mean is not None
        self.data, self.device = data, device
        self.classifier = Classifier(network, data.mean, data.std).eval().to(device)
        self.classifier.requires_grad_(False)
        self.class_names = list(data.class_names)
        self.splits = list(data.splits)
        self.known_logits: dict[str, Tensor] = {}

    def count(self, split: str) -> int:
        return len(self.data.splits[split].labels)

    def labels(self, split: str, indices: Tensor | None = None) -> Tensor:
        """Return labels int64 (N,) on the CPU, or those at `indices`."""
        labels = self.data.splits[split].labels.cpu()
        return labels if indices is None else labels[indices]

    def pixels(self, split: str, indices: Tensor | None = None) -> Tensor:
        """Return images float32 (N, C, H, W) in [0, 1] on the device, or those at `indices`."""
        images = self.data.splits[split].images
        chosen = images if indices is None else images[indices.to(images.device)]
        return chosen.to(self.device).float() / 255

    def sample(self, split: str, n: int, generator: torch.Generator) -> Tensor:
        """Return the sorted indices of `n` images drawn without repetition; of all where fewer.

        Not the first n: MNIST's first 5,000 test images are easier than the others.
        """
        return torch.randperm(self.count(split), generator=generator)[:n].sort().values

    @torch.no_grad()
    def classify(self, pixels: Tensor) -> Tensor:
        """Return logits (N, K) on the CPU for pixels (N, C, H, W) in [0, 1]."""
        parts = [self.classifier(part.to(self.device)).cpu() for part in pixels.split(BATCH)]
        return torch.cat(parts)

    def logits(self, split: str) -> Tensor:
        """Return the logits of all images of a split, (N, K) on the CPU, computed once."""
        if split not in self.known_logits:
            indices = torch.arange(self.count(split)).split(BATCH)
            parts = [self.classify(self.pixels(split, part)) for part in indices]
            self.known_logits[split] = torch.cat(parts)
        return self.known_logits[split]

    @property
    def measured_split(self) -> str:
        """Return `test`, or `val` where the data have no test split."""
        return "test" if "test" in self.splits else "val"


class Text:
    """A language model and the text that it is asked about.

    Attributes:
        splits: Names of those there are.
    """

    def __init__(self, task: Any, data: TextData, device: torch.device) -> None:
        self.task, self.network, self.data, self.device = task, task.network, data, device
        self.network.requires_grad_(False)
        self.tokenizer = data.tokenizer
        self.splits = list(data.splits)
        self.context_length = data.context_length
        self.known_losses: dict[str, Tensor] = {}

    def tokens(self, split: str) -> Any:
        """Return the tokens of a split, unsigned (N,), mapped from the disk."""
        return self.data.splits[split]

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return the text of each token."""
        return [self.tokenizer.decode([int(token)]) for token in tokens]

    def windows(
        self,
        split: str,
        n: int,
        generator: torch.Generator,
        length: int | None = None,
        apart: int | None = None,
    ) -> TokenBatch:
        """Return `n` windows in a random order, or all there are.

        Args:
            length: Tokens of a window, of which the split may have fewer; the context by default.
            apart: Tokens between two beginnings, at least. By default windows do not overlap, so
                that an interval may take them for independent.
        """
        tokens = self.tokens(split)
        length = min(length or self.context_length, len(tokens) - 1)
        starts = separate_starts(len(tokens) - length, n, apart or length, generator)
        counted = np.full(len(starts), length)
        return take_windows(tokens, starts, counted, length, continues=False)

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits float32 (B, T, V) on the CPU for tokens int64 (B, T), from nothing read."""
        return self.network(inputs.to(self.device)).float().cpu()

    @torch.no_grad()
    def losses_of(self, batch: TokenBatch, rows: int = 64) -> Tensor:
        """Return the loss of each target of windows, nats float32 (B, T) on the CPU."""
        parts = [
            token_losses(self.network(inputs.to(self.device)), targets.to(self.device)).cpu()
            for inputs, targets in zip(
                batch.inputs.split(rows), batch.targets.split(rows), strict=True
            )
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def readings(self, split: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield logits, targets and their places for all of a split, as in its test.

        Read in the order of the text, recurrent networks with their state. Logits (n, V) and
        targets int64 (n,) are on the device; places int64 (n,), on the CPU, count from the second
        token of the split, each once.
        """
        state: Any = None
        for batch in self.data.evaluation_loader(split):
            counted = batch.targets != IGNORED  # (B, T)
            assert batch.starts is not None
            places = batch.starts[:, None] + torch.arange(counted.shape[1])
            batch = batch._replace(
                inputs=batch.inputs.to(self.device), targets=batch.targets.to(self.device)
            )
            logits, state = self.task.read(batch, state if batch.continues else None)
            logits, targets = logits.flatten(0, 1), batch.targets.flatten()
            if not counted.all():  # else a copy of all logits
                logits, targets = logits[targets != IGNORED], targets[targets != IGNORED]
            yield logits, targets, places[counted]

    def losses(self, split: str) -> Tensor:
        """Return the loss of each token of a split after its first, nats (N - 1,), as in its test.

        Computed once.
        """
        if split not in self.known_losses:
            losses = torch.zeros(len(self.tokens(split)) - 1)
            for logits, targets, places in self.readings(split):
                losses[places] = token_losses(logits[None], targets[None])[0].cpu()
            self.known_losses[split] = losses
        return self.known_losses[split]

    def windows_read(self, split: str) -> tuple[Tensor, Tensor]:
        """Return of each token after the first: the number of its window, what was read before.

        Both int64 (N - 1,), of the windows of a test. What was read is the number of tokens, the
        one just before included, since the network began from nothing.
        """
        keeps_state = hasattr(self.network, "extend") and not hasattr(
            self.network, "context_length"
        )
        numbers = torch.zeros(len(self.tokens(split)) - 1, dtype=torch.int64)
        read, count, before = numbers.clone(), 0, 0
        for batch in self.data.evaluation_loader(split):
            counted = batch.targets != IGNORED
            assert batch.starts is not None
            rows, length = counted.shape
            places = (batch.starts[:, None] + torch.arange(length))[counted]
            before = before + length if batch.continues and keeps_state else 0
            numbers[places] = (count + torch.arange(rows)[:, None]).expand(rows, length)[counted]
            read[places] = (before + 1 + torch.arange(length)).expand(rows, length)[counted]
            count += rows
        return numbers, read

    @cached_property
    def byte_counts(self) -> Tensor:
        """Return the bytes that each token stands for, int64 (V,)."""
        return torch.tensor(self.tokenizer.byte_counts())

    @property
    def measured_split(self) -> str:
        """Return `test`, or `val` where the data have no test split."""
        return "test" if "test" in self.splits else "val"


def separate_starts(
    places: int, n: int, apart: int, generator: torch.Generator
) -> NDArray[np.int64]:
    """Return `n` of the numbers from 0 to `places` - 1, any two at least `apart` from another.

    In a random order; as many as there are where these are fewer.
    """
    slots = (places - 1) // apart + 1
    spare = places - 1 - (slots - 1) * apart
    offset = torch.randint(spare + 1, (1,), generator=generator)
    return (offset + apart * torch.randperm(slots, generator=generator)[:n]).numpy()


@contextmanager
def gradients() -> Iterator[None]:
    """Allow gradients through recurrent networks in evaluation mode, which cuDNN refuses."""
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


def open_subject(
    run: str,
    changes: list[str],
    device: str,
    allowed: list[str],
    *,
    n: int = 1000,
    seed: int = 0,
) -> Subject:
    """Return the model in a run's best checkpoint, or in a checkpoint, with its data.

    Args:
        changes: Of the data, as `--data.KEY VALUE`.
        allowed: Packages whose classes the checkpoint may name, besides ours.

    Raises:
        UsageError: If there is no checkpoint, or it cannot be built.
    """
    from project.checkpoints.loading import checkpoint_of, on_device, rebuild
    from project.inference.evaluation import use_other_data

    path = checkpoint_of(run)
    if is_address(run) or is_folder(path):
        raise UsageError(
            f"a report is of a checkpoint file on this machine, and {run!r} is an address or a "
            "folder of slices; copy it here, or use python -m project.export RUN --consolidate"
        )
    path = Path(path)
    content = read(path)
    notes = use_other_data(content, changes, allowed)
    task, data = rebuild(content, allowed)
    device = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    task = on_device(task, device).float()
    directory = next((p for p in path.parents[:2] if (p / "run.json").is_file()), None)
    record = {} if directory is None else json.loads((directory / "run.json").read_text("utf-8"))
    network = getattr(task, "network", task)
    subject = Subject(
        directory, path, content, record, task, network, data, torch.device(device), n, seed, notes
    )
    try:
        if subject.kind == "images":
            data.prepare_data()
            data.setup("test")
            subject.images = Images(network, data, subject.device)
        elif subject.kind == "text":
            data.prepare_data()
            data.setup("test")
            subject.text = Text(task, data, subject.device)
        else:
            name = "no data module" if data is None else type(data).__name__
            subject.closed = (
                f"the checkpoint holds {type(task).__name__} and {name}, and this report is of "
                "classes of ImageData and of tokens of TextData"
            )
    except (ValueError, OSError) as error:
        subject.closed = f"the data could not be opened: {' '.join(str(error).split())}"
    return subject
