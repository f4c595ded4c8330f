"""Measurements of speed: ours and the usual way in turn, in one process where that is fair."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader

from project.data.augment import Augmentation
from project.data.image_sets import ImageSet, LabelledImages
from project.data.images import ImageData
from project.models.mlp import MLP
from project.tasks.image_classification import ImageClassification
from project.training.checkpoint_file import DurableCheckpointIO
from project.training.command import quieten_lightning
from project.training.interruption import FiniteLoss, StopRequest
from project.training.progress import progress_display
from project.training.resume_point import ResumePoint, StepSeed
from project.training.run_files import MetricsFile

ROUNDS = 5
STEPS = 150
WARMUP_STEPS = 20


class RandomImages(ImageSet):
    """Images of MNIST's size whose content does not matter for the time they take."""

    class_names = tuple("0123456789")

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (60_000, 1, 28, 28), generator=generator)
        train = LabelledImages(images.to(torch.uint8), torch.arange(60_000) % 10)
        return train, LabelledImages(train.images[:1000], train.labels[:1000])


def images_per_cpu_second(batches: Callable[[], Any]) -> float:
    """Consume one pass of `batches` and return images per second of CPU time, of all threads."""
    started = time.process_time()
    count = sum(len(labels) for _, labels in batches())
    return count / (time.process_time() - started)


def data() -> str:
    """Time the training data path against torchvision's, normalised, on one thread."""
    from torchvision import datasets, transforms

    ours = ImageData(RandomImages(), seed=0)
    ours.setup("fit")
    affine = Augmentation(rotate_degrees=15, scale=0.15, shear_degrees=10, translate_pixels=2)
    augmented = ImageData(RandomImages(), seed=0, augment=affine)
    augmented.splits = ours.splits
    augmented.mean, augmented.std = ours.mean, ours.std

    def theirs(*first: Any) -> DataLoader[Any]:
        # The real class and its real __getitem__, without the files behind it.
        dataset = object.__new__(datasets.MNIST)
        train = ours.splits["train"]
        dataset.data, dataset.targets = train.images[:5000, 0], train.labels[:5000]
        normalise = [transforms.ToTensor(), transforms.Normalize(0.1307, 0.3081)]
        dataset.transform = transforms.Compose([*first, *normalise])
        dataset.target_transform = None
        return DataLoader(dataset, batch_size=128, shuffle=True)

    turned = transforms.RandomAffine(
        15, (0.07, 0.07), (0.85, 1.15), 10, interpolation=Image.Resampling.BILINEAR
    )
    paths: dict[str, Callable[[], Any]] = {
        "torchvision, ToTensor and Normalize": theirs,
        "ours, normalised": ours.train_dataloader,
        "torchvision with RandomAffine": partial(theirs, turned),
        "ours, affine per sample": augmented.train_dataloader,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    speeds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(3):
        for name, batches in paths.items():
            speeds[name].append(images_per_cpu_second(batches))
    torch.set_num_threads(threads)
    return table(
        "training data, 28 x 28, batch 128: images per CPU second",
        speeds,
        [(1, 0), (3, 2)],
        "{:>12,.0f}",
    )


class StepTimer(Callback):
    """Times the steps after the warm-up."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == WARMUP_STEPS:
            self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == STEPS - 1:
            self.seconds = time.perf_counter() - self.started


def trainer() -> str:
    """Time a step of the network of `mnist_mlp` at batch 256 in a plain loop and in a Trainer."""
    quieten_lightning()
    times: dict[str, list[float]] = {"plain loop": [], "Trainer": []}
    for _ in range(ROUNDS):
        times["plain loop"].append(plain_loop_step())
        times["Trainer"].append(trainer_step())
    return table(
        "one step of the MLP (933,898 parameters, batch 256, float32): milliseconds",
        times,
        [(1, 0)],
        "{:>12.3f}",
        scale=1000,
    )


def mlp_and_data() -> tuple[MLP, ImageData]:
    torch.manual_seed(0)
    batches = ImageData(RandomImages(), batch_size=256, augment=Augmentation(shift_pixels=1))
    return MLP(width=512, depth=3), batches


def plain_loop_step() -> float:
    network, batches = mlp_and_data()
    batches.setup("fit")
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
    started = 0.0
    for step, (images, labels) in enumerate(batches.train_dataloader()):
        if step == WARMUP_STEPS:
            started = time.perf_counter()
        if step == STEPS:
            break
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - started) / (STEPS - WARMUP_STEPS)


def trainer_step() -> float:
    network, batches = mlp_and_data()
    optimizer = partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.05, fused=True)
    timer = StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        point = ResumePoint(Path(folder), 5.0, "", StopRequest())
        Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=STEPS,
            limit_val_batches=0,
            logger=[MetricsFile(Path(folder)), TensorBoardLogger(folder)],
            callbacks=[point, StepSeed(0), FiniteLoss(point.kept), timer, progress_display()],
            plugins=[DurableCheckpointIO()],
            enable_checkpointing=False,
            enable_model_summary=False,
        ).fit(ImageClassification(network, optimizer), batches)
    return timer.seconds / (STEPS - WARMUP_STEPS)


def startup() -> str:
    """Time the default run up to its first training step, and a bare import of Lightning."""
    first_step = (
        "import os, sys, tempfile; import project.train as train\n"
        "from project.tasks.image_classification import ImageClassification as Task\n"
        "Task.training_step = lambda *batch: os._exit(0)\n"
        "train.main(['--runs_dir', sys.argv[1]])"
    )
    commands = {
        "import lightning.pytorch": [sys.executable, "-c", "import lightning.pytorch"],
        "to the first training step": [sys.executable, "-c", first_step],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(3):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                subprocess.run([*command, folder], capture_output=True, check=True)
                times[name].append(time.perf_counter() - started)
    rows = table("start-up: seconds", times, [], "{:>12.2f}")
    over = median(times["to the first training step"]) - median(times["import lightning.pytorch"])
    return f"{rows}\n  over the import: {over:.2f} s"


def table(
    title: str,
    samples: dict[str, list[float]],
    ratios: list[tuple[int, int]],
    form: str,
    scale: float = 1,
) -> str:
    """Return median, minimum and maximum of each row, then ratios of medians of row pairs."""
    names = list(samples)
    lines = [title, f"  {'':<36}{'median':>12}{'min':>12}{'max':>12}"]
    for name, values in samples.items():
        figures = (median(values), min(values), max(values))
        lines.append(f"  {name:<36}" + "".join(form.format(scale * f) for f in figures))
    for top, bottom in ratios:
        ratio = median(samples[names[top]]) / median(samples[names[bottom]])
        lines.append(f"  {names[top]} / {names[bottom]}: {ratio:.2f}")
    return "\n".join(lines)
