"""Shared by the tests: nothing here reads or writes the user's `data/` or `runs/`."""

import gzip
import hashlib
import importlib
import inspect
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from project.data import idx
from project.data.corpora import TinyShakespeare

REAL_DATA = os.environ.get("DATA_DIR")

posix = pytest.mark.skipif(
    os.name == "nt",
    reason="Windows has no signal but Ctrl-C, no fork, and gloo was not tried there",
)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, without the variables of the user's shell."""
    monkeypatch.chdir(tmp_path)
    ours = [name for name in os.environ if name.startswith(("WANDB", "SLURM"))]
    for name in ("DATA_DIR", "LOCAL_RANK", "PROJECT_RUN_DIR", *ours):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))  # not the user's login to W&B
    # The same bits are promised on CPUs, and the Macs of CI have a GPU without memory.
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    torch.manual_seed(0)


@pytest.fixture
def real_mnist() -> str:
    """The folder of the official MNIST files, where DATA_DIR names one."""
    if not REAL_DATA or not Path(REAL_DATA, "MNIST").is_dir():
        pytest.skip("the real MNIST is not here: set DATA_DIR to the folder that holds MNIST/raw")
    return REAL_DATA


def networks_with(argument: str) -> Iterator[type[nn.Module]]:
    """Yield every network of the project that takes an argument: a new one is found by listing."""
    from project.configuration import project_classes

    for path in project_classes().values():
        module, name = path.rsplit(".", 1)
        if module.startswith("project.models."):
            cls = getattr(importlib.import_module(module), name)
            if argument in inspect.signature(cls).parameters:
                yield cls


def small_digits_run(folder: Path) -> Path:
    """Train a small CNN on `Digits` for two epochs below `folder`; return the run directory."""
    from project.training.command import command

    arguments = [
        "--model.network.width=8", "--trainer.max_epochs=2", "--trainer.accelerator=cpu",
        f"--runs_dir={folder}",
    ]  # fmt: skip
    assert command(arguments) == 0
    (run,) = folder.iterdir()
    return run


def write_idx(path: Path, numbers: np.ndarray) -> None:
    """Write uint8 numbers as an IDX file, compressed when the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = b"".join(size.to_bytes(4, "big") for size in numbers.shape)
    content = bytes([0, 0, 0x08, numbers.ndim]) + shape + numbers.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def stand_in_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with tiny random MNIST, FashionMNIST, KMNIST, CIFAR10 and TinyShakespeare."""
    root = tmp_path / "stand-in"
    numbers = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        for part, count in (("train", 300), ("t10k", 101)):
            images = numbers.integers(0, 256, (count, 28, 28))
            labels = np.arange(count) % 10
            write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", images)
            write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", labels)
    monkeypatch.setattr(idx, "EXTRACTED_SHA256", {})

    from torchvision import datasets

    folder = root / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    for name, count in (("train", 300), ("test", 101)):
        batch = {
            "data": numbers.integers(0, 256, (count, 3072), dtype=np.uint8),
            "labels": [i % 10 for i in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["train", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test", None]])
    meta = {"filename": "meta", "key": "label_names", "md5": None}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)

    play = root / "tinyshakespeare" / "input.txt"
    play.parent.mkdir()
    characters = numbers.choice(list("abcdefghijklmnopqrstuvwxyz .,\n"), 20_000)
    play.write_text("".join(characters))
    digest = hashlib.sha256(play.read_bytes()).hexdigest()
    monkeypatch.setattr(TinyShakespeare, "digest", digest)

    own = tmp_path / "data" / "corpus" / "text.txt"  # where configs/gpt2_124m.yaml looks
    own.parent.mkdir(parents=True)
    own.write_text(3_000 * "a text of your own\n")
    return root


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: LevelDB's log format, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, content = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        content += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(content)
            content = b""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of each training of several; each is done in this process, to be quick."""
    from project.training import repetitions, run_directory
    from project.training.command import command

    arguments: list[list[str]] = []

    def train(typed: list[str]) -> int:
        arguments.append(typed)
        return command(typed)

    monkeypatch.setattr(repetitions, "run_in_a_process", train)
    for module in (repetitions, run_directory):  # whoever edits the code while it is tested
        monkeypatch.setattr(module, "code_hash", lambda: "of the test")
    return arguments
