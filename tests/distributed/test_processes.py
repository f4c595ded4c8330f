"""The same numbers on one process and on several, on one node and on two."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import only_run, posix, record_of
from launch import free_port, torchrun, train
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from project.checkpoints.checkpoint_file import read
from project.comparison.outcomes import load_outcomes
from project.data.image_sets import Digits
from project.data.images import ImageData
from project.data.loader import SeededLoader
from project.distributed.processes import SharedData, is_shared, step_of_processes

BATCH = 48  # of all processes: 1, 2, 3 and 4 divide it
COMMON = [
    "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.strategy=ddp",
    "--trainer.logger=false", "--trainer.enable_progress_bar=false",
]  # fmt: skip
IMAGES = [
    *COMMON, "--model.network=ViT", "--model.network.width=32", "--model.network.depth=2",
    "--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--model.optimizer.momentum=0.9",
    # Accumulated, an epoch would end with a short step more, on what fills no batch of 48.
    "--trainer.max_epochs=1", "--trainer.max_steps=26", "--best.patience=null",
]  # fmt: skip
TEXT = [
    "--config", "configs/docs_transformer.yaml", *COMMON, "--model.network.width=32",
    "--model.network.depth=2", "--model.network.num_heads=2", "--model.optimizer=SGD",
    "--model.optimizer.lr=0.5", "--trainer.max_steps=12", "--trainer.val_check_interval=12",
    "--trainer.limit_val_batches=3", "--trainer.limit_test_batches=3", "--model.sample_tokens=0",
]  # fmt: skip
STREAMS = [*TEXT, "--model.network=RNNLanguageModel", "--data.streams=true"]
SHAPES = {  # name: (processes, nodes, accumulated batches)
    "two processes": (2, 1, 1),
    "three processes": (3, 1, 1),
    "two nodes": (2, 2, 1),
    "accumulated": (1, 1, 4),
    "two processes, accumulated": (2, 1, 2),
}


def run(arguments: list[str], folder: Path, processes: int, nodes: int, accumulate: int) -> Path:
    """Train with batches of 48 over all processes; return the run directory."""
    folder.mkdir()
    (folder / "configs").symlink_to(Path(__file__).parents[2] / "configs")
    size = BATCH // processes // accumulate
    arguments = [
        *arguments, f"--data.batch_size={size}", f"--trainer.accumulate_grad_batches={accumulate}",
        f"--data.eval_batch_size={BATCH // processes}",
    ]  # fmt: skip
    launched = torchrun(processes, nodes) if processes > 1 else [{}]
    codes = train(arguments, folder, launched)
    assert codes == [0] * processes, (folder / "0.txt").read_text()[-3000:]
    return only_run(folder / "runs")


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return read(directory / "checkpoints" / "last.ckpt")["state_dict"]


def measured(directory: Path) -> dict[str, Any]:
    return record_of(directory)["metrics"]


@pytest.fixture(
    scope="module", params=[IMAGES, TEXT, pytest.param(STREAMS, marks=pytest.mark.slow)],
    ids=["images", "windows", "streams"],
)  # fmt: skip
def one_process(request, tmp_path_factory) -> tuple[list[str], Path]:
    """A kind of run, and one of it on one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return request.param, run(request.param, folder, 1, 1, 1)


every_shape = pytest.mark.parametrize(
    "shape", [name if name == "two processes" else pytest.param(name, marks=pytest.mark.slow)
              for name in SHAPES],
)  # fmt: skip


@posix
@every_shape
def test_the_same_steps_on_any_number_of_processes(one_process, shape, tmp_path) -> None:
    arguments, one = one_process
    several = run(arguments, tmp_path / "run", *SHAPES[shape])
    a, b = weights(one), weights(several)
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-6
    record = record_of(several)
    assert record["hardware"]["processes"] == SHAPES[shape][0]
    for split, figures in measured(one).items():
        others = measured(several)[split]
        assert others["loss"]["value"] == pytest.approx(figures["loss"]["value"], abs=1e-5)
        assert others["loss"]["count"] == figures["loss"]["count"]  # none twice, none left out
        if "confusion" in figures:
            assert others["confusion"] == figures["confusion"]
        losses, other_losses = (load_outcomes(place, split)["losses"] for place in (one, several))
        np.testing.assert_allclose(losses, other_losses, rtol=1e-3, atol=1e-5)  # of each example


