"""The section on robustness: its figures against counts by hand, and a network that hides."""

import functools

import pytest
import torch
from conftest import image_subject
from lightning.pytorch import Trainer
from torch import Tensor, nn

from project.data.image_sets import Digits
from project.data.images import ImageData
from project.models.mlp import MLP
from project.reporting.findings import Figures, Measure, Picture, Section, Table
from project.reporting.images import attacked as attacks
from project.reporting.images import robustness
from project.reporting.images.attacks import smallest_changes
from project.reporting.images.opened import Images
from project.reporting.subject import Subject
from project.tasks.attacks import ProjectedGradientDescent, is_right
from project.tasks.image_classification import ImageClassification

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained() -> tuple[ImageClassification, ImageData]:
    torch.manual_seed(0)
    optimizer = functools.partial(torch.optim.AdamW, lr=5e-3)
    task = ImageClassification(MLP(image_size=8, width=64, depth=1), optimizer)
    data = ImageData(Digits(), batch_size=64, seed=0)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=8, enable_model_summary=False, **options)
    trainer.fit(task, data)
    return task.eval(), data


def subject_of(task: ImageClassification, data: ImageData, network: nn.Module, n: int) -> Subject:
    return image_subject(network, data, task, n=n, seed=3)


@pytest.fixture(scope="module")
def found(trained) -> tuple[Subject, Section]:
    task, data = trained
    subject = subject_of(task, data, task.network, 60)
    return subject, robustness.section(subject)


def value(section: Section, key: str) -> float:
    measure = section.measure(key)
    assert measure is not None, key
    assert measure.value is not None
    return measure.value


def test_figures_are_ordered_as_the_attacks_are_strong(found) -> None:
    subject, section = found
    images = subject.images
    chosen = images.sample("test", 60, subject.generator("robustness"))
    right = images.logits("test")[chosen].argmax(1) == images.labels("test", chosen)
    assert value(section, "clean") == int(right.sum()) / 60
    before = 1.0
    for epsilon in ("0.05", "0.1", "0.15", "0.2", "0.3"):
        noise, fast, strong = (value(section, f"{k}_{epsilon}") for k in ("noise", "fgsm", "pgd"))
        assert strong <= fast <= noise
        assert strong <= before
        before = strong
    assert value(section, "noise_0.05") > 0.9 > 0.1 > value(section, "pgd_0.3")
    assert value(section, "all_0.1") <= value(section, "pgd_0.1")
    (table,) = (b for b in section.blocks if isinstance(b, Table) and "masked" in b.title)
    assert [row[-1] for row in table.rows] == ["yes"] * 6
    for measure in section.measures():
        assert measure.seed == 3
        assert measure.interval_95 is None or (
            measure.interval_95[0] <= measure.value <= measure.interval_95[1]
        )


def test_the_mark_follows_its_rule_and_the_verdict_its_figures(found) -> None:
    _, section = found
    assert value(section, "all_0.1") < robustness.FAILS
    assert section.mark == "fails"
    assert section.measure("all_0.1").shown() in section.verdict
    worst = min(
        (m for m in section.measures() if m.key.startswith("damage_")), key=lambda m: m.value
    )
    assert f"{worst.title} is the worst" in section.verdict
    (table,) = (b for b in section.blocks if isinstance(b, Table) and "severity" in b.title)
    cells = [[float(cell) for cell in row[1:]] for row in table.rows]
    for row in cells:
        assert row[-1] == pytest.approx(sum(row[:5]) / 5, abs=0.1)
    assert cells[-1][-1] == pytest.approx(100 * value(section, "damage_mean"), abs=0.06)


def test_the_interval_of_damage_is_over_images_and_not_over_answers(found) -> None:
    subject, _ = found
    right = (torch.arange(100) < 50).expand(5, 100)  # as good as asked once each
    low, high = robustness.damage_measure(subject, "blur", right).interval_95
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 100**0.5, rel=0.01)
    each = torch.arange(5)[:, None] % 2 == torch.arange(100) % 2  # every image is right at some
    low, high = robustness.damage_measure(subject, "blur", each).interval_95
    assert high - low < 0.05
    low, high = robustness.damage_measure(subject, "blur", torch.ones(5, 100) > 0).interval_95
    assert low < 0.97


