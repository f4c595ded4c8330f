"""What is said of images: copies, near copies and doubtful labels are found where they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import image_subject
from torch import Tensor, nn

from project.data.image_sets import ImageSet, LabelledImages, stratified_folds
from project.data.images import ImageData
from project.reporting.findings import Picture, Section, Words
from project.reporting.images import data, neighbours
from project.reporting.images.data import Judged, moved_share, section
from project.reporting.images.label_quality import LabelQuality, from_folds, label_quality
from project.reporting.images.neighbours import Neighbours, class_shares, nearest, same_images
from project.reporting.subject import Subject, open_subject


def noise(count: int, seed: int = 0, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)


class Stripes(ImageSet):
    """Three classes, each with a bright row of its own on faint noise; all images differ."""

    class_names = ("top", "middle", "bottom")

    def __init__(self) -> None:
        self.train, self.test = stripes(240, 1), stripes(90, 2)

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        return self.train, self.test


def stripes(count: int, seed: int) -> LabelledImages:
    labels = torch.arange(count) % 3
    images = noise(count, seed) // 8
    images[torch.arange(count), 0, labels] += 200
    return LabelledImages(images, labels)


class Reader(nn.Module):
    """Reads the class off the rows, whatever the label says."""

    def forward(self, images: Tensor) -> Tensor:
        return 10 * images.mean(dim=(1, 3))[:, :3]


def subject_of(dataset: ImageSet, n: int = 1000, **options) -> Subject:
    data = ImageData(dataset, **options)
    data.setup()
    return image_subject(Reader(), data, n=n)


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Draw no pictures, which takes most of the time."""
    for name in ("class_picture", "grid_picture"):
        monkeypatch.setattr(data, name, lambda *arguments: b"")


def value(found: Section, key: str) -> float:
    measure = found.measure(key)
    assert measure is not None
    assert measure.value is not None
    return measure.value


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("own", [False, True])
def test_nearest_images_are_those_of_brute_force(monkeypatch, k, own) -> None:
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    monkeypatch.setattr(neighbours, "SEARCHED", 11)
    searched = noise(40)
    asked = searched[5:25] if own else noise(20, seed=1)
    distances = torch.cdist(
        asked.flatten(1).double() / 255,
        searched.flatten(1).double() / 255,
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    if own:
        distances[torch.arange(20), torch.arange(5, 25)] = torch.inf
    expected = distances.sort(dim=1)
    found = nearest(asked, searched, k, torch.arange(5, 25) if own else None)
    assert torch.equal(found.indices, expected.indices[:, :k])
    torch.testing.assert_close(found.distances.double(), expected.values[:, :k], atol=1e-5, rtol=0)


def test_a_difference_of_one_grey_value_in_one_pixel_is_measured() -> None:
    searched = 255 - noise(50, size=28) // 4  # bright: the products are large
    asked = searched[17:18].clone()
    asked[0, 0, 3, 3] -= 1
    found = nearest(asked, searched)
    assert found.indices.item() == 17
    assert found.distances.item() == pytest.approx(1 / 255, rel=1e-4)


def test_fewer_neighbours_than_asked_for_and_no_questions() -> None:
    images = noise(3)
    assert nearest(images, images, 10, own=torch.arange(3)).indices.shape == (3, 2)
    assert nearest(images, images, 10).distances.shape == (3, 3)
    assert nearest(images[:0], images, 2).indices.shape == (0, 2)


def test_nearer_neighbours_have_a_larger_vote() -> None:
    found = Neighbours(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 1, 2]]))
    shares = class_shares(found, torch.tensor([2, 0, 0]), 3)
    torch.testing.assert_close(shares, torch.tensor([[0.75, 0, 1.0]]) / 1.75)


def test_equal_images_are_found_in_and_across_splits_and_no_others() -> None:
    train, test = noise(30), noise(20, seed=1)
    assert same_images({"train": train, "test": test}) == []
    train[9] = train[4]
    test[3] = train[4]
    test[7, 0, 1:] = train[5, 0, 1:]  # the first row alone differs
    test[8, 0, :3] = train[6, 0, :3]  # and the last
    groups = same_images({"train": train, "test": test})
    assert groups == [[("train", 4), ("train", 9), ("test", 3)]]