@posix
def test_what_a_step_is_made_of_is_printed_and_speeds_add_up(tmp_path) -> None:
    directory = run([*IMAGES, "--trainer.max_epochs=1"], tmp_path / "run", 2, 1, 2)
    printed = (tmp_path / "run" / "0.txt").read_text()
    assert "a step is 12 rows x 2 processes x 2 batches = 48" in printed
    assert "would be x 4 (SGD) or x 2.00 (Adam)" in printed
    record = record_of(directory)
    batch = record["speed"]["batch_ms"] / 1000
    assert record["images_per_second"] == pytest.approx(2 * 12 / batch, rel=0.01)


@posix
@pytest.mark.parametrize("devices", ["1", "3"])
def test_other_processes_than_were_started_are_refused(devices, tmp_path) -> None:
    arguments = [*IMAGES, f"--trainer.devices={devices}"]
    assert train(arguments, tmp_path, torchrun(2)) == [2, 2]
    error = (tmp_path / "0.txt").read_text()
    assert "torchrun started 2 processes on each of 1 nodes, but the Trainer is set to " in error
    assert f"set to {devices} on each of 1; set --trainer.devices auto" in error
    assert not list((tmp_path / "runs").glob("*"))


@posix
def test_sigterm_on_one_process_stops_all_and_the_run_goes_on_exactly(tmp_path) -> None:
    whole = run(IMAGES, tmp_path / "whole", 2, 1, 1)
    folder = tmp_path / "stopped"
    typed = [*IMAGES, "--data.batch_size=24", "--data.eval_batch_size=24"]
    assert train(typed, folder, torchrun(2), sigterm=(1, 10)) == [143, 143]
    directory = only_run(folder / "runs")
    record = record_of(directory)
    assert (record["status"], record["exit_code"]) == ("interrupted", 143)
    assert train(["--resume", str(directory)], folder, torchrun(2)) == [0, 0]
    record = record_of(directory)
    assert record["resumed"][0]["from_step"] == 11
    a, b = weights(whole), weights(directory)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert measured(whole) == measured(directory)


@posix
@pytest.mark.slow
def test_two_nodes_by_torchrun_itself(tmp_path) -> None:
    """On loopback, a process each: nothing of this is emulated."""
    port = free_port()
    torchrun_node = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
        "--master_addr=127.0.0.1", f"--master_port={port}",
    ]  # fmt: skip
    config = Path(__file__).parents[2] / "configs" / "trainer" / "torchrun.yaml"
    words = ["-m", "project.train", *IMAGES, "--config", str(config), "--data.batch_size=24",
             "--data.eval_batch_size=24", "--trainer.accelerator=cpu"]  # fmt: skip
    nodes = [
        subprocess.Popen([*torchrun_node, f"--node_rank={rank}", *words], cwd=tmp_path)
        for rank in range(2)
    ]
    assert [node.wait(timeout=200) for node in nodes] == [0, 0]
    several = weights(only_run(tmp_path / "runs"))
    one = weights(run(IMAGES, tmp_path / "one", 1, 1, 1))
    assert max((one[name] - several[name]).abs().max().item() for name in one) < 1e-6


@posix
def test_a_trial_run_is_as_wide_as_it_was_started(tmp_path) -> None:
    tried = [*IMAGES, "--trainer.fast_dev_run=true"]
    assert train(tried, tmp_path / "two", torchrun(2)) == [0, 0]
    assert train([*tried, "--trainer.devices=1"], tmp_path / "one", torchrun(2)) == [2, 2]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(8))


def distributed() -> DataLoader[int]:
    return DataLoader(list(range(8)), sampler=DistributedSampler(range(8), 2, 0))


@pytest.mark.parametrize(
    ("loader", "shared"),
    [
        (distributed(), True),
        (DataLoader(range(8), batch_sampler=BatchSampler(distributed().sampler, 2, True)), True),
        (DataLoader(list(range(8))), False),
        (DataLoader(Stream()), False),
        (range(8), False),
        (SeededLoader(8, 2, lambda i, e: i, rank=1, world_size=2), True),
        (SeededLoader(8, 2, lambda i, e: i), False),
    ],
)  # fmt: skip
def test_a_set_that_is_not_shared_out_is_named(loader, shared, capsys) -> None:
    assert is_shared(loader, world_size=2) == shared
    trainer: Any = SimpleNamespace(world_size=2, is_global_zero=True, train_dataloader=loader)
    told = SharedData()
    told.on_train_start(trainer, torch.nn.Module())
    told.on_train_start(trainer, torch.nn.Module())
    warnings = capsys.readouterr().err
    assert warnings.count(f"each of the 2 processes reads all of the training data: "
                          f"{type(loader).__name__}") == (not shared)  # fmt: skip


def test_one_process_is_told_nothing() -> None:
    trainer: Any = SimpleNamespace(world_size=1, accumulate_grad_batches=1)
    assert step_of_processes(trainer, ImageData(Digits())) == ""
