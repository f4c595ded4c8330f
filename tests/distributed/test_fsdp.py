"""Sharded runs equal those of DDP; a checkpoint that is a folder is whole, or is not taken."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from project.messages import UsageError
from project.models.cnn import CNN, CausalCNN
from project.models.rnn import RNNLanguageModel
from project.models.transformer import GPT, ViT
from project.training.checkpoint_file import (
    COMMON,
    finish_folder,
    newest,
    read,
    sha256_of,
    slices_file,
    write,
)
from project.training.sharding import blocks

SCRIPT = Path(__file__).with_name("sharded_runs.py")


@pytest.mark.parametrize(
    "scenario",
    [
        "gpt",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("accumulated", "lstm", "cnn", "channels_last", "others", "killed")
        ),
    ],
)
def test_sharded_runs_are_those_of_ddp(scenario: str) -> None:
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), scenario], capture_output=True, text=True, timeout=600
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert json.loads(answer.stdout.splitlines()[-1]) == {scenario: []}


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
