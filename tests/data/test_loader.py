"""Which samples a batch holds: decided by coordinates, shared exactly between processes."""

import random
import signal

import numpy as np
import pytest
import torch
from conftest import posix
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from project.data.loader import PADDING, SeededLoader, seeded_samples


def indices(loader: SeededLoader[torch.Tensor]) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


def loader(num_samples: int, batch_size: int, epoch: int = 0, **options) -> SeededLoader:
    options.setdefault("position", lambda: (epoch, 0))
    return SeededLoader(num_samples, batch_size, lambda batch, epoch: batch, **options)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    first = indices(loader(50, 8, shuffle=True, seed=1))
    assert first == indices(loader(50, 8, shuffle=True, seed=1))
    assert first != indices(loader(50, 8, shuffle=True, seed=2))
    assert first != indices(loader(50, 8, epoch=1, shuffle=True, seed=1))


@settings(deadline=None)
@given(num_samples=st.integers(4, 200), batch_size=st.integers(1, 40), world=st.integers(1, 4))
def test_evaluation_counts_every_sample_once(num_samples, batch_size, world) -> None:
    ranks = [loader(num_samples, batch_size, rank=rank, world_size=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    batches = [indices(rank) for rank in ranks]
    assert all(len(b) == len(ranks[0]) for b in batches)
    seen = [i for rank in batches for batch in rank for i in batch if i != PADDING]
    assert sorted(seen) == list(range(num_samples))


@settings(deadline=None)
@given(num_samples=st.integers(4, 200), batch_size=st.integers(1, 40), world=st.integers(1, 4))
def test_training_repeats_nothing_and_has_equal_batches(num_samples, batch_size, world) -> None:
    ranks = [
        loader(num_samples, batch_size, rank=rank, world_size=world, shuffle=True)
        for rank in range(world)
    ]
    batches = [indices(rank) for rank in ranks]
    seen = [i for rank in batches for batch in rank for i in batch]
    assert len(seen) == len(set(seen))
    assert len({len(batch) for rank in batches for batch in rank}) == 1
    assert all(len(rank) == len(ranks[0]) for rank in batches)


@pytest.mark.parametrize("world", [2, 4])
def test_global_batch_is_the_same_for_every_number_of_processes(world) -> None:
    alone = indices(loader(64, 16, shuffle=True))
    shared = [
        indices(loader(64, 16 // world, shuffle=True, rank=rank, world_size=world))
        for rank in range(world)
    ]
    for k, batch in enumerate(alone):
        assert sorted(i for rank in shared for i in rank[k]) == sorted(batch)


def test_starts_where_the_position_says_and_asks_only_when_used() -> None:
    position = [0, 0]
    started = iter(loader(40, 8, shuffle=True, position=lambda: tuple(position)))
    position[:] = [3, 2]  # restored after iter(), as Lightning does on a resume
    assert [b.tolist() for b in started] == indices(loader(40, 8, epoch=3, shuffle=True))[2:]


def test_fewer_samples_than_a_batch_make_one_batch() -> None:
    assert [len(b) for b in indices(loader(5, 8, shuffle=True))] == [5]


def test_fewer_samples_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 training samples .* 4 processes"):
        loader(3, 8, shuffle=True, world_size=4)


@posix
def test_workers_make_the_same_batches_in_every_epoch_and_from_every_place() -> None:
    place = [0, 0]
    options = {"shuffle": True, "seed": 3, "position": lambda: tuple(place)}
    here, elsewhere = loader(40, 6, **options), loader(40, 6, num_workers=2, **options)
    for place[:] in ([0, 0], [1, 0], [1, 4], [2, 5]):
        assert indices(here) == indices(elsewhere)
        assert len(indices(here)) == len(here) - place[1]


def test_fewer_than_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="num_workers -1 must be 0 or more"):
        loader(40, 6, num_workers=-1)


class Drawn(Dataset):
    """A sample is its index, and a number of each generator."""

    def __getitem__(self, index: int) -> list[float]:
        return [index, random.random(), np.random.rand(), torch.rand(()).item()]


class Deaf(Dataset):
    """A sample is whether its process ignores SIGTERM."""

    def __getitem__(self, index: int) -> bool:
        return signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


@posix
def test_a_signal_to_all_processes_of_a_run_leaves_its_workers() -> None:
    made = SeededLoader(4, 2, seeded_samples(Deaf(), seed=0), num_workers=1)
    assert all(batch.all() for batch in made)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=posix)])
def test_samples_draw_by_their_coordinates(num_workers) -> None:
    def batches(batch_size: int, epoch: int, first: int = 0) -> list[list[float]]:
        made = SeededLoader(
            24, batch_size, seeded_samples(Drawn(), seed=1), shuffle=True, seed=5,
            position=lambda: (epoch, first), num_workers=num_workers,
        )  # fmt: skip
        return [row for batch in made for row in torch.stack(batch, dim=1).tolist()]

    whole = batches(4, epoch=0)
    assert batches(8, epoch=0) == whole  # whatever the batch
    assert batches(4, epoch=0, first=3) == whole[12:]  # and where it goes on
    by_sample = {row[0]: row[1:] for row in whole}
    other = {row[0]: row[1:] for row in batches(4, epoch=1)}
    assert by_sample.keys() == other.keys()
    assert all(by_sample[sample] != other[sample] for sample in other)
    assert len({tuple(draws) for draws in by_sample.values()}) == 24
