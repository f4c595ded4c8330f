"""Which mistakes a classifier makes, from hand-made predictions and from a trained network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import balanced_accuracy_score, f1_score

from project.data.image_sets import Digits
from project.data.images import ImageData
from project.intervals import wilson_interval
from project.models.cnn import CNN
from project.reporting.findings import Measure, share
from project.reporting.images import calibration, performance
from project.reporting.images.classification import (
    class_averages,
    most_confused,
    resampled_averages,
    threshold_of,
    worse_than_the_rest,
)
from project.reporting.images.opened import Images
from project.reporting.subject import Subject
from project.tasks.image_classification import ImageClassification


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_predictions(n: int = 500, num_classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(num_classes - 1, (n,), generator=generator())  # of the last, none
    predicted = torch.randint(num_classes, (n,), generator=generator(1))
    return labels, torch.where(torch.rand(n, generator=generator(2)) < 0.6, labels, predicted)


def test_averages_over_classes_are_those_of_sklearn() -> None:
    labels, predicted = some_predictions()
    found = class_averages(labels, predicted, torch.ones(1, 500).double(), 4)
    assert found.recall.item() == pytest.approx(balanced_accuracy_score(labels, predicted))
    f1 = f1_score(labels, predicted, average="macro", labels=[0, 1, 2])
    assert found.f1.item() == pytest.approx(f1)
    drawn = resampled_averages(labels, predicted, 4, generator(), 300)
    assert drawn.f1.mean().item() == pytest.approx(f1, abs=0.01)
    assert 0.01 < drawn.f1.std().item() < 0.04


def test_a_weighted_example_counts_as_often_as_it_was_drawn() -> None:
    labels, predicted = some_predictions(50)
    weights = torch.randint(3, (1, 50), generator=generator()).double()
    repeats = weights[0].long()
    once = class_averages(labels, predicted, weights, 4)
    written_out = class_averages(
        labels.repeat_interleave(repeats), predicted.repeat_interleave(repeats),
        torch.ones(1, int(repeats.sum())).double(), 4,
    )  # fmt: skip
    assert once.recall.item() == pytest.approx(written_out.recall.item())
    assert once.f1.item() == pytest.approx(written_out.f1.item())


def test_the_worst_of_equal_classes_is_no_finding() -> None:
    """One of ten equal classes is always the worst, and rarely called so."""
    support, called = torch.full((10,), 100), 0
    for seed in range(200):
        right = torch.binomial(support.double(), torch.tensor(0.95).double(), generator(seed))
        called += min(worse_than_the_rest(right.long(), support)) < 0.05
    assert called <= 0.08 * 200


def test_a_class_that_is_left_behind_is_found_and_its_p_value_is_fishers() -> None:
    from scipy.stats import fisher_exact

    support = torch.tensor([100, 100, 50])
    right = torch.tensor([99, 98, 35])
    p_values = worse_than_the_rest(right, support)
    exact = fisher_exact([[35, 15], [197, 3]], alternative="less").pvalue
    assert p_values[2] == pytest.approx(3 * exact)
    assert p_values[:2] == [1.0, 1.0]
    assert worse_than_the_rest(torch.tensor([0, 5]), torch.tensor([0, 9]))[0] == 1.0


def test_confusions_come_in_order_and_right_ones_are_none() -> None:
    confusion = torch.tensor([[50, 1, 0], [7, 9, 2], [0, 0, 30]])
    assert most_confused(confusion, 5) == [(1, 0, 7), (1, 2, 2), (0, 1, 1)]
    assert most_confused(torch.eye(3).long(), 5) == []


def test_threshold_keeps_the_most_that_are_right_enough() -> None:
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]).double()
    right = torch.tensor([True, True, False, True, False])
    assert threshold_of(confidence, right, 0.75) == confidence[3]
    assert threshold_of(confidence, right, 1.0) == confidence[1]
    assert threshold_of(confidence, ~right, 0.9) is None
    assert threshold_of(confidence, right, 1.0, fewest=3) is None
    # Equal confidences cannot be told apart.
    equal = torch.tensor([0.9, 0.9, 0.5]).double()
    assert threshold_of(equal, torch.tensor([True, False, False]), 1.0) is None


@pytest.fixture(scope="module")
def trained() -> tuple[Subject, ImageClassification]:
    """A network that has learnt a little, with the record of its test."""
    torch.manual_seed(0)
    data = ImageData(Digits(), seed=0)
    task = ImageClassification(CNN(1, 8, 10, width=4))
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    data.trainer = None
    task.eval()
    run = Path("/nowhere")
    record = {
        "metrics": {"test": task.measured},
        "best_checkpoint": "best.ckpt",
        "data": data.describe(),
    }
    device = torch.device("cpu")
    subject = Subject(run, run / "best.ckpt", {}, record, task, task.network, data, device, n=200)
    subject.images = Images(task.network, data, device)
    return subject, task


def test_performance_is_that_of_the_test(trained) -> None:
    subject, task = trained
    section = performance.section(subject)
    accuracy, loss = section.measure("accuracy"), section.measure("loss")
    assert accuracy.value == task.measured["accuracy"]["value"]
    assert accuracy.interval_95 == task.measured["accuracy"]["interval_95"]
    assert loss.value == pytest.approx(task.measured["loss"]["value"], abs=1e-6)
    assert loss.interval_95 == pytest.approx(task.measured["loss"]["interval_95"], abs=1e-5)
    told = " ".join(block.text for block in section.blocks if hasattr(block, "text"))
    assert "the same number" in told
    tables = {block.title: block for block in section.blocks if hasattr(block, "rows")}
    for row in tables["By class, the weakest first"].rows:
        label = int(row[0])
        assert float(row[2].split()[0]) == pytest.approx(
            100 * task.measured["class_accuracy"][label], abs=0.01
        )
    everything = tables["If only the most confident are decided"].rows[0]
    assert everything[1] == "359"
    assert float(everything[2].split()[0]) == pytest.approx(100 * accuracy.value, abs=0.01)
    commonest = int(np.bincount(subject.images.labels("train")).argmax())
    of_them = int((subject.images.labels("test") == commonest).sum())
    assert section.measure("majority").value == of_them / 359


def test_errors_shown_are_errors_the_surest_first(trained) -> None:
    subject, _ = trained
    blocks = performance.section(subject).blocks
    (picture,) = [block for block in blocks if getattr(block, "name", "") == "errors"]
    assert picture.png.startswith(b"\x89PNG")
    first = int(picture.alt.split("image ")[1].split(":")[0])
    logits, labels = subject.images.logits("test"), subject.images.labels("test")
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    wrong = (predicted != labels).nonzero().flatten()
    assert first == wrong[confidence[wrong].argmax()]


def test_record_of_other_weights_or_images_is_not_compared(trained, monkeypatch) -> None:
    subject, _ = trained
    with monkeypatch.context() as other:
        other.setattr(subject, "checkpoint", subject.run / "last.ckpt")
        assert "another checkpoint" in performance.section(subject).blocks[1].text
    monkeypatch.setitem(subject.record["data"], "sha256", {"test": "of others"})
    told = performance.section(subject).blocks[1].text
    assert "other data" in told


def test_classes_are_set_against_all_others() -> None:
    confusion = torch.tensor([[90, 10, 0], [0, 100, 0], [25, 0, 25]])
    third, first, second = performance.by_recall(confusion, ["a", "b", "c"])
    assert (third.name, third.recall, third.named) == ("c", 0.5, 25)
    assert third.others == pytest.approx(190 / 200)
    assert first.others == pytest.approx(125 / 150)
    assert second.others == pytest.approx(115 / 150)
    assert [c.is_left_behind for c in (third, first, second)] == [True, False, False]


def test_a_verdict_says_no_more_than_was_sought(trained) -> None:
    subject, _ = trained
    of = performance.outcome(subject.images.logits("test"), subject.images.labels("test"))
    figures = figures_of(70, 100, majority=65)
    figures["decided_alone"] = performance.missing("decided_alone", "", "not sought")
    assert performance.of_confident(figures, of, "val") == ""
    assert "No confidence was found" in performance.of_confident(figures, of, "test")
    assert performance.verdict_of(figures, of, [], "test").startswith("Not shown")


def figures_of(
    right: int, n: int, *, majority: int = 11, better: float = 0.03
) -> dict[str, Measure]:
    """Figures of a model, `better` by that much, give or take 0.01, than the nearest image."""
    return {
        "accuracy": share("accuracy", "", right, n),
        "majority": share("majority", "", majority, 100),
        "nearest": share("nearest", "", right, n),
        "better_than_nearest": Measure("", "", better, "%", n, (better - 0.01, better + 0.01)),
    }


def test_marks_follow_their_rule() -> None:
    good = [performance.ClassResult(str(c), 99, 100, 99, 0.99, 1.0) for c in range(3)]
    behind = [*good, performance.ClassResult("3", 80, 100, 80, 0.99, 0.001)]
    assert performance.mark_of(figures_of(990, 1000), good) == "holds"
    assert performance.mark_of(figures_of(990, 1000), behind) == "caution"
    assert performance.mark_of(figures_of(700, 1000), good) == "caution"
    assert performance.mark_of(figures_of(12, 100), good) == "fails"
    for better in (-0.03, 0.005):  # worse than comparing pixels, or not shown to be better
        assert performance.mark_of(figures_of(990, 1000, better=better), good) == "caution"


def test_a_network_is_set_against_the_nearest_image(trained, monkeypatch) -> None:
    """On `Digits`, comparing pixels is right on 99 %: hardly better is not enough."""
    subject, _ = trained
    images = subject.images
    known = torch.cat([images.data.splits[s].images for s in ("train", "val")]).flatten(1).float()
    asked = images.data.splits["test"].images.flatten(1).float()
    labels = torch.cat([images.labels("train"), images.labels("val")])
    right = labels[torch.cdist(asked, known).argmin(dim=1)] == images.labels("test")
    section = performance.section(subject)
    nearest, accuracy = section.measure("nearest").value, section.measure("accuracy").value
    assert nearest == right.double().mean().item()
    assert section.measure("better_than_nearest").value == pytest.approx(accuracy - nearest)
    assert section.mark == "caution"
    assert "not shown to be better than comparing pixels" in section.verdict
    useless = images.known._replace(labels=(labels + 1) % 10)
    monkeypatch.setattr(images, "known", useless)
    found = performance.section(subject)
    assert found.measure("nearest").value < 0.1
    assert "not shown" not in found.verdict


def test_calibration_of_a_trained_network(trained) -> None:
    subject, task = trained
    section = calibration.section(subject)
    loss = task.measured["loss"]["value"]
    assert section.measure("nll").value == pytest.approx(loss, abs=1e-6)
    gap = section.measure("overconfidence").value
    confidence = task.outcomes["confidence"].double().mean().item()
    assert gap == pytest.approx(confidence - task.measured["accuracy"]["value"], abs=1e-6)
    temperature = section.measure("temperature")
    assert temperature.n == 143 or temperature.value is None
    again = calibration.section(subject)
    assert again.measures() == section.measures()


def test_a_network_without_an_error(trained, monkeypatch) -> None:
    """No error to show, and no temperature to fit."""
    subject, _ = trained
    perfect = {
        split: 9.0 * torch.nn.functional.one_hot(subject.images.labels(split), 10).float()
        for split in ("val", "test")
    }
    monkeypatch.setattr(subject.images, "logits", perfect.__getitem__)
    section = performance.section(subject)
    for key in ("accuracy", "balanced_accuracy", "macro_f1"):  # certain of nothing
        assert section.measure(key).interval_95 == wilson_interval(359, 359)
    told = calibration.section(subject).measure("temperature")
    assert told.value is None
    assert "143 validation images are predicted right" in told.how