def test_wrong_labels_are_believed_least_and_flagged() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(300) % 3
    logits = 6.0 * torch.eye(3)[truth] + torch.randn(300, 3, generator=generator)
    right = label_quality(truth, logits.softmax(1))
    assert right.flagged == 0
    given = truth.clone()
    given[[10, 100, 200]] = (given[[10, 100, 200]] + 1) % 3
    wrong = label_quality(given, logits.softmax(1))
    assert set(wrong.order[:3].tolist()) == {10, 100, 200}
    assert (wrong.guessed == truth.numpy()).all()
    assert wrong.believed[10] == pytest.approx(logits.softmax(1)[10, given[10]].item())
    given[::10] = (truth[::10] + 1) % 3
    assert 15 <= (label_quality(given, logits.softmax(1)).flagged or 0) <= 30  # it is careful


def test_no_labels_one_class_and_ties() -> None:
    empty = label_quality(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3))
    assert (len(empty.order), empty.flagged) == (0, 0)
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])
    single = label_quality(
        torch.zeros(3, dtype=torch.int64), probabilities, torch.tensor([1, 2, 0])
    )
    assert single.flagged == 0
    assert single.order.tolist() == [1, 2, 0]


def fold_run(folder: Path, labels: Tensor, fold: int, seed: int = 0, **record) -> Path:
    """Write a run of a 3-fold set, whose model believes image i of its fold by i / 100."""
    path = folder / f"run-{len(list(folder.glob('*'))):02}"
    path.mkdir(parents=True)
    config = {"data": {"init_args": {"num_folds": 3, "fold": fold}}}
    config["task"] = {"learning_rate": record.pop("learning_rate", 0.1)}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    record = {"seed": seed, "status": "finished", "code_sha256": "a"} | record
    (path / "run.json").write_text(json.dumps(record))
    held_out = (stratified_folds(labels, 3, 0) == fold).nonzero().flatten()
    np.savez(
        path / "outcomes.npz",
        **{
            "val/labels": labels[held_out].numpy(),
            "val/predicted": (labels[held_out].numpy() + seed) % 3,
            "val/losses": -np.log((held_out.numpy() + 1) / 100, dtype=np.float32),
        },
    )
    return path


def test_folds_are_put_back_into_the_official_order(tmp_path) -> None:
    labels = torch.randperm(60) % 3
    run = fold_run(tmp_path, labels, 0)
    fold_run(tmp_path, labels, 1)
    assert "[2]" in from_folds(run, labels, 3, 0)
    fold_run(tmp_path, labels, 2, learning_rate=0.2)  # another recipe
    fold_run(tmp_path, labels, 2, status="failed")
    assert isinstance(from_folds(run, labels, 3, 0), str)
    fold_run(tmp_path, labels, 2)
    fold_run(tmp_path, labels, 1, seed=1)  # newer, but of another seed
    quality = from_folds(run, labels, 3, 0)
    assert isinstance(quality, LabelQuality)
    np.testing.assert_allclose(quality.believed, np.arange(1, 61) / 100, rtol=1e-5)
    assert quality.order.tolist() == list(range(60))
    assert (quality.guessed == labels.numpy()).all()
    assert quality.flagged is None


def test_folds_of_other_labels_and_runs_without_folds_are_not_used(tmp_path) -> None:
    labels = torch.arange(60) % 3
    runs = [fold_run(tmp_path, labels, fold) for fold in range(3)]
    assert isinstance(from_folds(runs[0], labels, 3, 0), LabelQuality)
    assert "other labels" in from_folds(runs[0], labels.flip(0), 3, 0)
    assert "outside of a run" in from_folds(None, labels, 3, 0)


def test_sound_images_hold() -> None:
    found = section(subject_of(Stripes()))
    assert found.mark == "holds"
    assert value(found, "test_copied") == value(found, "conflicts") == 0
    assert value(found, "nearest_accuracy") == 1
    for split in ("train", "val", "test"):
        assert value(found, f"disputed_{split}") == value(found, f"flagged_{split}") == 0
    pictures = {block.name for block in found.blocks if isinstance(block, Picture)}
    assert pictures == {"data_classes", "data_nearest", "data_labels"}
    keys = [measure.key for measure in found.measures()]
    assert len(keys) == len(set(keys))


@pytest.mark.usefixtures("undrawn")
def test_copies_in_the_test_fail_and_one_elsewhere_asks_for_care() -> None:
    dataset = Stripes()
    dataset.train.images[7] = dataset.train.images[4]  # of one class, maybe of one split
    dataset.train.labels[7] = dataset.train.labels[4]
    within = section(subject_of(dataset))
    copies = [value(within, f"copies_in_{split}") for split in ("train", "val", "test")]
    across = value(within, "groups_across")
    assert sum(copies) + across == 1
    assert within.mark == ("caution" if across else "holds")
    dataset.test.images[12] = dataset.test.images[9]  # a copy of a test image, and no leak
    assert value(section(subject_of(dataset)), "test_copied") == 0
    dataset.test.images[[3, 30]] = dataset.train.images[0]
    found = section(subject_of(dataset))
    assert found.mark == "fails"
    assert value(found, "test_copied") == 2 / 90
    assert value(found, "copies_in_test") == 2
    assert value(found, "conflicts") == 0
    assert value(found, "nearest_least") == 0


