"""Batches as a function of coordinates: batch k is decided by (seed, epoch, k), not by a state.

Shape letters: B batch of one process, W number of processes.
"""

import hashlib
import multiprocessing
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

Batch = TypeVar("Batch")
PADDING = -1  # index of a sample that only fills up a batch
IGNORED = -100  # its label: torch's default `ignore_index`


class SeededLoader(Generic[Batch]):
    """Yields the batches of one epoch for one process, and passes through Lightning untouched.

    Training (`shuffle`): a permutation given by (seed, epoch). Global batch k holds the same
    samples for every number of processes that divides it; process r takes every W-th of them.
    The samples left over after the last full batch wait for the next epoch's order, so that
    every batch has the same size.

    Evaluation: every sample once, in order, padded with `PADDING` so that each process has the
    same number of batches; a padded sample must not be counted.

    Args:
        num_samples: Samples of the split, over all processes.
        batch_size: B, of each process.
        make_batch: Turns (indices int64 (B,), epoch) into a batch.
        seed: Of the order; used when `shuffle` is set.
        shuffle: Train when set, evaluate when not.
        rank: Of this process, in [0, W).
        world_size: W.
        position: Returns (epoch, first batch), asked at the first `next()` and not before:
            Lightning calls `iter()` before it has restored or counted its epoch.
        num_workers: Other processes that make the batches, ahead of time; 0 makes them here. The
            batches are the same.

    Raises:
        ValueError: If there are fewer training samples than processes, or no workers to be had.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        make_batch: Callable[[Tensor, int], Batch],
        *,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        num_workers: int = 0,
    ) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers {num_workers} must be 0 or more")
        if num_workers and "fork" not in multiprocessing.get_all_start_methods():
            raise ValueError(
                f"num_workers {num_workers} needs processes that are forked, which this system "
                "does not do; set --data.num_workers 0"
            )
        if shuffle and num_samples < world_size:
            raise ValueError(
                f"{num_samples} training samples cannot be shared by {world_size} processes; "
                "set --trainer.devices to fewer"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.make_batch = make_batch
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.num_workers = num_workers

    def __len__(self) -> int:
        if self.shuffle:
            return max(1, self.num_samples // (self.batch_size * self.world_size))
        return -(-self.num_samples // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        epoch, first_batch = self.position()
        batches = EpochOfBatches(self, epoch)
        places = range(first_batch, len(self))
        if self.num_workers == 0:
            yield from (batches[k] for k in places)
            return
        # Workers of an epoch end with it: those that lasted would end 5 s late each (torch 2.15).
        yield from DataLoader(
            batches,
            sampler=places,
            batch_size=None,
            collate_fn=lambda batch: batch,
            num_workers=self.num_workers,
            multiprocessing_context="fork",
            worker_init_fn=ignore_signals,
        )

    def order(self, epoch: int) -> Tensor:
        """Return the indices that this process visits in `epoch`, int64."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(derived_seed("order", self.seed, epoch))
            order = torch.randperm(self.num_samples, generator=generator)
            order = order[: self.num_samples - self.num_samples % self.world_size]
        else:
            missing = -self.num_samples % self.world_size
            order = torch.cat([torch.arange(self.num_samples), torch.full((missing,), PADDING)])
        return order[self.rank :: self.world_size]


class EpochOfBatches(Dataset[Batch]):
    """The batches of one epoch by their number, as workers ask for them."""

    def __init__(self, loader: SeededLoader[Batch], epoch: int) -> None:
        self.loader = loader
        self.epoch = epoch
        self.order = loader.order(epoch)

    def __getitem__(self, k: int) -> Batch:
        size = self.loader.batch_size
        return self.loader.make_batch(self.order[k * size : (k + 1) * size], self.epoch)


def gather(task: LightningModule, parts: list[Tensor]) -> Tensor:
    """Return what all processes evaluated, in the order of the data, (W n, ...) on the CPU.

    Args:
        parts: Of the batches of this process, each (B, ...), n in all; process r of W visits every
            W-th example (see `SeededLoader`).
    """
    mine = torch.cat(parts)  # (n, ...)
    if task.trainer.world_size == 1:
        return mine.cpu()
    everyone = task.all_gather(mine)  # (W, n, ...)
    assert isinstance(everyone, Tensor)
    return everyone.transpose(0, 1).flatten(0, 1).cpu()


def ignore_signals(worker: int) -> None:
    """Leave what stops a run to its first process: a scheduler signals all of a group."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def seeded_samples(dataset: Dataset[Any], seed: int) -> Callable[[Tensor, int], Any]:
    """Return `make_batch` for a data set of one's own that makes one sample at a time.

    Before each sample the generators of Python, NumPy and torch are seeded by (seed, epoch,
    sample), so random transforms draw the same whatever the batch, the worker, and the resume.

    Args:
        dataset: Map-style: `dataset[i]` is a sample that torch's `default_collate` can batch.
    """

    def make_batch(indices: Tensor, epoch: int) -> Any:
        samples = []
        for index in indices.tolist():
            seed_generators(derived_seed("sample", seed, epoch, index))
            samples.append(dataset[index])
        return default_collate(samples)

    return make_batch


def train_position(trainer: Trainer | None) -> tuple[int, int]:
    """Return (epoch, next batch), read from the counters that a resumed Trainer restored."""
    if trainer is None:
        return 0, 0
    epoch = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        return 0, batch  # the same batches in every epoch
    return epoch, batch


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch in this process, in microseconds."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` takes 100 times as long
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def derived_seed(purpose: str, *coordinates: int) -> int:
    """Return 63 bits that depend on all arguments, the same on every machine and version."""
    digest = hashlib.blake2b(repr((purpose, coordinates)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
