"""Images that are made to be strange, and classifiers of which it is known what they know."""

import math
from pathlib import Path

import pytest
import torch
from conftest import image_subject
from torch import Tensor, nn

from project.data.image_sets import MNIST, QMNIST, Digits, FashionMNIST
from project.data.images import ImageData
from project.reporting.images import strangers
from project.reporting.images.out_of_distribution import NAME, scores, section
from project.reporting.subject import Subject


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_is_as_it_is_called() -> None:
    like = torch.zeros(400, 3, 8, 8)
    mean, std = torch.tensor([0.3, 0.5, 0.6]), torch.tensor([0.05, 0.1, 0.02])
    gaussian = strangers.gaussian_noise(like, mean, std, draws())
    torch.testing.assert_close(gaussian.mean(dim=(0, 2, 3)), mean, atol=0.003, rtol=0)
    torch.testing.assert_close(gaussian.std(dim=(0, 2, 3)), std, atol=0.003, rtol=0)
    uniform = strangers.uniform_noise(like, draws())
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert uniform.std().item() == pytest.approx(12**-0.5, abs=0.01)
    constant = strangers.constant(like, draws())
    assert torch.equal(constant, constant[:, :, :1, :1].expand_as(constant))
    assert constant[:, 0, 0, 0].unique().numel() > 390
    torch.testing.assert_close(uniform, strangers.uniform_noise(like, draws()))
    assert not torch.equal(uniform, strangers.uniform_noise(like, draws(1)))


@pytest.mark.parametrize("size", [3, 8, 10, 28])
def test_blocks_change_places_and_stay_whole(size: int) -> None:
    pixels = torch.arange(5 * 2 * size * size).view(5, 2, size, size).float()
    shuffled = strangers.block_shuffled(pixels, draws())
    for before, after in zip(pixels, shuffled, strict=True):
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
        assert not torch.equal(before, after)
        assert torch.equal(before[1] - before[0], after[1] - after[0])  # channels move together
    side = size // min(4, size)
    starts = shuffled[:, :, : 4 * side : side, : 4 * side : side]
    if side > 1:  # inside a block, neighbours are still neighbours
        steps = shuffled[:, :, : 4 * side : side, 1 : 4 * side : side] - starts
        assert (steps == 1).all()
    orders = {tuple((after - after.min()).flatten().tolist()) for after in shuffled}
    assert len(orders) == 5  # each image in its own way


@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_come_in_the_form_of_the_images(channels: int) -> None:
    like = torch.zeros(20, channels, 12, 12)
    pieces = strangers.photographs(like, draws())
    assert pieces.shape == like.shape
    assert pieces.dtype == torch.float32
    assert pieces.min() >= 0
    assert pieces.max() <= 1
    assert (pieces.flatten(1).std(dim=1) > 0).all()
    assert len({piece.sum().item() for piece in pieces}) == 20


def test_other_sets_are_told_by_their_classes(stand_in_data: Path, tmp_path: Path) -> None:
    found = strangers.other_sets(MNIST(), stand_in_data)
    assert {kind: type(other) for kind, other in found.items()} == {
        "other": FashionMNIST,
        "same": Digits,
    }
    assert type(strangers.other_sets(Digits(), stand_in_data)["same"]) is MNIST
    assert type(strangers.other_sets(QMNIST(), stand_in_data)["same"]) is Digits
    assert strangers.other_sets(Digits(), tmp_path) == {}
    test = FashionMNIST().load(stand_in_data)[1].images
    assert strangers.as_images(test, torch.zeros(1, 3, 8, 8)).shape == (101, 3, 8, 8)


def test_scores_of_logits_by_hand() -> None:
    confidence, energy = scores(torch.tensor([[0.0, 0.0], [0.0, 3.0], [25.0, 0.0], [30.0, 0.0]]))
    assert confidence[:2].tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-3))])
    assert energy[::2].tolist() == pytest.approx([-math.log(2), -25])
    assert confidence[2] < confidence[3] < 1  # differences that float32 has not