@pytest.mark.usefixtures("undrawn")
def test_equal_images_with_different_labels_ask_for_care() -> None:
    dataset = Stripes()
    dataset.train.images[5] = dataset.train.images[4]
    found = section(subject_of(dataset))
    assert found.mark == "caution"
    assert value(found, "conflicts") == 1
    assert "different labels" in found.verdict


@pytest.mark.usefixtures("undrawn")
def test_wrong_labels_of_each_split_are_found() -> None:
    dataset = Stripes()
    for split in (dataset.train, dataset.test):
        split.labels[::20] = (split.labels[::20] + 1) % 3
    found = section(subject_of(dataset))
    assert found.mark == "caution"
    assert value(found, "flagged_test") == value(found, "disputed_test") == 5 / 90
    wrong = 12  # of 240, now in train or val
    disputed = value(found, "disputed_train") * value(found, "images_train")
    assert disputed + value(found, "disputed_val") * value(found, "images_val") == wrong


@pytest.mark.parametrize(("wrong", "shown"), [(0, 0), (6, 6), (40, 8)])
def test_labels_that_are_believed_are_not_shown(wrong: int, shown: int) -> None:
    labels = torch.arange(90) % 3
    probabilities = 0.1 + 0.7 * torch.eye(3)[labels]
    labels[:wrong] = (labels[:wrong] + 1) % 3
    judged = Judged("train", label_quality(labels, probabilities), noise(90), labels, "by hand")
    places = judged.doubtful()
    assert len(places) == shown
    assert set(places) <= set(range(wrong))
    assert judged.disputed == wrong


@pytest.mark.usefixtures("undrawn")
def test_uneven_classes_ask_for_care() -> None:
    dataset = Stripes()
    few = (dataset.train.labels == 2).nonzero().flatten()[7:]
    kept = torch.ones(240, dtype=torch.bool)
    kept[few] = False
    dataset.train = LabelledImages(dataset.train.images[kept], dataset.train.labels[kept])
    found = section(subject_of(dataset))
    assert found.mark == "caution"
    assert value(found, "imbalance") == 72 / 6
    assert "6 to 72" in found.verdict
    assert moved_share([1, 1], [2, 0]) == 0.5
    assert moved_share([3, 1], [6, 2]) == 0


@pytest.mark.usefixtures("undrawn")
def test_what_is_drawn_says_its_seed_and_number() -> None:
    found = section(subject_of(Stripes(), n=5))
    measure = found.measure("disputed_train")
    assert measure is not None
    assert (measure.n, measure.seed) == (50, 0)
    assert any("50 of the 216" in b.text for b in found.blocks if isinstance(b, Words))
    everything = section(subject_of(Stripes())).measure("disputed_train")
    assert everything is not None
    assert (everything.n, everything.seed) == (216, None)


def test_nearest_pairs_of_mnist_are_the_known_ones(real_mnist) -> None:
    from project.data.image_sets import MNIST

    train, test = MNIST().load(Path(real_mnist))
    asked = [3070, 4858, 5859, 9356, 2786]
    found = nearest(test.images[asked], train.images)
    assert found.indices.flatten().tolist() == [27111, 58238, 31839, 57957, 31848]
    assert found.distances.min().item() == pytest.approx(0.827, abs=1e-3)


@pytest.mark.slow
def test_confirmed_label_errors_of_mnist_are_among_the_least_believed(real_mnist, tmp_path) -> None:
    from project.configuration import PACKAGE
    from project.training.command import command

    config = str(PACKAGE.parent / "configs" / "mnist_fast.yaml")
    place = ["--data.root", real_mnist, "--runs_dir", str(tmp_path / "runs")]
    assert command(["--config", config, *place]) == 0
    run = next((tmp_path / "runs").iterdir())
    images = open_subject(str(run), ["--data.root", real_mnist], "cpu", []).images
    assert images is not None
    quality = label_quality(images.labels("test"), images.logits("test").softmax(1))
    assert (quality.given == quality.guessed).mean() >= 0.99
    # Northcutt et al. 2021: fewer than 3 of 5 people confirmed the given label.
    confirmed = {947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937}
    confirmed |= {6651, 6783, 8527, 9679, 9729}
    assert len(confirmed & set(quality.order[:100].tolist())) >= 10
