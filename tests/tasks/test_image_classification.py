"""Loss, metrics and optimizers of `ImageClassification`, against counts by hand."""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from project.data.image_sets import Digits
from project.data.images import ImageData, normalise_
from project.models.mlp import MLP
from project.tasks.image_classification import ImageClassification


def small_mlp(**options) -> MLP:
    network = MLP(image_size=8, width=16, depth=1, **options)
    nn.init.normal_(network.head.weight)
    return network


def test_accuracy_with_an_uneven_last_batch_equals_the_count_by_hand(tmp_path) -> None:
    task = ImageClassification(small_mlp())
    data = ImageData(Digits(), eval_batch_size=100)  # 359 images: 100, 100, 100, 59
    (logged,) = quiet_trainer(tmp_path).test(task, data, verbose=False)

    test = data.splits["test"]
    task.eval()
    with torch.no_grad():
        logits = task(normalise_(test.images.float(), data.scale_and_offset))
    right = (logits.argmax(1) == test.labels).sum().item()
    assert logged["test/accuracy"] == pytest.approx(right / 359, abs=1e-7)
    assert logged["test/loss"] == pytest.approx(
        F.cross_entropy(logits, test.labels).item(), rel=1e-5
    )
    assert task.confusion.sum() == 359
    assert torch.equal(task.confusion.sum(dim=1), torch.bincount(test.labels))
    wrong_pair = next((t, p) for t, p in zip(test.labels, logits.argmax(1), strict=True) if t != p)
    assert task.confusion[wrong_pair] > 0


def validated(task: ImageClassification, batch: tuple[Tensor, Tensor], path: Path) -> dict:
    """Return what the task logs of a single batch."""
    batches = DataLoader([batch], batch_size=None)
    (logged,) = quiet_trainer(path).validate(task, batches, verbose=False)
    return logged


def test_ignored_labels_are_not_counted(tmp_path) -> None:
    task = ImageClassification(small_mlp()).eval()
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([3, 1, -100, -100])
    logged = validated(task, (images, labels), tmp_path)
    assert task.confusion.sum() == 2
    expected = F.cross_entropy(task(images[:2]), labels[:2]).item()
    assert logged["val/loss"] == pytest.approx(expected, rel=1e-6)
    assert task.outcomes["labels"].tolist() == [3, 1]
    assert task.outcomes["predicted"].tolist() == task(images[:2]).argmax(1).tolist()


def test_label_smoothing_is_in_training_only(tmp_path) -> None:
    images, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    smoothed = ImageClassification(small_mlp(), label_smoothing=0.2).eval()
    logged = validated(smoothed, (images, labels), tmp_path)
    expected = F.cross_entropy(smoothed(images), labels).item()
    assert logged["val/loss"] == pytest.approx(expected, rel=1e-6)
    trainer = quiet_trainer(tmp_path, max_steps=1)
    losses = []
    for smoothing in (0.0, 0.2):
        torch.manual_seed(0)
        task = ImageClassification(small_mlp(dropout=0.0), label_smoothing=smoothing)
        task.trainer = trainer
        task.on_train_epoch_start()
        losses.append(task.training_step((images, labels), 0))
        expected = F.cross_entropy(task.network(images), labels, label_smoothing=smoothing)
        torch.testing.assert_close(losses[-1], expected)
    assert losses[0] != losses[1]


def test_overfitting_a_batch_sees_the_same_batch(tmp_path) -> None:
    task = ImageClassification(small_mlp(dropout=0.0))
    data = ImageData(Digits(), batch_size=16)
    seen = []
    task.on_train_batch_start = lambda batch, batch_idx: seen.append(batch[1].tolist())
    quiet_trainer(tmp_path, max_epochs=3, overfit_batches=1).fit(task, data)
    assert seen[0] == seen[1] == seen[2]


def test_a_network_of_another_size_is_refused_with_the_flags(tmp_path) -> None:
    task = ImageClassification(MLP(image_size=28, num_classes=7))
    with pytest.raises(ValueError, match="built for image_size 28, num_classes 7") as error:
        quiet_trainer(tmp_path, max_steps=1).fit(task, ImageData(Digits()))
    assert "--model.network.image_size 8 --model.network.num_classes 10" in str(error.value)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_the_last_accumulation_of_an_epoch_may_be_short(clip, tmp_path) -> None:
    """Three batches of 16, of eight that would be added up, are one of 48."""
    images, labels = torch.randn(48, 1, 8, 8), torch.arange(48) % 10

    def weights(size: int, accumulate: int) -> Tensor:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        task = ImageClassification(network, functools.partial(torch.optim.SGD, lr=1.0))
        trainer = quiet_trainer(
            tmp_path, max_epochs=1, accumulate_grad_batches=accumulate, gradient_clip_val=clip
        )
        batches = list(zip(images.split(size), labels.split(size), strict=True))
        trainer.fit(task, DataLoader(batches, batch_size=None))
        assert trainer.global_step == 1
        return network[1].weight.detach()

    torch.testing.assert_close(weights(16, 8), weights(48, 1), rtol=1e-5, atol=1e-6)


def test_same_seed_same_run(tmp_path) -> None:
    def final_weights() -> torch.Tensor:
        torch.manual_seed(3)
        task = ImageClassification(small_mlp())
        quiet_trainer(tmp_path, max_steps=5).fit(task, ImageData(Digits(), batch_size=64))
        return task.network.head.weight.detach()

    assert torch.equal(final_weights(), final_weights())