class Remembers(nn.Module):
    """Is sure of images that it holds, or of all others."""

    def __init__(self, images: Tensor, is_sure_of_known: bool) -> None:
        super().__init__()
        self.register_buffer("images", images.flatten(1))
        self.is_sure_of_known = is_sure_of_known

    def forward(self, x: Tensor) -> Tensor:
        known = torch.cdist(x.flatten(1), self.images).min(dim=1).values < 0.01
        logits = torch.zeros(len(x), 10)
        logits[known == self.is_sure_of_known, 3] = 9.0
        return logits


def subject_of(network: nn.Module, data: ImageData) -> Subject:
    return image_subject(network, data, n=60, seed=1)


@pytest.fixture
def digits(tmp_path: Path) -> ImageData:
    data = ImageData(Digits(), root=str(tmp_path))
    data.setup("test")
    return data


def normalised(data: ImageData) -> Tensor:
    assert data.mean is not None
    return (data.splits["test"].images.float() - data.mean[0]) / data.std[0]


@pytest.mark.parametrize(("knows", "mark", "auroc"), [(True, "holds", 1.0), (False, "fails", 0.0)])
def test_what_a_planted_network_knows_is_found(
    digits: ImageData, knows: bool, mark: str, auroc: float
) -> None:
    subject = subject_of(Remembers(normalised(digits), knows), digits)
    found = section(subject)
    assert found.mark == mark
    for kind in ("uniform", "gaussian", "constant", "inverted", "blocks", "photographs"):
        for score in ("confidence", "energy"):
            measure = found.measure(f"{kind}_{score}_auroc")
            assert measure is not None
            assert measure.value == auroc
            assert measure.n == 60
            assert measure.seed == 1
    for key in ("other_set", "same_set"):
        absent = found.measure(key)
        assert absent is not None
        assert absent.value is None
        assert "download" in absent.how
    sure = found.measure("uniform_confidence")
    assert sure is not None
    assert sure.value == pytest.approx(0.1 if knows else 0.9989, abs=1e-4)


def test_a_network_that_says_the_same_of_all_is_at_chance(digits: ImageData) -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 10)

    found = section(subject_of(Same(), digits))
    assert found.mark == "fails"
    measure = found.measure("uniform_confidence_auroc")
    assert measure is not None
    assert measure.value == 0.5
    assert "50.0 % of pairs" in found.verdict
    assert len({m.key for m in found.measures()}) == len(found.measures())


def test_a_set_with_the_same_classes_is_recognised_and_does_not_count(
    digits: ImageData, stand_in_data: Path
) -> None:
    digits.root = stand_in_data
    assert digits.mean is not None
    theirs = MNIST().load(stand_in_data)[1]
    pixels = 255 * strangers.as_images(theirs.images, torch.zeros(1, 1, 8, 8))
    known = torch.cat([normalised(digits), (pixels - digits.mean[0]) / digits.std[0]])
    subject = subject_of(Remembers(known, True), digits)
    assert subject.images is not None
    subject.images.class_names = list("9876543210")  # logits may be in another order
    found = section(subject)
    accuracy, apart = (found.measure(f"same_set_{n}") for n in ("accuracy", "confidence_auroc"))
    other, generator = found.measure("other_set_confidence"), subject.generator(NAME, 5)
    torch.randperm(101, generator=generator)  # the set with other classes was drawn first
    drawn = theirs.labels[torch.randperm(101, generator=generator)[:60]]
    assert accuracy is not None
    assert accuracy.value == int((drawn == 6).sum()) / 60 > 0  # its logit 3, of all that it knows
    assert apart is not None
    assert apart.value == 0.5  # which would fail, if it counted
    assert found.mark == "holds"
    assert other is not None
    assert other.n == 60
