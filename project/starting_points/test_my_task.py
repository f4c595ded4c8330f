"""MyTask learns, goes on exactly after a stop, and its checkpoint loads alone."""

import json
from pathlib import Path

import torch

from project.configuration import CONFIGS
from project.starting_points.my_task import MyTask
from project.training.command import command


def trained(runs: str, *more: str) -> Path:
    """Return the run directory of two epochs."""
    arguments = ["--config", str(CONFIGS / "my_task.yaml"), f"--runs_dir={runs}"]
    arguments += ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", *more]
    assert command(arguments) == 0
    (run,) = Path(runs).glob("*_my_task_*")
    return run


def test_some_of_the_noise_is_taken_out_and_the_checkpoint_loads_alone() -> None:
    run = trained("runs")
    test = json.loads((run / "run.json").read_text())["metrics"]["test"]
    assert test["gain_db"]["value"] > 1
    task = MyTask.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert task.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 1, 8, 8)


def test_a_run_that_goes_on_ends_as_one_that_did_not_stop() -> None:
    constant = "--model.scheduler=null"  # else the shorter run would end its schedule earlier
    whole = trained("whole", constant)
    resumed = trained("resumed", constant, "--trainer.max_epochs=1")
    assert command(["--resume", str(resumed), "--trainer.max_epochs=2"]) == 0
    assert (whole / "metrics.csv").read_bytes() == (resumed / "metrics.csv").read_bytes()
