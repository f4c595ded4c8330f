"""A checkpoint is measured again, from itself alone, as it was measured in its run."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import record_of, small_digits_run, small_text_run
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from project.comparison.outcomes import load_outcomes
from project.data.augment import Augmentation
from project.data.corpora import TextCorpus
from project.data.image_sets import Digits
from project.data.images import ImageData
from project.data.text import TextData
from project.data.tokenization import CharTokenizer
from project.evaluate import main
from project.models.cnn import CNN
from project.models.rnn import RNNLanguageModel
from project.tasks.image_classification import ImageClassification
from project.tasks.language_modeling import LanguageModeling


def evaluations(run: Path) -> list[dict]:
    return json.loads((run / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def image_run(tmp_path_factory) -> Path:
    return small_digits_run(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def text_run(tmp_path_factory) -> Path:
    """A run whose text lies in the folder `there`, beside `runs`."""
    return small_text_run(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("kind", ["image_run", "text_run"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_an_evaluation_equals_that_of_the_run(kind, split, request, capsys) -> None:
    run = request.getfixturevalue(kind)
    outcomes = load_outcomes(run, split)
    (run / "outcomes.npz").rename(run / "kept.npz")
    capsys.readouterr()
    assert main([str(run), "--split", split, "--device", "cpu"]) == 0
    found = evaluations(run)[-1]
    measured = {k: v for k, v in record_of(run)["metrics"][split].items() if "random" not in k}
    again = {k: v for k, v in found["metrics"][split].items() if "random" not in k}
    assert again == measured
    assert found["is_training_data"]
    assert found["data"] == record_of(run)["data"]
    for name, values in load_outcomes(run, split).items():
        np.testing.assert_array_equal(values, outcomes[name])
    (run / "kept.npz").rename(run / "outcomes.npz")
    lines = capsys.readouterr().out.splitlines()
    assert any("95 % interval" in line for line in lines)
    assert max(map(len, lines[:-1])) <= 80


def test_outcomes_are_those_of_the_counts(image_run, text_run) -> None:
    for split, metrics in record_of(image_run)["metrics"].items():
        outcomes = load_outcomes(image_run, split)
        right = (outcomes["labels"] == outcomes["predicted"]).sum()
        assert right == metrics["accuracy"]["right"]
        assert outcomes["losses"].mean() == pytest.approx(metrics["loss"]["value"], rel=1e-5)
    for split, metrics in record_of(text_run)["metrics"].items():
        losses = load_outcomes(text_run, split)["losses"]
        assert len(losses) == metrics["loss"]["count"]
        assert losses.mean() == pytest.approx(metrics["loss"]["value"], rel=1e-5)


def test_on_another_machine_the_text_is_found_where_it_is_said_to_be(
    text_run, tmp_path, capsys
) -> None:
    there = text_run.parents[1] / "there"
    here = tmp_path / "here.txt"
    shutil.copy(there / "text.txt", here)
    alone = tmp_path / "only.ckpt"
    shutil.copy(text_run / "checkpoints" / "best.ckpt", alone)
    there.rename(there.with_name("elsewhere"))
    try:
        assert main([str(alone), "--device", "cpu"]) == 2
        assert "text.txt' is not there" in capsys.readouterr().err
        assert main([str(alone), "--device", "cpu", "--data.corpus.path", str(here)]) == 0
    finally:
        there.with_name("elsewhere").rename(there)
    output = capsys.readouterr().out
    assert "as in training" in output
    assert "looked for below DATA_DIR" in output
    loss = evaluations(tmp_path)[0]["metrics"]["test"]["loss"]
    assert loss == record_of(text_run)["metrics"]["test"]["loss"]


def test_another_text_is_measured_with_the_tokenizer_of_the_run(text_run, tmp_path, capsys) -> None:
    other = tmp_path / "other.txt"
    other.write_text("a mat\nand a zebra\n")
    changes = ["--data.corpus.path", str(other), "--data.val_fraction=0", "--data.test_fraction=0"]
    assert main([str(text_run), "--device=cpu", "--split=train", *changes]) == 0
    output = capsys.readouterr().out
    assert "not those of the training" in output
    found = evaluations(text_run)[-1]
    assert not found["is_training_data"]
    assert found["metrics"]["train"]["loss"]["count"] == len(other.read_text()) - 1
    assert "train/losses" not in np.load(text_run / "outcomes.npz")  # only those of its own data


def test_other_images_and_splits_can_be_asked_for(image_run, capsys) -> None:
    changes = ["--split=val", "--data.split_seed=5", "--device=cpu"]
    assert main([str(image_run), *changes]) == 0
    output = capsys.readouterr().out
    assert "may hold what the model was trained on" in output
    assert main([str(image_run), "--split=train", "--device=cpu"]) == 0
    assert evaluations(image_run)[-1]["metrics"]["train"]["accuracy"]["count"] == 1295


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.split_sed", "3"], "did you mean split_seed?"),
        (["--data.num_folds", "1"], "fold 0 of num_folds 1"),
        (["--model.network.width", "3"], "unknown option --model.network.width"),
        (["--data.dataset", "MNIST", "--data.root", "stand-in"], "a trained network keeps its"),
    ],
)
def test_what_is_not_possible_is_one_line(
    image_run, arguments, message, capsys, stand_in_data
) -> None:
    assert main([str(image_run), "--device", "cpu", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


class Folded(nn.Module):
    """Keeps another value than it was given."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = 2 * width
        self.head = nn.Linear(64, 10)


