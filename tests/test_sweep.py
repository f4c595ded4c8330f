"""Sweeps on the embedded digits, with networks of a few channels."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from conftest import posix
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from project.configuration import CONFIGS, ProjectCLI
from project.sweep import main
from project.sweeping.space import check, read_sweep
from project.sweeping.study import (
    begin_trial,
    end_trial,
    going_on,
    open_study,
    storage_of,
    validated,
)
from project.sweeping.supervisor import visible_gpus

SWEEPS = sorted(p for p in (CONFIGS / "sweep").glob("*.yaml") if p.stem != "wandb")
TINY = """\
experiment: CONFIGS/default.yaml
trials: 6
fixed:
  trainer: {accelerator: cpu, precision: 32-true, max_epochs: 3, limit_train_batches: 6}
  trainer.logger: false
  checkpoint_minutes: 0
space:
  model.optimizer.lr: {low: 1e-5, high: 3e-2, log: true}
  model.network.width: {choices: [4, 8]}
  data.batch_size: {low: 32, high: 64, step: 16}
sampler: {init_args: {n_startup_trials: 3}}
pruner: {class_path: MedianPruner, init_args: {n_startup_trials: 1}}
"""


def write_sweep(folder: Path, text: str = TINY, **changes: object) -> Path:
    content = yaml.safe_load(text.replace("CONFIGS", str(CONFIGS))) | changes
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(content).replace("1.0e-05", "1e-5"))
    return file


def command_line(file: Path, *more: str) -> list[str]:
    return ["--config", str(file), "--runs_dir", str(file.parent / "runs"), *more]


def trials_of(file: Path) -> list[FrozenTrial]:
    sweep = read_sweep(file, [])
    storage = storage_of(sweep, file.parent / "runs" / "sweeps" / "tiny")
    return optuna.load_study(study_name="tiny", storage=storage).get_trials()


def facts(file: Path) -> list[tuple]:
    """Return what must not depend on when a sweep was killed."""
    return [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in trials_of(file)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Of torch in the workers: on busy cores two of them wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a sweep that nothing disturbed."""
    file = write_sweep(tmp_path_factory.mktemp("finished"))
    assert main(command_line(file)) == 0
    return file


def test_as_many_trials_end_as_were_asked_for_and_some_are_pruned(finished) -> None:
    states = [trial.state for trial in trials_of(finished)]
    assert len(states) == 6
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_trial_is_a_run_with_its_values_that_never_looks_at_the_test_split(finished) -> None:
    folder = finished.parent / "runs" / "sweeps" / "tiny" / "trials"
    for trial in trials_of(finished):
        (path,) = folder.glob(f"*_trial-{trial.number:04d}_*/run.json")
        record = json.loads(path.read_text())
        assert "test" not in record.get("metrics", {})
        assert "test/" not in (path.parent / "metrics.csv").read_text()
        is_pruned = trial.state == TrialState.PRUNED
        assert record["status"] == ("pruned" if is_pruned else "finished")
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        optimizer = config["model"]["init_args"]["optimizer"]["init_args"]
        assert optimizer["lr"] == trial.params["model.optimizer.lr"]
        assert config["data"]["init_args"]["batch_size"] == trial.params["data.batch_size"]
        assert (folder / f"trial-{trial.number:04d}.log").stat().st_size > 0
        if not is_pruned:
            assert record["metrics"]["val"]["accuracy"]["value"] == pytest.approx(trial.value)
            assert list(trial.intermediate_values) == [1, 2, 3]


def test_values_are_drawn_from_the_space_with_their_types(finished) -> None:
    for trial in trials_of(finished):
        assert 1e-5 <= trial.params["model.optimizer.lr"] <= 3e-2
        assert trial.params["model.network.width"] in (4, 8)
        assert trial.params["data.batch_size"] in (32, 48, 64)
        assert type(trial.params["data.batch_size"]) is int


