"""The command as a user meets it, on embedded data."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import logged, only_run, record_of
from lightning.pytorch import LightningModule

from project.comparison.outcomes import load_outcomes
from project.configuration import CONFIGS, ProjectCLI
from project.data.image_sets import Digits
from project.tasks.image_classification import ImageClassification
from project.train import HELP, main
from project.training.closing_table import closing_table
from project.training.command import command, general_options

SHORT = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("finished") / "runs"
    assert command([*SHORT, "--runs_dir", str(runs), "--trainer.precision", "32-true"]) == 0
    return only_run(runs)


def run_of(arguments: list[str], runs: Path) -> dict:
    assert command([*SHORT, "--runs_dir", str(runs), *arguments]) == 0
    return record_of(only_run(runs))


def test_run_directory_holds_what_the_design_says(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "run.json", "checkpoints"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    checkpoints = {path.name for path in (finished_run / "checkpoints").iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt", "previous.ckpt"}


def test_record_holds_metrics_with_intervals_and_provenance(finished_run: Path) -> None:
    record = record_of(finished_run)
    assert record["status"] == "finished"
    for split, count in (("val", 143), ("test", 359)):
        accuracy = record["metrics"][split]["accuracy"]
        assert accuracy["count"] == count
        assert accuracy["value"] == accuracy["right"] / count
        low, high = accuracy["interval_95"]
        assert 0 <= low < accuracy["value"] < high <= 1
        confusion = torch.tensor(record["metrics"][split]["confusion"])
        assert confusion.trace() == accuracy["right"]
    assert record["parameters"] == 283_242
    assert record["images_per_second"] > 0
    assert record["training_seconds"] < record["wall_seconds"]
    seen = record["images_per_second"] * (record["training_seconds"] - record["warm_up_seconds"])
    rounding = 0.01 * record["images_per_second"]
    assert seen == pytest.approx(39 * 64, abs=rounding)  # of the whole run, not up to its best
    assert record["best_checkpoint"] == "checkpoints/best.ckpt"
    assert record["data"]["sha256"]["test"].startswith("36538df8")
    assert record["versions"]["lightning"].startswith("2.")
    assert record["command"].startswith("python -m project.train --trainer.max_epochs=2")


def test_metrics_file_has_a_row_per_validation_and_one_test(finished_run: Path) -> None:
    counts = {"val/accuracy": 2, "test/accuracy": 1, "train/loss": 4}  # 40 steps, one in 10
    assert {name: len(logged(finished_run, name)) for name in counts} == counts


def test_closing_table_fits_and_says_what_matters(finished_run: Path, capsys) -> None:
    record = record_of(finished_run)
    lines = closing_table(record, Path("runs/name")).splitlines()
    assert all(len(line) <= 80 for line in lines)
    for word in ("validation accuracy", "test accuracy", "95 %", "parameters", "images/s",
                 "checkpoints/best.ckpt"):  # fmt: skip
        assert any(word in line for line in lines)


def test_checkpoint_reloads_alone_and_safely_with_equal_predictions(finished_run: Path) -> None:
    path = finished_run / "checkpoints" / "best.ckpt"
    task = LightningModule.load_from_checkpoint(path, weights_only=True, map_location="cpu")
    assert type(task).__name__ == "ImageClassification"
    config = ProjectCLI(["--config", str(finished_run / "config.yaml")])
    data = config.datamodule
    data.setup("test")
    task.eval()
    with torch.no_grad():
        right = sum((task(x).argmax(1) == y).sum().item() for x, y in data.test_dataloader())
    record = record_of(finished_run)
    assert right == record["metrics"]["test"]["accuracy"]["right"]
    content = torch.load(path, weights_only=True)
    assert content["ImageData"]["sha256"] == record["data"]["sha256"]
    built_by_hand = config.model
    built_by_hand.load_state_dict(content["state_dict"])
    images, _ = next(iter(data.test_dataloader()))
    with torch.no_grad():
        assert torch.equal(built_by_hand.eval()(images), task(images))


def test_saved_configuration_repeats_the_run_exactly(finished_run: Path, tmp_path: Path) -> None:
    config = str(finished_run / "config.yaml")
    assert command(["--config", config, "--runs_dir", str(tmp_path / "again")]) == 0
    again = only_run(tmp_path / "again")
    assert (again / "metrics.csv").read_text() == (finished_run / "metrics.csv").read_text()
    assert (
        yaml.safe_load((again / "config.yaml").read_text())["model"]
        == yaml.safe_load(Path(config).read_text())["model"]
    )


def test_weight_averaging_tests_the_best_checkpoint_and_not_the_last_average(tmp_path) -> None:
    average = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]
    record = run_of([*average, "--trainer.max_epochs=3", "--best.monitor=val/loss",
                     "--best.mode=max"], tmp_path / "runs")  # fmt: skip
    losses = logged(only_run(tmp_path / "runs"), "val/loss")
    assert max(losses) != losses[-1]  # the worst by loss is the "best" asked for
    assert record["metrics"]["val"]["loss"]["value"] == pytest.approx(max(losses), rel=1e-6)


@pytest.mark.parametrize("network", ["MLP", "RNN", "ViT"])
def test_another_network_is_one_word(network, tmp_path) -> None:
    record = run_of(["--model.network", network], tmp_path / "runs")
    assert record["metrics"]["test"]["accuracy"]["value"] > 0.2


def test_two_processes_measure_the_same_test_set(tmp_path) -> None:
    """Same weights, 359 images over 2 processes: equal counts, and nothing counted twice."""
    arguments = [sys.executable, "-m", "project.train", *SHORT, "--trainer.max_epochs=1",
                 "--trainer.precision=32-true", "--runs_dir", str(tmp_path / "runs"),
                 "--trainer.devices=2", "--trainer.strategy=ddp",
                 "--data.batch_size=32"]  # fmt: skip
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    directory = only_run(tmp_path / "runs")  # for both processes
    record = record_of(directory)
    assert record["metrics"]["test"]["accuracy"]["count"] == 359
    outcomes = load_outcomes(directory, "test")  # in the order of the data, of no process
    _, test = Digits().load(tmp_path)
    assert outcomes["labels"].tolist() == test.labels.tolist()

    checkpoint = directory / "checkpoints" / "best.ckpt"
    task = ImageClassification.load_from_checkpoint(
        checkpoint, weights_only=True, map_location="cpu"
    )
    data = ProjectCLI(["--config", str(directory / "config.yaml")]).datamodule
    data.setup("test")
    with torch.no_grad():
        right = sum((task.eval()(x).argmax(1) == y).sum().item() for x, y in data.test_dataloader())
    assert right == record["metrics"]["test"]["accuracy"]["right"]
    assert result.stdout.count("test accuracy") == 1


def test_last_step_is_validated_wherever_max_steps_falls(tmp_path) -> None:
    record = run_of(["--trainer.max_steps=3"], tmp_path / "runs")  # an epoch has 20
    assert record["steps"] == 3
    assert record["metrics"]["test"]["accuracy"]["count"] == 359


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.network", "GPT"], "GPT reads text; set --model.network to one for images"),
        (["--config", str(CONFIGS / "docs_transformer.yaml"), "--model.network", "CNN"],
         "CNN reads images; set --model.network to one for text"),
        (["--config", str(CONFIGS / "docs_transformer.yaml"), "--data.corpus.path", "novel.txt"],
         "for your own text add --data.corpus TextCorpus"),
    ],
)  # fmt: skip
def test_a_network_or_text_of_another_kind_is_one_message(
    arguments, message, tmp_path, capsys
) -> None:
    assert command([*arguments, "--runs_dir", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_text_limited_in_epochs_is_validated_at_the_end(tmp_path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a text of a few words\n" * 300)
    record = run_of(
        ["--config", str(CONFIGS / "docs_transformer.yaml"), "--data.corpus", "TextCorpus",
         "--data.corpus.path", str(text), "--model.network", "MLPLanguageModel",
         "--trainer.max_epochs=1"], tmp_path / "runs")  # fmt: skip
    assert record["epochs"] == 1
    assert record["steps"] < 250  # the interval
    assert record["metrics"]["test"]["loss"]["count"] > 0


def test_a_run_without_a_validation_says_so(tmp_path, capsys) -> None:
    arguments = [*SHORT, "--runs_dir", str(tmp_path / "runs"), "--trainer.max_epochs=1"]
    assert command([*arguments, "--trainer.check_val_every_n_epoch=2"]) == 2
    assert "20 steps were taken without a validation" in capsys.readouterr().err
    assert record_of(only_run(tmp_path / "runs"))["status"] == "failed"


def test_the_users_checkpoint_callback_does_not_replace_the_best(tmp_path) -> None:
    own = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=train/accuracy",
           "--trainer.callbacks.dirpath", str(tmp_path / "own")]  # fmt: skip
    record = run_of(own, tmp_path / "runs")
    assert record["best_checkpoint"] == "checkpoints/best.ckpt"


def test_a_task_and_data_of_ones_own_need_none_of_our_methods(own_experiment, tmp_path) -> None:
    record = run_of(["--config", own_experiment], tmp_path / "runs")
    assert record["metrics"]["test"]["accuracy"] == 0.25


def test_help_is_one_screen(capsys) -> None:
    assert main(["--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 45


def test_every_example_of_the_help_parses(monkeypatch, stand_in_data) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    examples = [line.strip() for line in HELP.splitlines() if line.startswith("  python -m")]
    for example in examples:
        _, arguments = general_options(shlex.split(example)[3:])
        ProjectCLI(arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model.network.widht", "3"], "did you mean width?"),
        (["--data.dataset", "FashionMNIST", "--data.root", "nowhere"], "FashionMNIST is not in"),
        (["--model.network", "MLP", "--model.network.image_size", "28"], "set --model.network"),
        (["--data.val_fraction", "2"], "error: val_fraction 2"),
        (["--trainer.limit_val_batches", "0"], "limit_val_batches 0: a run"),
        (["--trainer.accelerator", "tpu"], "torch_xla"),
        (["--data.dataset", "ImageFolder", "--data.dataset.path", "nowhere"], "not a folder"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments, says, tmp_path, capsys, offline
) -> None:
    assert command(arguments) == 2
    message = capsys.readouterr().err
    assert says in message
    assert "Union" not in message  # jsonargparse's page around what a class refused
    assert len(message.strip().splitlines()) <= 2
    assert not list(tmp_path.glob("runs/*"))


def test_a_failing_run_says_so_in_its_record(tmp_path, monkeypatch) -> None:
    def broken(self: ImageClassification, batch: object, batch_idx: int) -> None:
        raise RuntimeError("a bug in new code")

    monkeypatch.setattr(ImageClassification, "training_step", broken)
    with pytest.raises(RuntimeError, match="a bug in new code"):  # with its traceback
        command([*SHORT, "--runs_dir", str(tmp_path / "runs")])
    record = record_of(only_run(tmp_path / "runs"))
    assert record["status"] == "failed"
    assert "a bug in new code" in record["error"]


def test_fast_dev_run_keeps_nothing(tmp_path) -> None:
    assert command(["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"]) == 0
    assert not (tmp_path / "runs").exists()


def test_nothing_of_the_shell_changes_the_result(
    finished_run, tmp_path, request, monkeypatch
) -> None:
    shell = {
        "PL_GLOBAL_SEED": "7",
        "PL_TRAINER_MAX_EPOCHS": "1",
        "TZ": "Asia/Tokyo",
        "PROJECT_RUN_DIR": "elsewhere",
        "WANDB_MODE": "online",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    time.tzset()
    request.addfinalizer(time.tzset)  # after monkeypatch has put TZ back
    runs = tmp_path / "other"
    assert command([*SHORT, "--runs_dir", str(runs), "--trainer.precision", "32-true"]) == 0
    again = only_run(runs)
    assert (again / "metrics.csv").read_text() == (finished_run / "metrics.csv").read_text()