class Stochastic(nn.Module):
    """Cannot be built without memory."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.depth = depth
        self.rates = [rate.item() for rate in torch.linspace(0, 1, depth)]


class Silent(nn.Module):
    """Does not keep its argument."""

    def __init__(self, units: int = 4) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1))


def fitted(task: LightningModule, data: ImageData | TextData, folder: Path) -> Path:
    trainer = Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(task, data)
    trainer.save_checkpoint(folder / "by_hand.ckpt")
    return folder / "by_hand.ckpt"


def test_a_task_built_by_hand_reloads_alone(tmp_path, capsys) -> None:
    network = CNN(image_size=8, width=8, dropout=0.3)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    task = ImageClassification(network=network, optimizer=optimizer, label_smoothing=0.1)
    data = ImageData(Digits(), augment=Augmentation(shift_pixels=1), batch_size=32)
    path = fitted(task, data, tmp_path)
    again = ImageClassification.load_from_checkpoint(path, weights_only=True)
    assert again.network.dropout == 0.3
    assert again.label_smoothing == 0.1
    assert again.optimizer([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == 0.1
    for name, weight in task.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    twice = fitted(again, data, tmp_path / "twice")  # a task that was reloaded is saved as well
    assert ImageClassification.load_from_checkpoint(twice, weights_only=True).network.width == 8
    assert main([str(path), "--device", "cpu"]) == 0
    assert "Digits, as in training" in capsys.readouterr().out


def test_a_language_model_built_by_hand_reloads_alone(tmp_path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 50)
    corpus = TextCorpus(str(tmp_path / "text.txt"))
    data = TextData(corpus, CharTokenizer(), 16, 4, cache_dir=str(tmp_path / "cache"))
    task = LanguageModeling(RNNLanguageModel(vocab_size=20, width=16, depth=1), sample_tokens=0)
    path = fitted(task, data, tmp_path)
    assert main([str(path), "--device", "cpu", "--split", "val"]) == 0
    assert evaluations(tmp_path)[0]["is_training_data"]


@pytest.mark.parametrize("network", [Silent(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))])
def test_a_network_that_keeps_no_arguments_is_told_and_reloads_with_help(tmp_path, network) -> None:
    with pytest.warns(UserWarning, match="checkpoints will be without 'network'"):
        task = ImageClassification(network)
    path = fitted(task, ImageData(Digits()), tmp_path)
    again = ImageClassification.load_from_checkpoint(path, weights_only=True, network=network)
    assert again.label_smoothing == 0.0
    assert main([str(path)]) == 2


def widened() -> CNN:
    network = CNN(image_size=8, width=8)
    network.head = nn.Linear(288, 11)
    return network


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Folded(), "is another network than this one"),
        (widened(), "layers were changed afterwards"),
        (Stochastic(), "Stochastic cannot be built again"),
    ],
)
def test_a_network_that_would_be_another_is_told(network, says) -> None:
    with pytest.warns(UserWarning, match=says):
        ImageClassification(network)


def test_an_optimizer_that_cannot_be_described_is_left_out_and_the_rest_reloads(tmp_path) -> None:
    with pytest.warns(UserWarning, match="checkpoints will be without 'optimizer'"):
        task = ImageClassification(
            CNN(image_size=8, width=8), optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
        )
    path = fitted(task, ImageData(Digits()), tmp_path)
    assert ImageClassification.load_from_checkpoint(path, weights_only=True).optimizer is None


def test_no_other_package_is_imported_to_change_the_data(image_run, tmp_path, monkeypatch) -> None:
    """A checkpoint from a stranger may name any class, and importing it runs its code."""
    (tmp_path / "stranger.py").write_text("open('was_imported', 'w').close()\nclass Data: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    content = torch.load(image_run / "checkpoints" / "best.ckpt", weights_only=True)
    content["datamodule_hyper_parameters"]["_class_path"] = "stranger.Data"
    torch.save(content, tmp_path / "strange.ckpt")
    assert main([str(tmp_path / "strange.ckpt"), "--data.batch_size", "3"]) == 2
    assert not Path("was_imported").exists()


def test_text_that_moves_between_the_splits_is_not_the_data_of_the_training(
    text_run, capsys
) -> None:
    kept = (text_run / "outcomes.npz").read_bytes()
    assert main([str(text_run), "--device=cpu", "--data.test_fraction=0.4"]) == 0
    assert "may hold what the model was trained on" in capsys.readouterr().out
    assert not evaluations(text_run)[-1]["is_training_data"]
    assert (text_run / "outcomes.npz").read_bytes() == kept


def test_what_the_run_measured_is_never_replaced(image_run) -> None:
    kept = (image_run / "outcomes.npz").read_bytes()
    for change in (["--precision", "32-true"], ["--data.eval_batch_size", "7"], []):
        assert main([str(image_run), "--device", "cpu", *change]) == 0
        assert (image_run / "outcomes.npz").read_bytes() == kept


def test_the_same_test_images_are_known_whatever_the_validation_split(image_run) -> None:
    assert main([str(image_run), "--device=cpu", "--data.split_seed=5"]) == 0
    assert evaluations(image_run)[-1]["is_training_data"]


def test_a_file_that_holds_something_else_is_not_written_over(image_run, tmp_path, capsys) -> None:
    (tmp_path / "run.json").write_text('{"a": 1}')
    assert main([str(image_run), "--output", str(tmp_path / "run.json")]) == 2
    assert "holds no evaluations" in capsys.readouterr().err
    assert (tmp_path / "run.json").read_text() == '{"a": 1}'


@pytest.mark.parametrize("argument", [torch.ones(2), torch.device("cpu"), {1, 2}, range(3)])
def test_an_argument_of_any_kind_does_not_keep_a_task_from_being_built(argument) -> None:
    class Own(ImageClassification):
        def __init__(self, network: nn.Module, extra: object) -> None:
            super().__init__(network)
            self.save_hyperparameters("extra", logger=False)

    with pytest.warns(UserWarning, match="checkpoints will be without 'extra'"):
        Own(CNN(image_size=8, width=8), argument)
