"""Batches as a function of coordinates: batch k is decided by (seed, epoch, k), not by a state.

Shape letters: B batch of one process, W number of processes.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor

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
    ) -> None:
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

    def __len__(self) -> int:
        if self.shuffle:
            return max(1, self.num_samples // (self.batch_size * self.world_size))
        return -(-self.num_samples // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        epoch, first_batch = self.position()
        order = self.order(epoch)  # of this process
        for k in range(first_batch, len(self)):
            yield self.make_batch(order[k * self.batch_size : (k + 1) * self.batch_size], epoch)

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


def train_position(trainer: Trainer | None) -> tuple[int, int]:
    """Return (epoch, next batch), read from the counters that a resumed Trainer restored."""
    if trainer is None or trainer.overfit_batches:  # type: ignore[attr-defined]
        return 0, 0  # the same batches in every epoch
    fit_loop = trainer.fit_loop
    return (
        fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
        fit_loop.epoch_loop.batch_progress.current.ready,
    )


def derived_seed(purpose: str, *coordinates: int) -> int:
    """Return 63 bits that depend on all arguments, the same on every machine and version."""
    digest = hashlib.blake2b(repr((purpose, coordinates)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
