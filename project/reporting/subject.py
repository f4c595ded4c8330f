"""What a report is about: a trained model with its data, opened from its checkpoint alone."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from project.checkpoints.checkpoint_file import is_address, is_folder, read, sha256_of
from project.data.images import ImageData
from project.data.loader import derived_seed
from project.data.text import TextData
from project.messages import UsageError
from project.reporting.images.opened import Images
from project.reporting.text.opened import Text
from project.tasks.sizes import is_classifier

Item = TypeVar("Item")


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
    images: Images | None = None
    text: Text | None = None

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
        """Yield `items` while a bar shows how far it is: on a terminal, and on stderr.

        Args:
            total: Of `items`, where they have no length.
        """
        if not sys.stderr.isatty():
            yield from items
            return
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        yield from track(items, f"  {what}", total, console=console, transient=True)

    def generator(self, name: str, *numbers: int) -> torch.Generator:
        """Return a generator on the CPU whose draws are a function of (seed, name, numbers)."""
        return torch.Generator().manual_seed(derived_seed(f"report {name}", self.seed, *numbers))


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
    open_data(subject)
    return subject


def open_data(subject: Subject) -> None:
    """Fill in `images` or `text`, else `closed`."""
    data = subject.data
    if subject.kind == "other":
        name = "no data module" if data is None else type(data).__name__
        subject.closed = (
            f"the checkpoint holds {type(subject.task).__name__} and {name}, and this report is of "
            "classes of ImageData and of tokens of TextData"
        )
        return
    try:
        data.prepare_data()
        data.setup("test")
    except (ValueError, OSError) as error:
        subject.closed = f"the data could not be opened: {' '.join(str(error).split())}"
        return
    if subject.kind == "images":
        subject.images = Images(subject.network, data, subject.device)
    else:
        subject.text = Text(subject.task, data, subject.device)
