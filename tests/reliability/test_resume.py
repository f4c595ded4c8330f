"""Runs that go on: longer than they were begun, with tasks of one's own, in another place."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import only_run, posix, record_of, wandb_records
from kill_matrix import ROWS, Row, compare, differences, prepare, scalars, strip
from lightning.pytorch import LightningModule

from project.checkpoints.checkpoint_file import read
from project.checkpoints.resume import changes, is_longer, open_run
from project.comparison.configurations import flat
from project.tasks.image_classification import ImageClassification
from project.training.command import build, command

STEADY = Row("MLP without a schedule", "MLP", scheduler="null")
ROW = {row.name: row for row in ROWS}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Callable[[str, Row], Path]:
    """A function that makes a folder with a row's configuration, and goes there."""

    def make(name: str, row: Row) -> Path:
        prepare(row, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return make


def run_in(folder: Path) -> Path:
    return only_run(folder / "runs")


def stop_at(task: type, number: int, monkeypatch) -> None:
    """Let SIGTERM come in training step `number`, counted from 1."""
    step = task.training_step

    def stopped(self: LightningModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step + 1 == number:
            signal.raise_signal(signal.SIGTERM)  # os.kill would end the process on Windows
        return step(self, batch, batch_idx)

    monkeypatch.setattr(task, "training_step", stopped)


def test_a_finished_run_made_longer_is_the_longer_run(folder) -> None:
    """With a constant learning rate: a schedule that ends with the run would be another one."""
    whole = folder("whole", STEADY)
    assert command(["--config", "config.yaml"]) == 0
    longer = folder("longer", STEADY)
    assert command(["--config", "config.yaml", "--trainer.max_epochs=2"]) == 0
    assert command(["--resume", str(run_in(longer)), "--trainer.max_epochs=3"]) == 0
    a, b = (strip(read(run_in(f) / "checkpoints" / "last.ckpt")) for f in (whole, longer))
    assert not differences(a["state_dict"], b["state_dict"])
    assert not differences(a["optimizer_states"], b["optimizer_states"])
    # The row of the shorter run's test is gone with the rest of what came after its training.
    rows = [(run_in(f) / "metrics.csv").read_text() for f in (whole, longer)]
    assert rows[0] == rows[1]
    assert "max_epochs: 3" in (run_in(longer) / "config.yaml").read_text()


def test_a_schedule_stretches_to_a_longer_run(folder) -> None:
    longer = folder("longer", ROW["MLP"])
    assert command(["--config", "config.yaml", "--trainer.max_epochs=2"]) == 0
    assert command(["--resume", str(run_in(longer)), "--trainer.max_epochs=4"]) == 0
    rates = scalars(run_in(longer))["train/learning_rate"]
    assert [step for step, _ in rates] == list(range(32))
    assert rates[15][1] < 1e-4 < rates[16][1]  # it had ended, and does so again
    assert rates[-1][1] < 1e-4


def test_a_run_limited_in_steps_can_be_made_longer(folder) -> None:
    longer = folder("longer", STEADY)
    steps = ["--trainer.max_epochs=-1", "--trainer.max_steps=11"]
    assert command(["--config", "config.yaml", *steps]) == 0
    assert command(["--resume", str(run_in(longer)), "--trainer.max_steps=19"]) == 0
    record = record_of(run_in(longer))
    assert (record["steps"], record["status"]) == (19, "finished")


def test_a_moved_run_goes_on_and_knows_its_best(folder, monkeypatch) -> None:
    whole = folder("whole", ROW["MLP"])
    assert command(["--config", "config.yaml"]) == 0
    here = folder("here", ROW["MLP"])
    with monkeypatch.context() as patch:
        stop_at(ImageClassification, 18, patch)
        assert command(["--config", "config.yaml"]) == 143
    there = here.with_name("there")
    shutil.move(here, there)
    monkeypatch.chdir(there)
    assert command(["--resume", str(run_in(there))]) == 0
    assert not [found for found in compare(whole, there) if not found.startswith("batches")]
    record = record_of(run_in(there))
    assert record["resumed"][0]["from_step"] == 18
    best = read(run_in(there) / "checkpoints" / "last.ckpt")["callbacks"]
    (state,) = (v for k, v in best.items() if k.startswith("BestCheckpoint"))
    assert state["best_model_path"].startswith(str(there))


def test_a_run_with_frozen_parts_goes_on_without_the_file_it_began_with(
    folder, monkeypatch, capsys
) -> None:
    before = run_in(begun(folder("before", ROW["CNN"])))
    fine_tuned = Row("", "CNN", optimizer="MuonAdamW", flags=ROW["CNN, EMA"].flags)
    flags = ["--config", "config.yaml", *fine_tuned.flags, "--init_from", str(before),
             "--freeze", "stem.*"]  # fmt: skip
    whole = folder("whole", fine_tuned)
    assert command(flags) == 0
    stopped = folder("stopped", fine_tuned)
    with monkeypatch.context() as patch:
        stop_at(ImageClassification, 12, patch)
        assert command(flags) == 143
    shutil.rmtree(before)
    resume = ["--resume", str(run_in(stopped))]
    for other in (["--freeze", "head.*"], ["--init_from", "null"]):
        assert command([*resume, *other]) == 2
        assert f"{other[0][2:]} was" in capsys.readouterr().err
    assert command(resume) == 0
    assert not compare(whole, stopped)
    records = [record_of(run_in(f)) for f in (whole, stopped)]
    assert records[0]["init_from"] == records[1]["init_from"]
    assert records[0]["trainable_parameters"] == records[1]["trainable_parameters"] == 282_378


def begun(folder: Path) -> Path:
    """Take two steps, so that there is a run."""
    assert command(["--config", "config.yaml", "--trainer.max_steps=2"]) == 0
    return folder


OWN_TASK = '''
import torch, torchmetrics
from lightning.pytorch import LightningModule
from torch.utils.data import Dataset
from lightning.pytorch import LightningDataModule
from project.data.loader import SeededLoader, seeded_samples, train_position

class Task(LightningModule):
    """Logs averages over the epoch by Lightning, and a torchmetrics metric."""
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.error = torchmetrics.MeanAbsoluteError()
    def training_step(self, batch, batch_idx):
        x, y = batch
        output = torch.nn.functional.dropout(self.layer(x), 0.3)[:, 0]
        loss = (output - y).square().mean()
        self.log("mean_loss", loss, on_step=False, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("both", loss, on_step=True, on_epoch=True, reduce_fx="sum")
        if batch_idx % 3 == 1:
            self.log("now_and_then", loss, on_step=False, on_epoch=True)
        self.error.update(output.detach(), y)
        return loss
    def on_train_epoch_end(self):
        self.log("error", self.error.compute())
        self.error.reset()
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", (self.layer(x)[:, 0] - y).square().mean(), batch_size=len(x))
    test_step = validation_step
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)

class Noisy(Dataset):
    def __getitem__(self, index):
        x = torch.arange(4.0) + index + torch.randn(4)  # augmented by torch's generator
        return x / 10, torch.tensor(index % 2).float()
    def __len__(self):
        return 40

class Data(LightningDataModule):
    def __init__(self, num_workers: int = 0):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.num_workers = num_workers
    def train_dataloader(self):
        return SeededLoader(40, 5, seeded_samples(Noisy(), 0), shuffle=True,
                            position=lambda: train_position(self.trainer),
                            num_workers=self.num_workers)
    def val_dataloader(self):
        return torch.utils.data.DataLoader([(torch.ones(4), torch.tensor(1.0))] * 4, batch_size=2)
    test_dataloader = val_dataloader
'''


@pytest.mark.parametrize("stop", [3, 5, 9, 14])
def test_a_task_of_ones_own_keeps_its_averages(stop, tmp_path, monkeypatch) -> None:
    (tmp_path / "own_task.py").write_text(OWN_TASK)
    monkeypatch.syspath_prepend(tmp_path)
    import own_task

    arguments = ["--model=own_task.Task", "--data=own_task.Data", "--trainer.max_epochs=2",
                 "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1",
                 "--best.monitor=val/loss", "--best.mode=min",
                 "--trainer.enable_progress_bar=false"]  # fmt: skip
    workers = f"--data.num_workers={int(hasattr(os, 'fork'))}"
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with monkeypatch.context() as patch:
            if name == "stopped":
                stop_at(own_task.Task, stop, patch)
            assert command(arguments) == (0 if name == "whole" else 143)
    stopped = str(run_in(tmp_path / "stopped"))
    assert command(["--resume", stopped]) == 2  # of another package
    with monkeypatch.context() as patch:  # again, before all averages were logged a second time
        stop_at(own_task.Task, stop + 1, patch)
        assert command(["--resume", stopped, "--allow", "own_task"]) == 143
    assert command(["--resume", stopped, "--allow", "own_task", workers]) == 0
    rows = [(run_in(tmp_path / n) / "metrics.csv").read_text() for n in ("whole", "stopped")]
    assert rows[0] == rows[1]
    for column in ("mean_loss", "largest", "both_epoch", "now_and_then", "error"):
        assert column in rows[0]


def test_steps_are_seeded_by_their_coordinates(folder) -> None:
    """Other draws in between, such as a user's callback makes, change nothing."""
    first = folder("first", ROW["MLP"])
    assert command(["--config", "config.yaml"]) == 0
    second = folder("second", ROW["MLP"])
    step = ImageClassification.validation_step

    def draws(self: Any, *arguments: Any) -> Any:
        torch.rand(1000)
        return step(self, *arguments)

    ImageClassification.validation_step = draws
    try:
        assert command(["--config", "config.yaml"]) == 0
    finally:
        ImageClassification.validation_step = step
    assert not compare(first, second)


def test_training_on_attacked_images_goes_on_exactly(folder, monkeypatch) -> None:
    """Each step and each validation begins its attacks at random."""
    attacked = Row(
        "CNN attacked", "CNN", flags=("--model.attack=ProjectedGradientDescent",
        "--model.attack.steps=2", "--model.attack.step_size=0.1"),
    )  # fmt: skip
    arguments = ["--config", "config.yaml", "--model.network.width=4", *attacked.flags]
    whole = folder("whole", attacked)
    assert command(arguments) == 0
    stopped = folder("stopped", attacked)
    with monkeypatch.context() as patch:
        stop_at(ImageClassification, 12, patch)
        assert command(arguments) == 143
    assert command(["--resume", str(run_in(stopped))]) == 0
    assert not [found for found in compare(whole, stopped) if not found.startswith("batches")]
    assert len(scalars(run_in(stopped))["val/robust_accuracy"]) == 3


def test_wandb_has_one_run_and_its_exit_codes(folder, monkeypatch) -> None:
    """Read back from what W&B writes offline."""
    here = folder("here", ROW["MLP"])
    wandb = ["--trainer.logger=WandbLogger", "--trainer.logger.offline=true",
             "--trainer.logger.save_dir=."]  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at(ImageClassification, 12, patch)
        assert command(["--config", "config.yaml", *wandb]) == 143
    time.sleep(1.1)  # W&B names its folders by the second
    assert command(["--resume", str(run_in(here))]) == 0
    expected = [run_in(here).name, 143, run_in(here).name, 0]
    give_up = time.monotonic() + 60  # another process of W&B writes, behind a busy machine later
    while (found := runs_and_exit_codes(here)) != expected and time.monotonic() < give_up:
        time.sleep(0.5)
    assert found == expected


def runs_and_exit_codes(folder: Path) -> list[str | int]:
    """Return, of each of W&B's files in turn, the run's name and its exit code."""
    found: list[str | int] = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        records = list(wandb_records(path))
        found += [record.run.run_id for record in records if record.HasField("run")][:1]
        found += [record.exit.exit_code for record in records if record.HasField("exit")]
    return found


@posix
@pytest.mark.slow
def test_a_signal_to_one_process_that_lightning_started_ends_all(tmp_path) -> None:
    """Started by Lightning itself, whose observer kills what is left when one process is gone."""
    prepare(ROW["CNN"], tmp_path / "here")
    train = [sys.executable, "-m", "project.train"]
    flags = ["--config", "config.yaml", "--trainer.devices=2", "--trainer.strategy=ddp",
             "--trainer.max_epochs=2000", "--checkpoint_minutes=5"]  # fmt: skip
    log = (tmp_path / "log.txt").open("w")
    run = subprocess.Popen([*train, *flags], cwd=tmp_path / "here", stderr=log, stdout=log)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("here/runs/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline, Path(log.name).read_text()
        time.sleep(0.2)
    (child,) = subprocess.run(
        ["pgrep", "--parent", str(run.pid), "--full", "project.train"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    os.kill(int(child), signal.SIGTERM)
    assert run.wait(timeout=60) == 143, Path(log.name).read_text()[-2000:]
    assert not Path(f"/proc/{child}").exists()
    record = record_of(run_in(tmp_path / "here"))
    assert (record["status"], record["exit_code"]) == ("interrupted", 143)


@pytest.mark.parametrize(
    ("key", "before", "now", "longer"),
    [
        ("trainer.max_epochs", 2, 3, True),
        ("trainer.max_epochs", 3, 2, False),
        ("trainer.max_steps", 10, -1, True),
        ("trainer.max_steps", -1, 10, False),
        ("data.batch_size", 2, 3, False),
    ],
)
def test_which_limits_are_raised(key, before, now, longer) -> None:
    assert is_longer(key, before, now) is longer


def test_nested_configurations_are_compared_key_by_key() -> None:
    assert flat({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "d": [1]}


def test_the_templates_of_the_matrix_are_complete() -> None:
    for row in ROWS:
        assert not {"NETWORK", "OPTIMIZER", "SCHEDULER", "STREAMS"} & set(row.config().split())


def test_a_run_of_an_older_version_goes_on_without_the_keys_that_came_later(folder) -> None:
    here = folder("here", ROW["MLP"])
    assert command(["--config", "config.yaml"]) == 0
    stopped = open_run(run_in(here), [])
    config = yaml.safe_load(stopped.config)
    for key in ("wandb", "energy", "init_from", "freeze"):
        del config[key]
    del config["data"]["init_args"]["num_folds"]
    older = replace(stopped, config=yaml.safe_dump(config))
    (here / "older.yaml").write_text(older.config)
    cli = build(["--config", "older.yaml"])
    assert not changes(older, cli)
    assert list(changes(older, build(["--config", "older.yaml", "--data.fold", "1"]))) == [
        "data.init_args.fold"
    ]
