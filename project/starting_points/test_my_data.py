"""What holds of MyData; test_configs.py trains a network on a batch of it."""

import os
from pathlib import Path

import torch

from project.data.images import ImageData
from project.starting_points.my_data import MyData

# Your files are read here, and nothing is written; the class is given it as `root`.
ROOT = Path(os.environ.get("DATA_DIR", Path(__file__).parents[2] / "data"))


def test_images_and_labels_are_what_a_network_expects() -> None:
    for split in MyData().load(ROOT):
        assert split.images.dtype == torch.uint8
        assert split.images.shape == (len(split.labels), 1, 16, 16)
        assert set(split.labels.tolist()) == set(range(len(MyData.class_names)))


def test_every_start_finds_the_same_images_in_the_same_splits() -> None:
    first, second = ImageData(MyData(), root=str(ROOT)), ImageData(MyData(), root=str(ROOT))
    first.setup()
    second.setup()
    assert first.hashes == second.hashes
