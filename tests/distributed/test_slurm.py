"""A job that SLURM requeues goes on in its run directory, and ends as if it had never stopped.

SLURM is its variables here, and a `scontrol` that writes down what it is asked.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import only_run, record_of

from project.configuration import PACKAGE
from project.distributed.slurm import begun_before
from project.tasks.image_classification import ImageClassification
from project.training.command import command

if not hasattr(signal, "SIGUSR1"):
    pytest.skip("Windows has no SIGUSR1, which SLURM sends", allow_module_level=True)

TINY = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--model.network=MLP",
        "--model.network.width=8", "--trainer.max_epochs=3", "--trainer.limit_train_batches=4",
        "--trainer.log_every_n_steps=1", "--trainer.logger=false"]  # fmt: skip
LONG = [*TINY, "--trainer.max_epochs=40", "--checkpoint_minutes=0"]
ONE_TASK = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "project", "SLURM_CLUSTER_NAME": "here",
            "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1",
            "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
            "SLURM_NODELIST": "127.0.0.1"}  # fmt: skip
SCRIPT = PACKAGE.parent / "configs" / "slurm" / "train.sbatch"


class Scontrol:
    """A stand-in for `scontrol`, on the PATH."""

    def __init__(self, folder: Path, path: str) -> None:
        self.calls = folder / "calls.txt"
        self.program = folder / "scontrol"
        self.path = f"{folder}{os.pathsep}{path}"
        self.answers(f'echo "$*" >> {self.calls}')

    def answers(self, script: str) -> None:
        self.program.write_text(f"#!/bin/sh\n{script}\n")
        self.program.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch) -> Scontrol:
    (tmp_path / "bin").mkdir()
    stand_in = Scontrol(tmp_path / "bin", os.environ["PATH"])
    monkeypatch.setenv("PATH", stand_in.path)
    return stand_in


@pytest.fixture
def in_job(monkeypatch) -> Callable[..., None]:
    """A function that puts this process into a start of a job."""

    def enter(restarts: int = 0, **variables: str) -> None:
        count = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        for name, value in {**ONE_TASK, **count, **variables}.items():
            monkeypatch.setenv(name, value)

    return enter


@pytest.fixture
def stopped(monkeypatch) -> Callable[..., int]:
    """A function that trains until a signal comes in a step, and returns the exit code."""

    def train(arguments: list[str], signum: int, step: int = 6) -> int:
        training_step = ImageClassification.training_step

        def signalled(self: Any, batch: Any, batch_idx: int) -> Any:
            if self.global_step + 1 == step:
                os.kill(os.getpid(), signum)
            return training_step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(ImageClassification, "training_step", signalled)
            return command(arguments)

    return train


def is_equal(run: Path, other: Path) -> bool:
    """Return whether two runs have the same curves, weights and results, bit for bit."""
    weights = [
        torch.load(path / "checkpoints" / name, weights_only=True)["state_dict"]
        for path in (run, other)
        for name in ("last.ckpt", "best.ckpt")
    ]
    return (
        (run / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
        and all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
        and all(torch.equal(weights[1][name], weights[3][name]) for name in weights[1])
        and record_of(run)["metrics"] == record_of(other)["metrics"]
    )


def test_a_job_before_its_time_limit_is_requeued_and_goes_on_exactly(
    in_job, stopped, scontrol, capsys
) -> None:
    assert command([*TINY, "--runs_dir=whole"]) == 0
    in_job()
    typed = [*TINY, "--runs_dir=runs"]
    assert stopped(typed, signal.SIGUSR1) == 143
    assert scontrol.asked == ["requeue 4711"]
    run = only_run("runs")
    record = record_of(run)
    assert (record["status"], record["exit_code"]) == ("interrupted", 143)
    assert record["slurm"] == {"cluster": "here", "job": "4711", "restarts": 0}

    in_job(restarts=1)
    assert stopped(typed, signal.SIGUSR1, step=9) == 143
    assert scontrol.asked == ["requeue 4711"] * 2
    in_job(restarts=2)
    assert command(typed) == 0
    assert only_run("runs") == run  # and no other
    record = record_of(run)
    assert record["status"] == "finished"
    assert [session["slurm"]["restarts"] for session in record["resumed"]] == [1, 2]
    assert [session["from_step"] for session in record["resumed"]] == [6, 9]
    assert record["slurm"]["restarts"] == 0
    assert is_equal(run, only_run("whole"))
    assert not list(run.rglob("hpc_ckpt*"))  # Lightning's

    capsys.readouterr()
    in_job(restarts=3)
    assert command(typed) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert len(scontrol.asked) == 2


@pytest.mark.parametrize(
    ("signum", "variables"),
    [
        (signal.SIGTERM, {}),
        (signal.SIGINT, {}),
        (signal.SIGUSR1, {"SLURM_JOB_NAME": "interactive"}),
        (signal.SIGUSR1, {"SLURM_JOB_NAME": "bash"}),
    ],
)
def test_what_does_not_requeue(in_job, stopped, scontrol, signum, variables) -> None:
    in_job(**variables)
    assert stopped([*TINY, "--runs_dir=runs"], signum) in (130, 143)
    assert record_of(only_run("runs"))["status"] == "interrupted"
    assert scontrol.asked == []


@pytest.mark.parametrize(("first", "second"), [("SIGUSR1", "SIGTERM"), ("SIGTERM", "SIGUSR1")])
def test_scancel_beside_the_time_limit_does_not_requeue(
    in_job, scontrol, monkeypatch, first, second
) -> None:
    in_job()
    training_step = ImageClassification.training_step

    def both(self: Any, batch: Any, batch_idx: int) -> Any:
        for name in (first, second):
            os.kill(os.getpid(), getattr(signal, name))
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassification, "training_step", both)
    assert command(TINY) == 143
    assert scontrol.asked == []


@pytest.mark.parametrize("answer", ["echo Requested operation is disabled >&2; exit 1", None])
def test_a_job_that_cannot_be_requeued_says_how_to_go_on(
    in_job, stopped, scontrol, monkeypatch, capsys, answer
) -> None:
    in_job()
    if answer is None:
        monkeypatch.setenv("PATH", "")
    else:
        scontrol.answers(answer)
    assert stopped(TINY, signal.SIGUSR1) == 143
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if line.startswith("warning")]
    assert "`scontrol requeue 4711` failed" in line
    assert ("operation is disabled" if answer else "No such file") in line
    assert f"--resume runs/{only_run('runs').name}" in shown.out
    assert record_of(only_run("runs"))["status"] == "interrupted"


def test_a_task_of_an_array_goes_on_with_its_own_run(in_job, stopped, scontrol) -> None:
    task = {"SLURM_ARRAY_JOB_ID": "4700"}
    in_job(**task, SLURM_ARRAY_TASK_ID="3")
    assert stopped(TINY, signal.SIGUSR1) == 143
    assert scontrol.asked == ["requeue 4700_3"]
    run = only_run("runs")
    in_job(restarts=1, **task, SLURM_ARRAY_TASK_ID="4", SLURM_JOB_ID="4712")
    assert command(TINY) == 0
    (other,) = set(Path("runs").iterdir()) - {run}
    assert record_of(run)["status"] == "interrupted"
    in_job(restarts=1, **task, SLURM_ARRAY_TASK_ID="3")
    assert command(TINY) == 0
    assert record_of(run)["status"] == "finished"
    assert record_of(other)["slurm"]["job"] == "4700_4"
    assert len(list(Path("runs").iterdir())) == 2


def test_two_trainings_of_a_job_each_go_on_with_their_own(in_job, stopped, scontrol) -> None:
    first, second = [*TINY, "--experiment=first"], [*TINY, "--experiment=second"]
    in_job()
    assert command(first) == 0
    assert stopped(second, signal.SIGUSR1) == 143
    in_job(restarts=1)
    assert command(first) == 0
    assert command(second) == 0
    assert command([*TINY, "--experiment=third"]) == 0
    found = {record_of(run)["experiment"]: record_of(run) for run in Path("runs").iterdir()}
    assert len(list(Path("runs").iterdir())) == 3
    assert "resumed" not in found["first"]
    assert len(found["second"]["resumed"]) == 1
    assert {record["status"] for record in found.values()} == {"finished"}


def test_the_configuration_of_the_run_counts_and_not_a_file_that_was_edited(
    in_job, stopped, scontrol
) -> None:
    Path("mine.yaml").write_text("trainer: {max_epochs: 3}\n")
    typed = [*[word for word in TINY if "max_epochs" not in word], "--config", "mine.yaml"]
    in_job()
    assert stopped(typed, signal.SIGUSR1) == 143
    Path("mine.yaml").write_text("trainer: {max_epochs: 1}\n")
    in_job(restarts=1)
    assert command(typed) == 0
    assert record_of(only_run("runs"))["epochs"] == 3


def test_a_network_of_ones_own_was_typed_and_is_trusted(
    in_job, stopped, scontrol, tmp_path, monkeypatch
) -> None:
    (tmp_path / "of_mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self, num_classes: int = 10):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    typed = [word for word in TINY if "network" not in word] + ["--model.network=of_mine.Net"]
    in_job()
    assert stopped(typed, signal.SIGUSR1) == 143
    in_job(restarts=1)
    assert command(typed) == 0
    assert record_of(only_run("runs"))["status"] == "finished"


HERE = {"cluster": "here", "job": "4711", "restarts": 1}


@pytest.mark.parametrize(
    ("record", "is_found"),
    [
        ({"command": "train", "slurm": HERE}, True),
        ({"command": "train", "slurm": {**HERE, "restarts": 0}, "status": "failed"}, True),
        ({"command": "train", "slurm": {**HERE, "restarts": 2}}, False),  # of this start
        ({"command": "train", "slurm": {**HERE, "job": "4712"}}, False),
        ({"command": "train", "slurm": {**HERE, "cluster": "there"}}, False),
        ({"command": "train --lr 1", "slurm": HERE}, False),
        ({"command": "train"}, False),  # begun outside SLURM
        ({}, False),
    ],
)
def test_which_run_an_earlier_start_began(in_job, tmp_path, record, is_found) -> None:
    run = tmp_path / "runs" / "20261125-101500_mine_ab12"
    damaged = tmp_path / "runs" / "20261125-101600_mine_cd34"
    for directory, content in ((run, json.dumps(record)), (damaged, "{")):
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text("{}")
        (directory / "run.json").write_text(content)
    in_job(restarts=2)
    assert begun_before(tmp_path / "runs", "train") == (run if is_found else None)
    in_job(restarts=2, SLURM_RESTART_COUNT="0")
    assert begun_before(tmp_path / "runs", "train") is None
    assert begun_before(tmp_path / "none", "train") is None


def test_seeds_are_not_started_by_every_task(in_job, capsys) -> None:
    in_job(SLURM_NTASKS="2", SLURM_NTASKS_PER_NODE="2")
    assert command([*TINY, "--seeds=0..1"]) == 2
    assert "--seed_everything $SLURM_ARRAY_TASK_ID" in capsys.readouterr().err


def test_a_job_of_several_tasks_is_started_by_srun(in_job, monkeypatch, capsys) -> None:
    """Without it one process would wait for the others for ever."""
    in_job(SLURM_NTASKS="8", SLURM_NTASKS_PER_NODE="8")
    monkeypatch.delenv("SLURM_STEP_ID")
    assert command(TINY) == 2
    assert "has 8 tasks, but this process is none of them" in capsys.readouterr().err
    assert not list(Path("runs").glob("*"))


@pytest.mark.parametrize("array_task", ["", "7"])
def test_the_batch_script_starts_a_command_that_can_be_run(tmp_path, array_task, capsys) -> None:
    """A stand-in for srun writes down what it is to start."""
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    shutil.copytree(PACKAGE.parent / "configs", tmp_path / "configs")
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > words.txt\n')
    srun.chmod(0o755)
    variables = {"SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_CPUS_PER_TASK": "2",
                 "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip
    if array_task:
        variables["SLURM_ARRAY_TASK_ID"] = array_task
    subprocess.run(["bash", "-eu", SCRIPT], check=True, cwd=tmp_path, env=variables)
    words = Path("words.txt").read_text().splitlines()
    start = words.index("project.train")
    assert words[start - 2 : start] == ["python", "-m"]
    arguments = words[start + 1 :]
    if array_task:
        assert arguments[arguments.index("--seed_everything") + 1] == array_task
    else:
        assert "--seed_everything" not in arguments
    assert arguments[arguments.index("--trainer.num_nodes") + 1] == "1"
    assert command([*arguments, "--print_config"]) == 0
    assert "strategy: ddp" in capsys.readouterr().out


# ---------------------------------------------------------------- processes of their own


def start(arguments: list[str], **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "project.train", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **ONE_TASK, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rows(runs: str) -> int:
    return sum(path.read_text().count("\n") for path in Path(runs).glob("*/metrics.csv"))


@pytest.mark.slow
def test_a_signal_that_comes_before_there_is_a_run_waits_for_it(scontrol) -> None:
    process = start([*LONG, "--trainer.max_epochs=2000"])
    usr1 = 1 << (signal.SIGUSR1 - 1)

    def is_held_back() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        (mask,) = [line for line in status.splitlines() if line.startswith("SigBlk")]
        return bool(int(mask.split()[1], 16) & usr1)

    wait_for(is_held_back)  # with Python; torch is still to be imported
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 143, output
    assert scontrol.asked == ["requeue 4711"]
    assert record_of(only_run("runs"))["status"] == "interrupted"
    assert torch.load(only_run("runs") / "checkpoints" / "last.ckpt")["global_step"] < 2


@pytest.mark.slow
def test_seeds_are_requeued_once_whichever_process_is_signalled(scontrol) -> None:
    """Some clusters signal the process that srun started, others all that it has started too."""
    typed = [*LONG, "--runs_dir=runs", "--seeds=3..4"]
    for restarts, send in enumerate((os.kill, os.killpg)):
        before = rows("runs")
        process = start(typed, SLURM_RESTART_COUNT=str(restarts))
        wait_for(lambda before=before: rows("runs") > before + 8)
        send(process.pid, signal.SIGUSR1)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 143, output
        assert scontrol.asked == ["requeue 4711"] * (restarts + 1)
    process = start(typed, SLURM_RESTART_COUNT="2")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    first, second = sorted(Path("runs").iterdir())
    assert len(record_of(first)["resumed"]) == 2
    assert "resumed" not in record_of(second)
    whole = start([*LONG, "--runs_dir=whole", "--seed_everything=3"])  # on as many threads
    output, _ = whole.communicate(timeout=200)
    assert whole.returncode == 0, output
    assert is_equal(first, only_run("whole"))


def srun(arguments: list[str], restarts: int = 0, signal_at: int | None = None) -> list[int]:
    """Start a task on each of two nodes, as `srun --kill-on-bad-exit=1`; return the exit codes.

    Args:
        signal_at: Rows of metrics after which both get SIGUSR1.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "MASTER_PORT": port,
                 "SLURM_RESTART_COUNT": str(restarts)}  # fmt: skip
    nodes = [
        start(arguments, **variables, SLURM_PROCID=str(node), SLURM_NODEID=str(node))
        for node in range(2)
    ]
    before = rows("runs")

    def has_ended() -> bool:
        codes = [node.poll() for node in nodes]
        return any(codes) or codes == [0, 0]

    if signal_at is not None:
        wait_for(lambda: rows("runs") > before + signal_at or has_ended())
        for node in reversed(nodes):
            node.send_signal(signal.SIGUSR1)
            time.sleep(0.05)
    wait_for(has_ended)
    if any(node.poll() for node in nodes):
        for node in nodes:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)  # with what it has started
    output = "".join(node.communicate()[0] for node in nodes)
    print(output)
    return [node.returncode for node in nodes]


@pytest.mark.slow
def test_two_nodes_are_requeued_once_and_go_on_exactly(scontrol) -> None:
    typed = [*LONG, "--trainer.strategy=ddp", "--trainer.num_nodes=2", "--data.batch_size=32"]
    scontrol.answers(f'sleep 3; echo "$*" >> {scontrol.calls}')  # the other must wait for it
    assert srun([*typed, "--runs_dir=whole"]) == [0, 0]
    codes = srun(typed, signal_at=8)
    assert 143 in codes
    assert set(codes) <= {143, -signal.SIGKILL}  # the last may be on its way out
    assert scontrol.asked == ["requeue 4711"]
    run = only_run("runs")
    assert record_of(run)["status"] == "interrupted"
    assert record_of(run)["hardware"]["processes"] == 2
    assert srun(typed, restarts=1) == [0, 0]
    assert only_run("runs") == run
    assert record_of(run)["status"] == "finished"
    assert 0 < record_of(run)["resumed"][0]["from_step"] < record_of(run)["steps"]
    assert scontrol.asked == ["requeue 4711"]
    assert is_equal(run, only_run("whole"))
    assert srun(typed, restarts=2) == [0, 0]  # finished: every process says so
    assert only_run("runs") == run
