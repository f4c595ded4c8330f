"""Batches of labelled images, kept as one uint8 tensor on the device.

A batch is an index gather, augmented and normalised as tensors: about a hundred times the
images per CPU second of decoding, transforming and collating one by one.

Shape letters: B batch, C channels, H height, W width, K classes.
"""

import hashlib
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from project.checkpoints.hyper_parameters import save_plain_hyperparameters
from project.data.augment import Augmentation, uniform_draws
from project.data.download import data_root
from project.data.image_sets import (
    ImageSet,
    LabelledImages,
    stratified_folds,
    stratified_sample,
    take_split,
)
from project.data.loader import IGNORED, PADDING, SeededLoader, derived_seed, train_position

ImageBatch = tuple[Tensor, Tensor]


class ImageData(LightningDataModule):
    """Train, validation and test batches of any `ImageSet`.

    A batch is `(images, labels)`: images float32 (B, C, H, W) with mean 0 and standard
    deviation 1 per channel over the training split, labels int64 (B,) in [0, K); a label of
    -100 fills up the last batches of an evaluation on several processes and is not counted.

    The test split is the official one. The validation split is cut from the training images,
    stratified, by a seed of its own, so the run's seed does not move images between them.

    Args:
        dataset: Which images.
        batch_size: Training images of a batch, on each process.
        eval_batch_size: Validation and test images of a batch, on each process.
        augment: Random changes of the training images, drawn per sample; null for none.
        val_fraction: Share of each class of the training images that is held out, in (0, 1).
        split_seed: Chooses the validation images.
        num_folds: Cut the training images into this many parts, each of which is the validation
            split of one `fold`, in place of `val_fraction` (k-fold cross-validation).
        fold: Which of them, in [0, num_folds).
        seed: Of the order and the augmentation; by default the seed given to `seed_everything`.
        root: Folder of the data files; by default the variable DATA_DIR, else `data`.
        num_workers: Processes that make training batches on the CPU, ahead of time; 0 makes them
            in the training process, on its device. The batches are the same.

    Attributes:
        in_channels, image_size, num_classes: What a network must be built for; after `setup`.
        mean, std: Of the training pixels in [0, 255], float32 (C,); after `setup`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        dataset: ImageSet,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        augment: Augmentation | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        num_folds: int | None = None,
        fold: int = 0,
        seed: int | None = None,
        root: str | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction {val_fraction} must lie between 0 and 1")
        if num_folds is not None and not 0 <= fold < max(num_folds, 2) == num_folds:
            raise ValueError(
                f"fold {fold} of num_folds {num_folds}: there must be at least 2 folds, and fold "
                "counts them from 0"
            )
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        save_plain_hyperparameters(self)
        self.dataset = dataset
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.augment = augment
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.num_folds = num_folds
        self.fold = fold
        self.seed = torch.initial_seed() if seed is None else seed
        self.root = data_root(root)
        self.num_workers = num_workers
        self.splits: dict[str, LabelledImages] = {}

    def prepare_data(self) -> None:  # on one process
        self.dataset.download(self.root)

    def setup(self, stage: str | None = None) -> None:  # on every process
        if self.splits:
            return
        everything, test = self.dataset.load(self.root)
        self.class_names = self.dataset.class_names
        self.check_labels("training", everything.labels, fewest=self.num_folds or 2)
        self.check_labels("test", test.labels, fewest=1)
        val_indices = self.validation_images(everything.labels)
        train, val = take_split(everything.images, everything.labels, val_indices)
        self.splits = {"train": train, "val": val, "test": test}
        self.hashes = {name: content_hash(split) for name, split in self.splits.items()}
        self.hashes["val_indices"] = hashlib.sha256(val_indices.numpy().tobytes()).hexdigest()

        self.num_classes = len(self.class_names)
        self.in_channels, self.image_size = train.images.shape[1:3]
        if not hasattr(self, "mean"):  # else a checkpoint has brought those of its images
            self.mean, self.std = pixel_statistics(train.images)

    def check_labels(self, split: str, labels: Tensor, fewest: int) -> None:
        first, last = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if not 0 <= first <= last < len(self.class_names):
            raise ValueError(
                f"labels of {type(self.dataset).__name__} run from {first} to {last}, and it has "
                f"{len(self.class_names)} class_names; a label is the place of its class there, "
                "from 0"
            )
        counts = torch.bincount(labels, minlength=len(self.class_names)).tolist()
        for name, count in zip(self.class_names, counts, strict=True):
            if count < fewest:
                raise ValueError(
                    f"class {name!r} of {type(self.dataset).__name__} has {count} {split} "
                    f"images where at least {fewest} are needed; add images or drop the class"
                )

    def validation_images(self, labels: Tensor) -> Tensor:
        """Return the sorted indices of the training images that are held out."""
        if self.num_folds is None:
            return stratified_sample(labels, self.val_fraction, self.split_seed)
        folds = stratified_folds(labels, self.num_folds, self.split_seed)
        return (folds == self.fold).nonzero().flatten()

    def train_dataloader(self) -> SeededLoader[ImageBatch]:
        return self.loader("train", self.batch_size, is_training=True)

    def val_dataloader(self) -> SeededLoader[ImageBatch]:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> SeededLoader[ImageBatch]:
        return self.evaluation_loader("test")

    def predict_dataloader(self) -> SeededLoader[ImageBatch]:
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: str) -> SeededLoader[ImageBatch]:
        """Return all of `split` (train, val or test) in order, as it is evaluated."""
        return self.loader(split, self.eval_batch_size, is_training=False)

    def loader(self, split: str, batch_size: int, is_training: bool) -> SeededLoader[ImageBatch]:
        """Return the batches of `split` for this process; to train, shuffled and augmented."""
        data = self.splits[split]
        num_workers = self.num_workers if is_training else 0
        rank, world_size = 0, 1
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            # A forked process cannot use the GPU of this one.
            device = torch.device("cpu") if num_workers else self.trainer.strategy.root_device
            data.images, data.labels = data.images.to(device), data.labels.to(device)
        scale_and_offset = self.scale_and_offset.to(data.images.device)
        augment = self.augment if is_training else None
        augment_seed = derived_seed("augment", self.seed)

        def make_batch(indices: Tensor, epoch: int) -> ImageBatch:
            samples = indices.to(data.images.device, non_blocking=True)  # (B,)
            # Training has no PADDING; in its place any image will do.
            present = samples if is_training else samples.clamp(min=0)
            images = data.images.index_select(0, present).float()  # (B, C, H, W) in [0, 255]
            labels = data.labels.index_select(0, present)  # (B,)
            if augment is not None:
                images = augment(images, uniform_draws(augment_seed, epoch, samples))
            if not is_training:
                labels.masked_fill_(samples == PADDING, IGNORED)
            return normalise_(images, scale_and_offset), labels

        return SeededLoader(
            len(data.labels),
            batch_size,
            make_batch,
            seed=self.seed,
            shuffle=is_training,
            rank=rank,
            world_size=world_size,
            position=partial(train_position, self.trainer if is_training else None),
            num_workers=num_workers,
        )

    @property
    def scale_and_offset(self) -> Tensor:
        """Return what `normalise_` takes, float32 (2, C, 1, 1)."""
        return normalisation(self.mean, self.std)

    def describe(self) -> dict[str, Any]:
        """Return what a run's record holds: the set, its sizes, and SHA-256 of each split."""
        return {
            "dataset": type(self.dataset).__name__,
            "images": {name: len(split.labels) for name, split in self.splits.items()},
            "classes": list(self.class_names),
            "image_size": self.image_size,
            "in_channels": self.in_channels,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "sha256": self.hashes,
        }

    def summary(self) -> str:
        """Return the set and the size of each split, for a person."""
        sizes = ", ".join(f"{len(split.labels):,} {name}" for name, split in self.splits.items())
        return f"{type(self.dataset).__name__}: {sizes} images"

    def state_dict(self) -> dict[str, Any]:
        """Return what prediction needs of the training data; goes into every checkpoint."""
        return self.describe()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Normalise as the training images of a checkpoint were, whatever images are open."""
        self.mean, self.std = torch.tensor(state_dict["mean"]), torch.tensor(state_dict["std"])


def normalisation(mean: Tensor, std: Tensor) -> Tensor:
    """Return float32 (2, C, 1, 1) by which pixels get mean 0 and deviation 1; both are (C,)."""
    return torch.stack([1 / std, -mean / std])[:, :, None, None]


def normalise_(images: Tensor, scale_and_offset: Tensor) -> Tensor:
    """Shift and scale float images (B, C, H, W) from [0, 255], in place; return them.

    Args:
        scale_and_offset: Float (2, C, 1, 1).
    """
    # In place, as two passes over a batch in the cache: a quarter of the time of copies.
    scale, offset = scale_and_offset
    return images.mul_(scale).add_(offset)


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, float32 (C,), exactly, by counting.

    Args:
        images: uint8 (N, C, H, W).
    """
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        share = counts / counts.sum()
        mean = (share * values).sum()
        means.append(mean)
        stds.append((share * (values - mean) ** 2).sum().sqrt())
    # A channel that never changes is left at 0 instead of being divided by 0.
    return torch.stack(means).float(), torch.stack(stds).clamp(min=1.0).float()


def content_hash(split: LabelledImages) -> str:
    """Return the SHA-256 of the images and labels of a split, in order."""
    digest = hashlib.sha256(split.images.numpy().tobytes())
    digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()