def test_best_yaml_is_the_experiment_in_full_with_the_best_values(finished) -> None:
    file = finished.parent / "runs" / "sweeps" / "tiny" / "best.yaml"
    complete = [t for t in trials_of(finished) if t.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value)
    cli = ProjectCLI(["--config", str(file)])
    network = cli.config.model.init_args.network.init_args
    assert network.width == best.params["model.network.width"]
    assert cli.config.data.init_args.batch_size == best.params["data.batch_size"]
    assert cli.config.trainer.max_epochs == 20  # and not the 3 of a trial
    assert cli.config.experiment == "default"
    assert f"# Trial {best.number} of a sweep" in file.read_text()


def test_the_same_command_again_has_nothing_to_do(finished, capsys) -> None:
    before = facts(finished)
    best = finished.parent / "runs" / "sweeps" / "tiny" / "best.yaml"
    text = best.read_text()
    best.unlink()  # as where the sweep was killed before it wrote that
    assert main(command_line(finished)) == 0
    assert facts(finished) == before
    assert best.read_text() == text
    assert "python -m project.train --config" in capsys.readouterr().out


def test_another_space_in_the_same_folder_is_refused(finished, capsys) -> None:
    content = yaml.safe_load(finished.read_text())
    content["space"]["model.network.width"]["choices"] = [4, 16]
    other = finished.with_name("other") / "tiny.yaml"
    other.parent.mkdir()
    other.write_text(yaml.safe_dump(content))
    arguments = ["--config", str(other), "--runs_dir", str(finished.parent / "runs")]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "space.model.network.width.choices [4, 8], and now it is [4, 16]" in message
    assert main(command_line(finished, "--trainer.max_epochs", "4")) == 2
    assert "trainer.max_epochs 3, and now it is 4" in capsys.readouterr().err


def test_a_sweep_that_goes_on_elsewhere_is_left_alone(finished, capsys) -> None:
    with FileLock(finished.parent / "runs" / "sweeps" / "tiny" / ".lock"):
        assert main(command_line(finished)) == 2
    assert "tiny' is still going on in another process" in capsys.readouterr().err


