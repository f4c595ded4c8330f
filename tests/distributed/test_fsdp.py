"""Sharded runs equal those of DDP; a checkpoint that is a folder is whole, or is not taken."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import posix
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from project.checkpoints import checkpoint_file
from project.checkpoints.checkpoint_file import (
    COMMON,
    finish_folder,
    newest,
    read,
    read_common,
    sha256_of,
    slices_file,
    write,
)
from project.distributed.sharded_strategy import ShardedStrategy, network_of
from project.distributed.sharding import blocks
from project.messages import UsageError
from project.models.cnn import CNN, CausalCNN
from project.models.rnn import RNNLanguageModel
from project.models.transformer import GPT, ViT
from project.tasks.image_classification import ImageClassification
from project.training.command import command

SCRIPT = Path(__file__).with_name("sharded_runs.py")
SLOW = ("accumulated", "lstm", "cnn", "channels_last", "others", "compiled", "killed", "damaged")


@posix
@pytest.mark.parametrize(
    "scenario",
    [
        "gpt",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_sharded_runs_are_those_of_ddp(scenario: str) -> None:
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), scenario], capture_output=True, text=True, timeout=600
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert json.loads(answer.stdout.splitlines()[-1]) == {scenario: []}


class Task(LightningModule):
    """Of two layers, of which one may be outside of the network."""

    def __init__(self, network: str, outside: str = "", is_trained: bool = True) -> None:
        super().__init__()
        self.add_module(network, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
        if outside:
            self.add_module(outside, nn.Linear(4, 2).requires_grad_(is_trained))


def test_only_a_task_that_trains_its_network_alone_is_shared_out() -> None:
    alone, frozen = Task("network"), Task("network", "probe", is_trained=False)
    assert [network_of(task) for task in (alone, frozen)] == [alone.network, frozen.network]
    with pytest.raises(UsageError, match=r"`network` of a task, and Task has none.*ddp"):
        network_of(Task("body"))
    with pytest.raises(UsageError, match=r"Task also trains probe\.weight, probe\.bias;.*ddp"):
        network_of(Task("network", "probe"))
    tied = Task("network", "network2")
    tied.network2.weight = tied.network[0].weight
    with pytest.raises(UsageError, match=r"network2\.weight"):
        network_of(tied)


class Probed(ImageClassification):
    """Trains a layer beside its network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.probe = nn.Linear(2, 2)


def test_a_task_that_cannot_be_shared_out_leaves_no_run(tmp_path: Path, capsys) -> None:
    assert command(["--model=test_fsdp.Probed", "--model.network=MLP", "--data=ImageData",
                    "--data.dataset=Digits", "--trainer.accelerator=cpu",
                    "--trainer.strategy={class_path: ShardedStrategy}"]) == 2  # fmt: skip
    assert "Probed also trains probe.weight, probe.bias" in capsys.readouterr().err
    assert list((tmp_path / "runs").iterdir()) == []


class Setup(ShardedStrategy):
    """On a device that may not be there; remembers the layers that were shared out."""

    root_device = torch.device("cpu")

    def share_out(self, task: nn.Module) -> None:
        self.shared = [type(layer) for layer in task.network]

    def model_to_device(self) -> None: ...


@pytest.mark.parametrize(
    ("device", "fn", "expected"),
    [
        ("cuda", TrainerFn.FITTING, nn.SyncBatchNorm),
        ("cuda", TrainerFn.VALIDATING, nn.BatchNorm1d),
        ("cpu", TrainerFn.FITTING, nn.BatchNorm1d),  # which have no other
    ],
)
def test_batch_norm_is_synchronized_where_it_can_be(
    device: str, fn: TrainerFn, expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Setup, "root_device", torch.device(device))
    strategy, trainer = Setup(), Mock()
    strategy.accelerator = Mock()
    strategy._layer_sync = TorchSyncBatchNorm()
    strategy.setup_optimizers = lambda trainer: None
    strategy.connect(Task("network"))
    trainer.state.fn = fn
    strategy.setup(trainer)
    assert strategy.shared == [nn.Linear, expected]


def test_blocks_are_the_repeated_parts_that_are_made_of_others() -> None:
    def names(network: nn.Module) -> list[str]:
        return [type(block).__name__ for block in blocks(network)]

    assert names(GPT(depth=3)) == 3 * ["GPTBlock"]
    assert names(ViT(depth=2)) == 2 * ["Block"]
    assert names(CausalCNN(depth=2)) == 2 * ["CausalConvBlock"]
    # The weights of an LSTM are used outside of it; a CNN repeats nothing.
    assert names(RNNLanguageModel()) == names(CNN()) == []