def test_pictures_and_measures_are_complete(found) -> None:
    _, section = found
    pictures = [block for block in section.blocks if isinstance(block, Picture)]
    assert [p.name for p in pictures] == ["attacks", "smallest_changes", "damage"]
    assert all(p.png.startswith(b"\x89PNG") and p.caption and p.alt for p in pictures)
    keys = [measure.key for measure in section.measures()]
    assert len(keys) == len(set(keys))
    assert any(isinstance(block, Figures) for block in section.blocks)


def test_the_same_seed_gives_the_same_figures(trained, found) -> None:
    task, data = trained
    again = robustness.section(subject_of(task, data, task.network, 60))
    assert again.measures() == found[1].measures()


class Hiding(nn.Module):
    """A network behind a step function: its gradients are 0 everywhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 4).round() / 4)


def test_hidden_gradients_are_found_out(trained) -> None:
    task, data = trained
    subject = subject_of(task, data, Hiding(task.network), 60)
    images = subject.images
    pixels, labels = images.pixels("test")[:60], images.labels("test")[:60]
    attacked = attacks.attack(subject, images, pixels, labels)
    counts = attacks.looked_closer(subject, images, pixels, labels, attacked)
    checks = attacks.masking_checks(attacked, counts)
    assert [check.passes for check in checks] == [True, False, True, False, False, False]
    holds = Measure("", "", 1.0, "%", 60, (0.9, 1.0))
    assert robustness.mark_of(holds, {"blur": torch.ones(5, 60)}, checks) == "caution"


def test_the_epsilon_told_is_that_of_the_training(trained) -> None:
    task, data = trained
    subject = subject_of(task, data, task.network, 10)
    assert attacks.chosen_epsilons(subject, 1)[1] == "0.1"
    sizes, told = attacks.chosen_epsilons(subject, 3)
    assert (sizes["8/255"], told) == (8 / 255, "4/255")
    try:
        task.attack = ProjectedGradientDescent(epsilon=0.3)
        assert attacks.chosen_epsilons(subject, 1)[1] == "0.3"
        task.attack = ProjectedGradientDescent(epsilon=0.12)
        sizes, told = attacks.chosen_epsilons(subject, 1)
        assert list(sizes) == ["0.05", "0.1", "0.12", "0.15", "0.2", "0.3"]
        assert told == "0.12"
    finally:
        task.attack = None


def test_the_smallest_change_fools_and_lies_in_its_ball(trained) -> None:
    task, data = trained
    images = Images(task.network, data, CPU)
    pixels, labels = images.pixels("test"), images.labels("test")
    sizes = [0.02, 0.05, 0.1, 0.2, 0.4]
    changed, least = smallest_changes(images.classifier, pixels, labels, sizes, 10)
    assert torch.equal(least == 0, ~is_right(images.classifier, pixels, labels))
    assert set(least.tolist()) <= {0.0, *torch.tensor(sizes).tolist(), float("inf")}
    assert len(set(least.tolist())) > 4
    fooled = (least > 0) & least.isfinite()
    assert not is_right(images.classifier, changed, labels)[fooled].any()
    moved = (changed - pixels).abs().flatten(1).amax(dim=1)
    assert (moved[fooled] <= least[fooled] + 1e-6).all()
    assert (moved[~fooled] == 0).all()


def test_costly_checks_are_on_some_images_and_do_not_make_the_verdict(trained, monkeypatch) -> None:
    task, data = trained
    monkeypatch.setattr(attacks, "ALL_CHECKED", 30)
    monkeypatch.setattr(attacks, "CHUNK", 20)
    section = robustness.section(subject_of(task, data, task.network, 60))
    assert section.measure("all_0.1").n == 20
    assert section.measure("pgd_0.1").n == 60
    assert section.measure("pgd_0.1").shown() in section.verdict
