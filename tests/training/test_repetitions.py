"""One command trains every seed and fold, once, and goes on after whatever stopped it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import only_run, posix, record_of

from project.comparison.outcomes import load_outcomes
from project.configuration import CONFIGS
from project.tasks.image_classification import ImageClassification
from project.training import repetitions
from project.training.command import command
from project.training.repetitions import numbers

TINY = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--model.network=MLP",
        "--model.network.width=8", "--trainer.max_epochs=2",
        "--trainer.limit_train_batches=3", "--trainer.logger=false"]  # fmt: skip
LONG = [*TINY, "--trainer.max_epochs=25", "--trainer.log_every_n_steps=1",
        "--checkpoint_minutes=0"]  # fmt: skip


def records(runs: Path) -> list[dict[str, Any]]:
    found = [record_of(path.parent) for path in runs.glob("*/run.json")]
    return sorted(found, key=lambda record: (record["seed"], record["started"]))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0..4", [0, 1, 2, 3, 4]), ("3", [3]), ("7,0", [7, 0]), ("0..2, 7", [0, 1, 2, 7]),
     ("1,0..2", [1, 0, 2]), ("5..5", [5])],
)  # fmt: skip
def test_numbers_are_ranges_and_lists_each_once(text, wanted) -> None:
    assert numbers(text) == wanted


@pytest.mark.parametrize("text", ["", "4..0", "0-4", "a", "1,", "-1", "0..", "0...2"])
def test_what_names_no_numbers_is_refused(text) -> None:
    with pytest.raises(ArgumentTypeError, match=r"not like 0\.\.4 or 0,3,7"):
        numbers(text)


def test_seeds_are_trained_once_and_put_together(trained, tmp_path, capsys) -> None:
    runs = tmp_path / "runs"
    typed = [*TINY, "--runs_dir", str(runs), "--seeds", "0..1"]
    assert command(typed) == 0
    assert [record["seed"] for record in records(runs)] == [0, 1]
    values = [record["metrics"]["test"]["accuracy"]["value"] for record in records(runs)]
    output = capsys.readouterr().out
    assert f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}" in output
    trained.clear()
    assert command(typed) == 0
    assert command([*typed, "--experiment=other", "--data.num_workers=0"]) == 0  # the same recipe
    assert trained == []
    assert capsys.readouterr().out.count("is there") == 4
    assert command([*typed[:-1], "0..2"]) == 0
    assert [arguments[-2:] for arguments in trained] == [["--seed_everything", "2"]]


def test_other_code_and_another_configuration_are_trained_anew(trained, tmp_path) -> None:
    runs = tmp_path / "runs"
    typed = [*TINY, "--runs_dir", str(runs), "--seeds", "0"]
    assert command(typed) == 0
    assert command([*typed, "--model.network.width=9"]) == 0
    assert len(trained) == 2
    (first,) = [path for path in runs.iterdir() if "width: 8" in (path / "config.yaml").read_text()]
    (first / "code.patch").write_text("of a note in the README\n")
    assert command(typed) == 0
    assert len(trained) == 2
    record = json.loads((first / "run.json").read_text())
    (first / "run.json").write_text(json.dumps(record | {"code_sha256": "of another idea"}))
    assert command(typed) == 0
    assert len(trained) == 3
    changed = {"status": "running", "code_sha256": "of another idea"}
    (first / "run.json").write_text(json.dumps(record | changed))
    assert command(typed) == 0  # the stopped one of other code is left alone
    assert len(trained) == 3


def test_code_that_is_edited_meanwhile_does_not_stop_the_seeds(
    tmp_path, monkeypatch, capsys
) -> None:
    runs = tmp_path / "runs"

    def train_and_edit(typed: list[str]) -> int:
        code = command(typed)
        newest = max(runs.iterdir(), key=lambda path: path.stat().st_mtime)
        record = json.loads((newest / "run.json").read_text())
        (newest / "run.json").write_text(json.dumps(record | {"code_sha256": "before an edit"}))
        return code

    monkeypatch.setattr(repetitions, "run_in_a_process", train_and_edit)
    assert command([*TINY, "--runs_dir", str(runs), "--seeds", "0..1"]) == 0
    assert "default        2 " in capsys.readouterr().out


def test_folds_are_trained_with_each_seed_and_hold_out_each_image_once(
    trained, tmp_path, capsys
) -> None:
    runs = tmp_path / "runs"
    typed = [*TINY, "--runs_dir", str(runs), "--data.num_folds", "3", "--folds", "0..2"]
    assert command(typed) == 0
    found = records(runs)
    assert len({record["data"]["sha256"]["val_indices"] for record in found}) == 3
    assert sum(record["data"]["images"]["val"] for record in found) == 1797 - 359
    assert len({record["data"]["sha256"]["test"] for record in found}) == 1
    assert "3 folds" in capsys.readouterr().out
    trained.clear()
    assert command([*typed, "--seeds", "0,5"]) == 0
    assert [arguments[-4:] for arguments in trained] == [
        ["--seed_everything", "5", "--data.fold", str(fold)] for fold in range(3)
    ]
    assert "3 folds x 2" in capsys.readouterr().out


def test_a_training_that_fails_ends_the_command_and_says_so(
    trained, tmp_path, monkeypatch, capsys
) -> None:
    def diverge(self: ImageClassification, batch: Any, batch_idx: int) -> Any:
        return sum(parameter.sum() for parameter in self.parameters()) * float("nan")

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassification, "training_step", diverge)
        assert command([*TINY, "--runs_dir", str(tmp_path / "runs"), "--seeds", "0..3"]) == 1
    assert len(trained) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "seed 0 ended with code 1; the same command tries it again"
    assert command([*TINY, "--runs_dir", str(tmp_path / "runs"), "--seeds", "0"]) == 0
    assert len(trained) == 2
    assert "--resume" not in trained[1]


def test_data_of_ones_own_that_take_no_arguments_have_seeds_too(
    own_experiment, trained, capsys
) -> None:
    assert command(["--config", own_experiment, "--seeds", "0..1"]) == 0
    assert "other data: accuracy, %" in capsys.readouterr().out
    assert command(["--config", own_experiment, "--folds", "0"]) == 2
    assert "--folds: these data have no folds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds", "4..0"], "--seeds: '4..0' is not like 0..4 or 0,3,7"),
        (["--seeds", "all"], "--seeds: 'all' is not like 0..4"),
        (["--folds", "0..4"], "set --data.num_folds to 5 or more; folds are counted from 0"),
        (["--folds", "5", "--data.num_folds", "5"], "--folds 5 of data.num_folds 5"),
        (["--seeds", "0..1", "--trainer.fast_dev_run", "true"], "there is nothing to repeat"),
        (["--seeds", "0..1", "--model.network.widht", "3"], "did you mean width?"),
        (["--folds", "0", "--config", str(CONFIGS / "docs_transformer.yaml")],
         "--folds: these data have no folds"),
    ],
)  # fmt: skip
def test_what_cannot_be_repeated_is_one_line_before_anything_is_trained(
    arguments, says, trained, tmp_path, capsys
) -> None:
    assert command([*arguments, "--runs_dir", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert len(message.splitlines()) == 1
    assert trained == []
    assert not (tmp_path / "runs").exists()


def test_a_launcher_is_refused(trained, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert command([*TINY, "--runs_dir", str(tmp_path / "runs"), "--seeds", "0..1"]) == 2
    assert "leave out the launcher" in capsys.readouterr().err
    assert trained == []


def rows_of(runs: Path, seed: int) -> int:
    """Return how many rows of metrics the run of a seed has logged."""
    for path in runs.glob("*/run.json"):
        metrics = path.with_name("metrics.csv")
        if json.loads(path.read_text())["seed"] == seed and metrics.is_file():
            return metrics.read_text().count("\n")
    return 0


def once(condition: Callable[[], bool], action: Callable[[], None]) -> threading.Thread:
    """Do something as soon as a condition holds, beside what goes on."""

    def wait() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if condition():
                action()
                return
            time.sleep(0.005)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@posix
@pytest.mark.slow
def test_seeds_that_are_stopped_and_killed_end_as_if_they_were_not(
    tmp_path, monkeypatch, capfd
) -> None:
    """SIGTERM, then kill -9, then to the end: a process each for the second seed."""
    undisturbed, runs = tmp_path / "undisturbed", tmp_path / "runs"
    assert command([*LONG, "--runs_dir", str(undisturbed), "--seed_everything", "1"]) == 0
    assert command([*LONG, "--runs_dir", str(runs), "--seed_everything", "0"]) == 0
    typed = [*LONG, "--runs_dir", str(runs), "--seeds", "0..1"]
    processes: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            processes.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(repetitions.subprocess, "Popen", Noted)
        once(lambda: rows_of(runs, 1) > 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        before = signal.getsignal(signal.SIGTERM)
        assert command(typed) == 143
        assert signal.getsignal(signal.SIGTERM) is before
        reached = rows_of(runs, 1)
        assert records(runs)[1]["status"] == "interrupted"
        once(lambda: rows_of(runs, 1) > reached + 8, lambda: processes[-1].kill())
        assert command(typed) == 137
        assert records(runs)[1]["status"] == "running"
    errors = capfd.readouterr().err
    assert "seed 1 ended with code 143; the same command goes on with it" in errors
    assert "seed 1 ended with code 137; the same command goes on with it" in errors
    assert command(typed) == 0

    wanted = only_run(undisturbed)
    assert len(list(runs.iterdir())) == 2
    (found,) = [
        p for p in runs.iterdir() if "seed_everything: 1" in (p / "config.yaml").read_text()
    ]
    record, whole = map(record_of, (found, wanted))
    assert len(record["resumed"]) == 2
    assert all(0 < session["from_step"] < record["steps"] for session in record["resumed"])
    assert record["metrics"] == whole["metrics"]
    assert (found / "metrics.csv").read_text() == (wanted / "metrics.csv").read_text()
    for name, values in load_outcomes(wanted, "test").items():
        np.testing.assert_array_equal(load_outcomes(found, "test")[name], values)
    assert "default        2 " in capfd.readouterr().out


@posix
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "to_all", "code"),
    [("SIGINT", True, 130), ("SIGTERM", False, 143), ("SIGUSR1", False, 143)],
)
def test_a_signal_saves_the_run_and_ends_both_processes(name, to_all, code, tmp_path) -> None:
    """Ctrl-C comes to all processes of a terminal, the others to that which a user knows."""
    runs = tmp_path / "runs"
    typed = [sys.executable, "-m", "project.train", *LONG, "--trainer.max_epochs=500",
             "--runs_dir", str(runs), "--seeds", "3..4"]  # fmt: skip
    process = subprocess.Popen(typed, start_new_session=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)  # fmt: skip
    send = os.killpg if to_all else os.kill
    once(lambda: rows_of(runs, 3) > 8, lambda: send(process.pid, getattr(signal, name)))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code
    (record,) = records(runs)
    assert (record["status"], record["exit_code"]) == ("interrupted", code)
    assert (only_run(runs) / "checkpoints" / "last.ckpt").is_file()
    assert f"seed 3 ended with code {code}; the same command goes on with it" in output
    assert "Traceback" not in output
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nothing is left of it