def folder_at(path: Path, step: int) -> dict[str, Any]:
    """Write a checkpoint of two processes; return what it should be when it is read whole."""
    weight, momentum = torch.randn(5, 2), torch.randn(3)
    beside = path.with_name(".tmp")
    beside.mkdir(parents=True)
    for rank in range(2):
        slices = [tensor.chunk(2)[rank].clone() for tensor in (weight, momentum)]
        write({"state_dict": dict(enumerate(slices))}, slices_file(beside, rank))

    def content(*tensors: torch.Tensor) -> dict[str, Any]:
        return {
            "state_dict": {"weight": tensors[0], "count": torch.tensor(7)},
            "optimizer_states": [{"state": {0: {"momentum": tensors[1]}}}],
            "resume": {"step": step},
        }

    places = [tensor.to("meta") for tensor in (weight, momentum)]
    finish_folder(content(*places), 2, beside, path)
    return content(weight, momentum)


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert a["resume"] == b["resume"]
    for found, expected in zip(tensors_of(a), tensors_of(b), strict=True):
        assert torch.equal(found, expected)


def tensors_of(content: dict[str, Any]) -> list[torch.Tensor]:
    momentum = content["optimizer_states"][0]["state"][0]["momentum"]
    return [*content["state_dict"].values(), momentum]


def test_a_folder_is_read_as_the_file_that_it_could_be(tmp_path: Path) -> None:
    expected = folder_at(tmp_path / "last.ckpt", 1)
    assert_same(read(tmp_path / "last.ckpt"), expected)
    write(read(tmp_path / "last.ckpt"), tmp_path / "one_file.ckpt")
    assert_same(read(tmp_path / "one_file.ckpt"), expected)


def test_the_folder_before_is_kept_and_a_file_takes_its_turn(tmp_path: Path) -> None:
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for step in range(3):
        folder_at(path, step)
    assert (read(path)["resume"], read(previous)["resume"]) == ({"step": 2}, {"step": 1})
    digest = sha256_of(path)
    file = {"state_dict": {}, "resume": {"step": 3}}
    write(file, path, previous)  # of a run that goes on without slices
    assert (read(path)["resume"], sha256_of(previous)) == ({"step": 3}, digest)
    write(file, path, previous)
    assert previous.is_file()
    folder_at(path, 4)
    assert (read(path)["resume"], read(previous)["resume"]) == ({"step": 4}, {"step": 3})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_process_reads_the_slices_of_others_once_or_not_at_all(
    tmp_path: Path, monkeypatch
) -> None:
    hashed: list[str] = []
    content_hash = checkpoint_file.content_hash

    def counted(file: Any) -> str:
        hashed.append(Path(file.name).name)
        return content_hash(file)

    monkeypatch.setattr(checkpoint_file, "content_hash", counted)
    for step in (1, 2):
        folder_at(tmp_path / "last.ckpt", step)
    all_of_it = [COMMON, "slices-0.ckpt", "slices-1.ckpt"]
    for reads, expected in (
        (lambda: newest(tmp_path), all_of_it),
        (lambda: newest(tmp_path, reads_slices=False), [COMMON]),
        (lambda: read(tmp_path / "last.ckpt"), all_of_it),
        (lambda: read_common(tmp_path / "last.ckpt"), [COMMON]),
    ):
        hashed.clear()
        reads()
        assert hashed == expected


@pytest.mark.parametrize("file", [COMMON, "slices-0.ckpt", "slices-1.ckpt"])
@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
def test_a_folder_that_is_not_whole_is_damage(
    file: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    folder_at(tmp_path / "last.ckpt", 1)
    folder_at(tmp_path / "last.ckpt", 2)
    harm(tmp_path / "last.ckpt" / file)
    with pytest.raises(UsageError, match=r"last\.ckpt"):
        read(tmp_path / "last.ckpt")
    path, content, damage = newest(tmp_path)
    assert path == tmp_path / "previous.ckpt"
    assert content["resume"] == {"step": 1}
    assert len(damage) == 1


def test_slices_of_another_checkpoint_are_damage(tmp_path: Path) -> None:
    folder_at(tmp_path / "last.ckpt", 1)
    folder_at(tmp_path / "last.ckpt", 2)
    mine, other = (slices_file(tmp_path / f"{name}.ckpt", 1) for name in ("last", "previous"))
    mine.write_bytes(other.read_bytes())
    with pytest.raises(UsageError, match="was written with it"):
        read(tmp_path / "last.ckpt")