def test_plots_say_what_they_need(finished, tmp_path, capsys) -> None:
    from project.sweeping.plots import plot

    study = optuna.create_study(direction="maximize", study_name="many")
    assert plot(study, "val/accuracy", tmp_path) == "none yet: no trial is complete"
    study.optimize(lambda t: t.suggest_float("a", 0, 1) + t.suggest_int("b", 0, 3), n_trials=7)
    assert "needs 8 complete trials, and there are 7" in plot(study, "val/accuracy", tmp_path)
    study.optimize(lambda t: t.suggest_float("a", 0, 1) + t.suggest_int("b", 0, 3), n_trials=3)
    plot(study, "val/accuracy", tmp_path)
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["history.png", "importance.png"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"space": {"model.network.widht": {"choices": [4]}}}, "did you mean width?"),
        ({"space": {"model.network.width": {"choices": [4, "wide"]}}}, "expected int, got 'wide'"),
        ({"space": {"model.network.width": {"low": 4.0, "high": 8.5}}}, "expected int"),
        ({"space": {"model.network.dropout": {"low": 0, "high": 1}}}, "write 0.0"),
        ({"space": {"model.network.width": {"low": 8, "high": 4}}}, "low=8, high=4"),
        ({"space": {"model.network.width": {"lo": 8}}}, "is neither {low:"),
        ({"space": {"model.network.width": {"low": "a", "high": 3}}}, "not all numbers"),
        ({"space": {"trainer.max_epochs": {"choices": [4]}}, "fixed": {"trainer.max_epochs": 3}},
         "trainer.max_epochs is searched"),
        ({"space": {}}, "space must hold one or more"),
        ({"trails": 3}, "did you mean trials?"),
        ({"pruner": "MedianPrunr"}, "did you mean MedianPruner?"),
        ({"experiment": "nowhere.yaml"}, "no config file"),
        ({"fixed": {"trainer.devices": 2}}, "a trial runs on one device"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_leaves_nothing(changes, says, tmp_path, capsys) -> None:
    assert main(command_line(write_sweep(tmp_path, **changes))) == 2
    message = capsys.readouterr().err
    assert says in message
    assert len(message.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_classes_and_their_arguments_are_searched_together(tmp_path) -> None:
    space = {
        "model.optimizer.lr": {"low": 1e-3, "high": 1e-2},
        "model.optimizer": {"choices": ["SGD", "AdamW"]},
        "model.scheduler": {"choices": [None, {"class_path": "WarmupDecay"}]},
    }
    sweep = read_sweep(write_sweep(tmp_path, space=space), [])
    check(sweep)
    values = {"model.optimizer.lr": 0.5, "model.optimizer": "SGD", "model.scheduler": None}
    optimizer = ProjectCLI(sweep.trial_arguments(values)).config.model.init_args.optimizer
    assert optimizer.class_path == "torch.optim.SGD"
    assert optimizer.init_args.lr == 0.5


@pytest.mark.parametrize("pruner", ["MedianPruner", "HyperbandPruner"])
def test_what_is_drawn_and_pruned_does_not_depend_on_restarts(tmp_path, pruner) -> None:
    arguments = {"max_resource": 9} if pruner == "HyperbandPruner" else {}
    file = write_sweep(tmp_path, pruner={"class_path": pruner, "init_args": arguments})
    sweep = read_sweep(file, [])
    base = check(sweep)
    found = []
    for restarts in (False, True):
        folder = tmp_path / f"restarts-{restarts}"
        folder.mkdir()
        study = open_study(sweep, base, folder)
        for _ in range(12):
            begin_trial(study, sweep)
            if restarts:
                study = open_study(sweep, base, folder)
            (trial,) = going_on(study)
            state = TrialState.COMPLETE
            for step in range(1, 10):
                value = step * trial.params["model.optimizer.lr"] / trial.params["data.batch_size"]
                if validated(trial, step, value):
                    state = TrialState.PRUNED
                    break
            end_trial(trial, state)
        found.append([(t.params, t.state, t.value) for t in study.trials])
    assert found[0] == found[1]
    assert {state for _, state, _ in found[0]} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_failures_in_a_row_stop_the_sweep_with_their_reason(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("project.sweeping.supervisor.FAILURES_IN_A_ROW", 1)
    file = write_sweep(tmp_path, space={"model.network.dropout": {"choices": [2.0]}})
    assert main(command_line(file)) == 1
    shown = capsys.readouterr()
    assert "1 trials in a row failed, the last with UsageError: dropout probability" in shown.err
    assert "failed" in shown.out
    assert [trial.state for trial in trials_of(file)] == [TrialState.FAIL]


@posix
def test_two_processes_share_a_study_and_one_that_is_killed_takes_its_trial_alone(
    tmp_path, monkeypatch
) -> None:
    (tmp_path / "own_crash.py").write_text(
        "import os, signal\n"
        "from lightning.pytorch import Callback\n"
        "class Crash(Callback):\n"
        "    def on_train_batch_end(self, *_):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = write_sweep(
        tmp_path,
        trials=2,
        space={"trainer.callbacks": {"choices": [None, [{"class_path": "own_crash.Crash"}]]}},
        sampler={"class_path": "RandomSampler", "init_args": {"seed": 3}},
    )
    assert main(command_line(file, "--processes", "2")) == 0
    killed, *others = trials_of(file)
    assert killed.state == TrialState.FAIL
    assert killed.user_attrs["error"] == "its process was ended by SIGKILL (out of memory?)"
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 2
    assert others[0].datetime_start < killed.datetime_complete
    for path in (tmp_path / "runs" / "sweeps" / "tiny" / "trials").glob("*/run.json"):
        assert json.loads(path.read_text())["hardware"]["torch_threads"] == 1


@pytest.mark.parametrize(
    ("variable", "gpus"), [(None, ["0", "1"]), ("3,GPU-8a", ["3", "GPU-8a"]), ("5", ["5"])]
)
def test_gpus_are_those_that_the_shell_allows(monkeypatch, variable, gpus) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
    assert visible_gpus() == gpus


def start(file: Path, *more: str) -> subprocess.Popen:
    """Start a sweep in a process group of its own."""
    command = [sys.executable, "-m", "project.sweep", *command_line(file, *more)]
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for_validation(file: Path, number: int, validations: int) -> None:
    """Wait until a trial has been validated so many times."""
    journal = file.parent / "runs" / "sweeps" / "tiny" / "study.journal"
    for _ in range(6000):
        if journal.is_file():
            lines = [json.loads(line) for line in journal.read_text().splitlines(True)
                     if line.endswith("\n")]  # fmt: skip
            steps = [line["step"] for line in lines if line.get("trial_id") == number
                     and "step" in line]  # fmt: skip
            if validations in steps:
                return
        time.sleep(0.01)
    raise AssertionError(f"trial {number} was not validated {validations} times")


@posix
@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_sweep_that_was_killed_ends_as_if_it_had_not_been(tmp_path, finished, storage) -> None:
    file = write_sweep(tmp_path, storage=storage)
    for delay in (7.0, 7.5, 8.0):
        process = start(file)
        if storage == "journal":
            wait_for_validation(file, {7.0: 0, 7.5: 2, 8.0: 4}[delay], 1)
        else:
            time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(file).wait(timeout=120) == 0
    assert facts(file) == facts(finished)
    best = Path("runs", "sweeps", "tiny", "best.yaml")
    texts = [(f.parent / best).read_text().split("\n", 5)[5] for f in (file, finished)]
    assert texts[0].replace(str(tmp_path), "") == texts[1].replace(str(finished.parent), "")


@posix
@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_sweep_that_was_asked_to_stop_saves_and_goes_on(tmp_path, finished, signum, code) -> None:
    file = write_sweep(tmp_path)
    process = start(file)
    wait_for_validation(file, 0, 1)
    if signum == signal.SIGINT:  # as from a terminal
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command goes on" in output
    assert start(file).wait(timeout=120) == 0
    assert facts(file) == facts(finished)


@pytest.mark.slow
def test_a_sweep_whose_supervisor_alone_was_killed_waits_for_its_worker(tmp_path, finished) -> None:
    file = write_sweep(tmp_path)
    process = start(file)
    wait_for_validation(file, 0, 1)
    process.kill()
    process.wait()
    assert start(file).wait(timeout=120) == 0
    assert facts(file) == facts(finished)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_fits_its_experiment_and_names_its_command(file, stand_in_data) -> None:
    check(read_sweep(file, ["--data.root", str(stand_in_data)]))
    assert f"#   python -m project.sweep --config configs/sweep/{file.name}" in file.read_text()


def test_the_wandb_sweep_gives_what_project_train_accepts(stand_in_data, monkeypatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    content = yaml.safe_load((CONFIGS / "sweep" / "wandb.yaml").read_text())
    command = content["command"]
    assert command[:4] == ["${env}", "${interpreter}", "-m", "project.train"]
    fixed = [part for part in command[4:] if part != "${args}"]
    for end in (0, -1):
        values = {
            key: given["values"][end] if "values" in given else [given["min"], given["max"]][end]
            for key, given in content["parameters"].items()
        }
        assert all(isinstance(value, (int, float)) for value in values.values())
        flags = [f"--{key}={value}" for key, value in values.items()]
        cli = ProjectCLI([*fixed, "--data.root", str(stand_in_data), *flags])
        assert cli.config.best.monitor == content["metric"]["name"]
        assert (
            content["metric"]["goal"]
            == {"max": "maximize", "min": "minimize"}[cli.config.best.mode]
        )
