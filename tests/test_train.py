"""The command as a user meets it, on embedded data."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule

from project.comparison.outcomes import load_outcomes
from project.configuration import CONFIGS, ProjectCLI
from project.data.image_sets import Digits
from project.tasks.image_classification import ImageClassification
from project.train import HELP, main
from project.training.command import command, general_options

SHORT = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("finished") / "runs"
    assert command([*SHORT, "--runs_dir", str(runs), "--trainer.precision", "32-true"]) == 0
    (directory,) = runs.iterdir()
    return directory


def run_of(arguments: list[str], runs: Path) -> dict:
    assert command([*SHORT, "--runs_dir", str(runs), *arguments]) == 0
    (path,) = runs.glob("*/run.json")
    return json.loads(path.read_text())


def test_run_directory_holds_what_the_design_says(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "run.json", "checkpoints"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    checkpoints = {path.name for path in (finished_run / "checkpoints").iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt", "previous.ckpt"}


def test_record_holds_metrics_with_intervals_and_provenance(finished_run: Path) -> None:
    record = json.loads((finished_run / "run.json").read_text())
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
    header, *rows = (finished_run / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    values = [dict(zip(columns, row.split(","), strict=True)) for row in rows]
    assert sum(bool(row["val/accuracy"]) for row in values) == 2
    assert sum(bool(row["test/accuracy"]) for row in values) == 1
    assert sum(bool(row["train/loss"]) for row in values) == 4  # 40 steps, one in 10


def test_closing_table_fits_and_says_what_matters(finished_run: Path, capsys) -> None:
    from project.training.closing_table import closing_table

    record = json.loads((finished_run / "run.json").read_text())
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
    record = json.loads((finished_run / "run.json").read_text())
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
    (again,) = (tmp_path / "again").iterdir()
    assert (again / "metrics.csv").read_text() == (finished_run / "metrics.csv").read_text()
    assert (
        yaml.safe_load((again / "config.yaml").read_text())["model"]
        == yaml.safe_load(Path(config).read_text())["model"]
    )


def test_weight_averaging_tests_the_best_checkpoint_and_not_the_last_average(tmp_path) -> None:
    average = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]
    record = run_of([*average, "--trainer.max_epochs=3", "--best.monitor=val/loss",
                     "--best.mode=max"], tmp_path / "runs")  # fmt: skip
    (directory,) = (tmp_path / "runs").iterdir()
    header, *rows = (directory / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("val/loss")
    losses = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
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
    (path,) = (tmp_path / "runs").glob("*/run.json")  # one directory for both processes
    record = json.loads(path.read_text())
    assert record["metrics"]["test"]["accuracy"]["count"] == 359
    outcomes = load_outcomes(path.parent, "test")  # in the order of the data, of no process
    _, test = Digits().load(tmp_path)
    assert outcomes["labels"].tolist() == test.labels.tolist()

    checkpoint = path.parent / "checkpoints" / "best.ckpt"
    task = ImageClassification.load_from_checkpoint(
        checkpoint, weights_only=True, map_location="cpu"
    )
    data = ProjectCLI(["--config", str(path.parent / "config.yaml")]).datamodule
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
    (path,) = (tmp_path / "runs").glob("*/run.json")
    assert json.loads(path.read_text())["status"] == "failed"


@pytest.mark.slow
def test_torchrun_ends_like_a_single_process(tmp_path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    arguments = [*torchrun, "-m", "project.train", *SHORT, "--trainer.max_epochs=1",
                 "--runs_dir", str(tmp_path / "runs"), "--trainer.devices=2",
                 "--trainer.strategy=ddp", "--data.batch_size=32"]  # fmt: skip
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    (path,) = (tmp_path / "runs").glob("*/run.json")
    record = json.loads(path.read_text())
    assert record["status"] == "finished"
    assert record["hardware"]["processes"] == 2
    assert record["metrics"]["test"]["accuracy"]["count"] == 359


def test_the_users_checkpoint_callback_does_not_replace_the_best(tmp_path) -> None:
    own = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=train/accuracy",
           "--trainer.callbacks.dirpath", str(tmp_path / "own")]  # fmt: skip
    record = run_of(own, tmp_path / "runs")
    assert record["best_checkpoint"] == "checkpoints/best.ckpt"


def test_a_task_and_data_of_ones_own_need_none_of_our_methods(tmp_path, monkeypatch) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "from lightning.pytorch import LightningDataModule, LightningModule\n"
        "class OwnTask(LightningModule):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(3, 1)\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return self.layer(batch['x']).square().mean()\n"
        "    def validation_step(self, batch, batch_idx):\n"
        "        self.log('val/accuracy', 0.5)\n"
        "    def test_step(self, batch, batch_idx):\n"
        "        self.log('test/accuracy', 0.25)\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), lr=0.1)\n"
        "class OwnData(LightningDataModule):\n"
        "    def batches(self):\n"
        "        assert self.trainer is not None\n"
        "        return torch.utils.data.DataLoader([{'x': torch.ones(3)}] * 4, batch_size=2)\n"
        "    train_dataloader = val_dataloader = test_dataloader = batches\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own.yaml").write_text(
        "model: own.OwnTask\ndata: own.OwnData\nbest: {monitor: val/accuracy, mode: max}\n"
    )
    record = run_of(["--config", str(tmp_path / "own.yaml")], tmp_path / "runs")
    assert record["metrics"]["test"]["accuracy"] == 0.25


def test_help_is_one_screen(capsys) -> None:
    assert main(["--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 45


def test_every_example_of_the_help_parses(monkeypatch, stand_in_data) -> None:
    import shlex

    from project.configuration import CONFIGS

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
    arguments, says, tmp_path, capsys, monkeypatch
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    assert command(arguments) == 2
    message = capsys.readouterr().err
    assert says in message
    assert "Union" not in message  # jsonargparse's page around what a class refused
    assert len(message.strip().splitlines()) <= 2
    assert not list(tmp_path.glob("runs/*"))


def test_a_failing_run_says_so_in_its_record(tmp_path, monkeypatch) -> None:
    from project.tasks.image_classification import ImageClassification

    def broken(self: ImageClassification, batch: object, batch_idx: int) -> None:
        raise RuntimeError("a bug in new code")

    monkeypatch.setattr(ImageClassification, "training_step", broken)
    with pytest.raises(RuntimeError, match="a bug in new code"):  # with its traceback
        command([*SHORT, "--runs_dir", str(tmp_path / "runs")])
    (path,) = (tmp_path / "runs").glob("*/run.json")
    record = json.loads(path.read_text())
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
    (again,) = runs.iterdir()
    assert (again / "metrics.csv").read_text() == (finished_run / "metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("streams", [False, True], ids=["windows", "streams"])
def test_two_processes_train_and_measure_a_text_as_one_does(tmp_path, streams) -> None:
    """Global batch k is the same, and so is the mean over its tokens and over the test split."""
    config = str(CONFIGS / "docs_transformer.yaml")
    small = ["--config", config, "--model.network", "RNNLanguageModel",
             "--model.network.width=32", "--model.network.depth=1",
             "--trainer.max_steps=5", "--trainer.precision=32-true", "--trainer.accelerator=cpu",
             "--data.cache_dir", str(tmp_path / "cache"), f"--data.streams={streams}",
             "--data.eval_batch_size=6", "--model.sample_tokens=0"]  # fmt: skip
    one = ["--trainer.devices=1", "--data.batch_size=4", "--data.eval_batch_size=12"]
    two = ["--trainer.devices=2", "--data.batch_size=2", "--trainer.strategy=ddp"]
    losses, outcomes = [], []
    for i, options in enumerate((one, two)):
        runs = tmp_path / f"runs{i}"
        command = [sys.executable, "-m", "project.train", *small, *options, "--runs_dir", str(runs)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
        (path,) = runs.glob("*/run.json")
        losses.append(json.loads(path.read_text())["metrics"]["test"]["loss"])
        outcomes.append(load_outcomes(path.parent, "test")["losses"])
    assert losses[0]["count"] == losses[1]["count"]
    assert losses[0]["value"] == pytest.approx(losses[1]["value"], rel=1e-5)
    np.testing.assert_allclose(outcomes[0], outcomes[1], rtol=1e-3)  # token by token
    assert losses[0]["value"] < 5.5  # it has learnt: ln 256 is 5.545
