"""Splits and batches of `ImageData`."""

import pytest
import torch

from project.data.augment import Augmentation
from project.data.image_sets import Digits, ImageSet, LabelledImages
from project.data.images import ImageData, pixel_statistics


def digits(**options) -> ImageData:
    data = ImageData(Digits(), **options)
    data.setup("fit")
    return data


def rows(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_every_image_is_in_exactly_one_split() -> None:
    data = digits()
    train, val, test = (rows(data.splits[name].images) for name in ("train", "val", "test"))
    whole_train, whole_test = Digits().load(data.root)
    assert sorted(train + val) == sorted(rows(whole_train.images))
    assert sorted(test) == sorted(rows(whole_test.images))
    assert not {*train} & {*val}
    assert not {*test} & {*train, *val}


def test_splits_are_the_recorded_ones() -> None:
    # A change of these hashes changes every result that was measured on Digits.
    assert {name: value[:16] for name, value in digits().hashes.items()} == {
        "train": "5742a2732c310651",
        "val": "c407a02d0cc54c0b",
        "test": "36538df8e6fa838c",
        "val_indices": "b821c341c6842eed",
    }


def test_every_training_image_is_validated_in_one_fold_and_the_test_split_stays() -> None:
    folds = [digits(num_folds=4, fold=fold) for fold in range(4)]
    whole = digits()
    validated = [row for data in folds for row in rows(data.splits["val"].images)]
    everything = rows(whole.splits["train"].images) + rows(whole.splits["val"].images)
    assert sorted(validated) == sorted(everything)
    assert len({data.hashes["test"] for data in [*folds, whole]}) == 1
    assert len({data.hashes["val_indices"] for data in folds}) == 4


def test_images_are_normalised_as_those_of_the_checkpoint_were() -> None:
    trained = digits()
    state = trained.state_dict() | {"mean": [10.0], "std": [2.0]}
    for load_first in (True, False):
        data = ImageData(Digits(), batch_size=32, eval_batch_size=100)
        if load_first:
            data.load_state_dict(state)
        data.setup()
        if not load_first:
            data.load_state_dict(state)
        images, _ = next(iter(data.test_dataloader()))
        raw = data.splits["test"].images[:100].float()
        torch.testing.assert_close(images, (raw - 10) / 2)


def test_the_training_split_can_be_evaluated_in_order_and_as_it_is() -> None:
    data = digits(augment=Augmentation(shift_pixels=2))
    labels = torch.cat([labels for _, labels in data.evaluation_loader("train")])
    assert torch.equal(labels, data.splits["train"].labels)


def test_the_seed_of_the_run_moves_no_image_between_splits() -> None:
    assert digits(seed=0).hashes == digits(seed=1).hashes
    other = digits(split_seed=1).hashes
    assert other["val"] != digits().hashes["val"]
    assert other["test"] == digits().hashes["test"]


def test_training_pixels_have_mean_0_and_deviation_1() -> None:
    data = digits(batch_size=2000)
    images = torch.cat([images for images, _ in data.train_dataloader()])
    assert images.mean().abs() < 1e-4
    assert images.std() == pytest.approx(1, abs=1e-3)


def test_statistics_count_each_channel() -> None:
    images = torch.randint(0, 256, (50, 3, 6, 6), dtype=torch.uint8)
    mean, std = pixel_statistics(images)
    torch.testing.assert_close(mean, images.float().mean(dim=(0, 2, 3)))
    torch.testing.assert_close(std, images.float().std(dim=(0, 2, 3), correction=0))


def test_batches_are_the_images_and_labels_of_their_indices() -> None:
    data = digits(eval_batch_size=100)
    batches = list(data.test_dataloader())
    assert [len(labels) for _, labels in batches] == [100, 100, 100, 59]
    labels = torch.cat([labels for _, labels in batches])
    assert torch.equal(labels, data.splits["test"].labels)
    images = torch.cat([images for images, _ in batches])
    back = (images * data.std + data.mean).round().to(torch.uint8)
    assert torch.equal(back, data.splits["test"].images)


def test_augmentation_depends_on_seed_epoch_and_sample_and_spares_evaluation() -> None:
    changed = Augmentation(shift_pixels=2)

    def images(samples: list[int], epoch: int = 0, seed: int = 0) -> torch.Tensor:
        loader = digits(augment=changed, seed=seed).train_dataloader()
        return loader.make_batch(torch.tensor(samples), epoch)[0]

    some = [3, 1, 4, 15, 9]
    assert torch.equal(images(some), images(some))
    assert torch.equal(images(some)[2:4], images([4, 15]))  # whatever the batch
    assert not torch.equal(images(some), images(some, epoch=1))
    assert not torch.equal(images(some), images(some, seed=1))
    plain = next(iter(digits().val_dataloader()))[0]
    assert torch.equal(next(iter(digits(augment=changed).val_dataloader()))[0], plain)


def test_padded_samples_are_labelled_as_ignored() -> None:
    loader = digits().evaluation_loader("test")
    _, labels = loader.make_batch(torch.tensor([0, 1, -1]), 0)
    assert labels[2] == -100
    assert (labels[:2] >= 0).all()


def test_by_default_the_order_follows_the_global_seed() -> None:
    torch.manual_seed(5)
    assert ImageData(Digits()).seed == 5
    assert ImageData(Digits(), seed=7).seed == 7


@pytest.mark.parametrize(
    "options", [{"val_fraction": 0.0}, {"val_fraction": 1.0}, {"batch_size": 0}]
)
def test_numbers_out_of_range_are_refused(options) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} {value}"):
        ImageData(Digits(), **options)


def test_validation_split_of_the_real_mnist_is_the_recorded_one(real_mnist) -> None:
    from project.data.image_sets import MNIST

    data = ImageData(MNIST(), root=real_mnist)
    data.setup("fit")
    assert {n: len(s.labels) for n, s in data.splits.items()} == {
        "train": 54_001, "val": 5_999, "test": 10_000,
    }  # fmt: skip
    assert data.hashes["val_indices"][:16] == "1c8f86686ef62921"


def test_a_class_with_too_few_images_is_refused_by_name(monkeypatch) -> None:
    train, test = Digits().load(None)
    lonely = (train.labels != 3) | (
        torch.arange(len(train.labels)) == train.labels.tolist().index(3)
    )
    train.images, train.labels = train.images[lonely], train.labels[lonely]
    monkeypatch.setattr(Digits, "load", lambda self, root: (train, test))
    with pytest.raises(ValueError, match="class '3' of Digits has 1 training images"):
        digits()


@pytest.mark.parametrize(
    ("first", "names", "says"),
    [
        (1, ("a", "b"), "run from 1 to 2, and it has 2 class_names"),
        (-1, ("a", "b"), "run from -1 to 0"),
        (0, (), "run from 0 to 1, and it has 0 class_names"),
    ],
)
def test_labels_without_a_name_are_refused(first, names, says) -> None:
    class Own(ImageSet):
        class_names = names

        def load(self, root):
            images = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
            split = LabelledImages(images, torch.arange(40) % 2 + first)
            return split, split

    with pytest.raises(ValueError, match=says):
        ImageData(Own()).setup()
