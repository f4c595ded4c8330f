"""Shared by the tests: nothing here reads or writes the user's `data/` or `runs/`."""

import csv
import gzip
import hashlib
import importlib
import inspect
import json
import os
import pickle
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from project.data import idx
from project.data.corpora import TextCorpus, TinyShakespeare
from project.data.text import TextData

REAL_DATA = os.environ.get("DATA_DIR")
# Sets of your own are read here, and nothing is written.
OWN_DATA = Path(REAL_DATA or Path(__file__).parents[1] / "data")

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
        if module.startswith(("project.models.", "project.pretrained.")):
            cls = getattr(importlib.import_module(module), name)
            if argument in inspect.signature(cls).parameters:
                yield cls


def copy_repository(folder: Path) -> None:
    """Copy what git tracks, and new files that it does not ignore."""
    from project.rename import REPOSITORY, files_of_git

    for path in files_of_git():
        copy = folder / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def only_run(runs: str | Path) -> Path:
    """Return the directory of the only run in a folder."""
    (directory,) = Path(runs).iterdir()
    return directory


def record_of(run: Path) -> dict[str, Any]:
    """Return what `run.json` holds."""
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def logged(run: Path, name: str) -> list[float]:
    """Return the values of a column of `metrics.csv`."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def awake(network: nn.Module, std: float = 0.5) -> nn.Module:
    """Give what starts at zero, or next to it, some weights, so that every path counts."""
    for name, parameter in network.named_parameters():
        if not parameter.any() or name.endswith(("out.weight", "gain", "head.weight")):
            nn.init.normal_(parameter, std=std)
    return network


def quiet_trainer(folder: Path, **options: Any) -> Trainer:
    """A Trainer on the CPU that shows, keeps and tries nothing, but for what `options` ask."""
    switches = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet = {**dict.fromkeys(switches, False), "num_sanity_val_steps": 0}
    return Trainer(accelerator="cpu", default_root_dir=folder, **{**quiet, **options})


def text_data(folder: Path, text: str, *arguments: Any, **options: Any) -> TextData:
    """A text of its own below `folder`; the rest are arguments of `TextData`."""
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    return TextData(TextCorpus(str(path)), *arguments, cache_dir=str(folder / "cache"), **options)


def ready(data: TextData, stage: str | None = None) -> TextData:
    """Prepare and open a text, as a Trainer does."""
    data.prepare_data()
    data.setup(stage)
    return data


def small_digits_run(folder: Path, *more: str) -> Path:
    """Train a small CNN on `Digits` for two epochs below `folder`; return the run directory."""
    from project.training.command import command

    arguments = ["--model.network.width=8", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"]
    assert command([*arguments, f"--runs_dir={folder}", *more]) == 0
    return only_run(folder)


def small_text_run(folder: Path, *more: str) -> Path:
    """Train a small GPT on the characters of `folder/there/text.txt`; return the run directory."""
    from project.configuration import CONFIGS
    from project.training.command import command

    text = folder / "there" / "text.txt"
    text.parent.mkdir()
    text.write_text("the cat sat on the mat and the rat sat on the cat\n" * 60)
    arguments = [
        "--config", str(CONFIGS / "docs_transformer.yaml"), "--data.corpus", "TextCorpus",
        "--data.corpus.path", str(text), "--data.tokenizer", "CharTokenizer",
        "--data.cache_dir", str(text.parent / "cache"), "--data.context_length", "32",
        "--model.network.context_length", "32", "--model.network.num_heads", "2",
        "--model.network.vocab_size", "20", "--model.network.width", "16",
        "--model.network.depth", "1", "--trainer.max_steps", "10", "--trainer.accelerator", "cpu",
        "--runs_dir", str(folder / "runs"), *more,
    ]  # fmt: skip
    assert command(arguments) == 0
    return only_run(folder / "runs")


def image_subject(network: nn.Module, data: Any, task: Any = None, **options: Any) -> Any:
    """What a report on a classifier is about, without a run; options are its `n` and `seed`."""
    from project.reporting.images.opened import Images
    from project.reporting.subject import Subject

    cpu = torch.device("cpu")
    subject = Subject(None, Path("best.ckpt"), {}, {}, task, network, data, cpu, **options)
    subject.images = Images(network, data, cpu)
    return subject


def text_subject(network: nn.Module, data: Any, **options: Any) -> Any:
    """What a report on a language model is about, without a run; options are its `n` and `seed`."""
    from project.reporting.subject import Subject
    from project.reporting.text.opened import Text
    from project.tasks.language_modeling import LanguageModeling

    task, cpu = LanguageModeling(network), torch.device("cpu")
    subject = Subject(None, Path("best.ckpt"), {}, {}, task, network, data, cpu, **options)
    subject.text = Text(task, data, cpu)
    return subject


def write_idx(path: Path, numbers: np.ndarray) -> None:
    """Write uint8 numbers as an IDX file, compressed when the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = b"".join(size.to_bytes(4, "big") for size in numbers.shape)
    content = bytes([0, 0, 0x08, numbers.ndim]) + shape + numbers.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def stand_in_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with tiny random MNIST and its kin, CIFAR10 and TinyShakespeare."""
    root = tmp_path / "stand-in"
    numbers = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        for part, count in (("train", 300), ("t10k", 101)):
            images = numbers.integers(0, 256, (count, 28, 28))
            labels = np.arange(count) % 10
            write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", images)
            write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", labels)
    for part, count in (("train", 300), ("test", 101)):
        start, labels = root / "QMNIST" / "raw" / f"qmnist-{part}", np.arange(count) % 10
        write_idx(Path(f"{start}-images-idx3-ubyte"), numbers.integers(0, 256, (count, 28, 28)))
        write_idx(Path(f"{start}-labels-idx2-int"), np.repeat(labels[:, None], 8, axis=1))
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


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address can be fetched by torchvision."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refuse)


@pytest.fixture
def own_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The config file of a task and data of one's own, which have none of our methods."""
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
    config = tmp_path / "own.yaml"
    config.write_text(
        "model: own.OwnTask\ndata: own.OwnData\nbest: {monitor: val/accuracy, mode: max}\n"
        "trainer: {max_epochs: 1, accelerator: cpu}\n"
    )
    return str(config)


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
    from project.training import repetitions, run
    from project.training.command import command

    arguments: list[list[str]] = []

    def train(typed: list[str]) -> int:
        arguments.append(typed)
        return command(typed)

    monkeypatch.setattr(repetitions, "run_in_a_process", train)
    for module in (repetitions, run):  # whoever edits the code while it is tested
        monkeypatch.setattr(module, "code_hash", lambda config: "of the test")
    return arguments
