"""A run that begins with the weights of another one, and keeps parts of them."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from project.checkpoints.checkpoint_file import read
from project.configuration import CONFIGS
from project.messages import UsageError
from project.models.cnn import CNN
from project.models.rnn import RNN, RNNLanguageModel
from project.optimization.freezing import freeze, trainable_parameters
from project.optimization.initial_weights import load_initial_weights
from project.pretrained.torchvision_network import TorchvisionNetwork
from project.tasks.image_classification import ImageClassification
from project.training.command import command

SMALL = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--model.network.width=8",
         "--trainer.enable_progress_bar=false"]  # fmt: skip
EMA = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small CNN on digits."""
    runs = tmp_path_factory.mktemp("source") / "runs"
    assert command([*SMALL, "--trainer.max_epochs=1", "--runs_dir", str(runs)]) == 0
    (directory,) = runs.iterdir()
    return directory


def weights_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint's network."""
    state = read(checkpoint)["state_dict"]
    return {name.removeprefix("network."): tensor for name, tensor in state.items()}


def test_what_fits_is_loaded_and_the_rest_is_listed(source, capsys) -> None:
    network = CNN(in_channels=1, image_size=8, num_classes=5, width=8)
    network.register_buffer("own", torch.ones(3))
    record = load_initial_weights(str(source), network, None)
    theirs = weights_in(source / "checkpoints" / "best.ckpt")
    for name, tensor in network.state_dict().items():
        is_new = name == "own" or name.startswith("head.")
        assert is_new or torch.equal(tensor, theirs[name]), name
    assert record["other_shape"] == ["head.weight", "head.bias"]
    assert record["new"] == ["own"]
    assert record["tensors"] == [30, 33]
    total = sum(p.numel() for p in network.parameters())
    assert record["parameters"] == [total - 5 * 129, total]
    file = source / "checkpoints" / "best.ckpt"
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    shown = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in shown[1:])
    other = "head.weight (5, 128), there (10, 128); head.bias (5), there (10)"
    assert f"  other shape: {other}" in shown


def test_names_that_are_not_used_are_counted(source, capsys) -> None:
    load_initial_weights(str(source), nn.ModuleDict({"stem": CNN(width=8).stem}), None)
    shown = " ".join(capsys.readouterr().out.split())
    assert "6 of 6 tensors" in shown
    assert "not used: widen2.conv.weight, " in shown
    assert "and 22 more" in shown


@pytest.mark.parametrize("more", [[], ["--model.optimizer", "MuonAdamW", *EMA]],
                         ids=["AdamW", "Muon and EMA"])  # fmt: skip
def test_frozen_parts_stay_and_the_others_move(source, more, tmp_path, monkeypatch, capsys) -> None:
    modes: list[dict[str, bool]] = []
    step = ImageClassification.training_step

    def watched(self: ImageClassification, *arguments: Any) -> Any:
        modes.append({name: part.training for name, part in self.network.named_modules()})
        return step(self, *arguments)

    monkeypatch.setattr(ImageClassification, "training_step", watched)
    arguments = [*SMALL, *more, "--init_from", str(source), "--freeze", "[stem.*, widen2.conv.*]"]
    assert command([*arguments, "--trainer.max_epochs=2", "--checkpoint_minutes=0"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    before = weights_in(source / "checkpoints" / "best.ckpt")
    for name in ("best.ckpt", "last.ckpt"):
        after = weights_in(run / "checkpoints" / name)
        for name, tensor in before.items():
            is_frozen = name.startswith(("stem.", "widen2.conv."))
            assert torch.equal(tensor, after[name]) is is_frozen, name
    assert len(modes) == 40  # validated in between
    for is_training in modes:
        frozen = {name for name, training in is_training.items() if not training}
        assert frozen == {"stem", "stem.conv", "stem.norm", "widen2.conv"}

    record = json.loads((run / "run.json").read_text())
    assert record["trainable_parameters"] == record["parameters"] - 25 * 8 - 16 - 72 * 16
    assert record["init_from"]["source"] == str(source)
    printed = capsys.readouterr().out
    trained = f"{record['trainable_parameters']:,} of"
    assert f"to be trained: {trained}" in printed
    assert "were trained" in printed  # in the table
    saved = (run / "config.yaml").read_text()
    assert "init_from: " in saved
    assert "- stem.*" in saved


def test_the_first_step_is_taken_from_the_weights_of_the_file(source, tmp_path) -> None:
    file = source / "checkpoints" / "best.ckpt"
    assert command([*SMALL, "--init_from", str(file), "--trainer.max_steps=1"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    before_the_step = weights_in(run / "checkpoints" / "previous.ckpt")
    for name, tensor in weights_in(file).items():
        assert torch.equal(tensor, before_the_step[name]), name


def test_a_tied_weight_is_frozen_by_each_of_its_names() -> None:
    for name in ("embedding.weight", "head.weight"):
        network = RNNLanguageModel(width=8)
        freeze(network, [name])
        assert not network.embedding.weight.requires_grad
        assert network.layers.training


def test_a_frozen_recurrence_drops_nothing_and_can_pass_gradients() -> None:
    network = RNN(image_size=8, width=8, dropout=0.5)
    freeze(network, ["recurrent.*"])
    x = torch.randn(2, 8, 8)
    assert torch.equal(network.recurrent(x)[0], network.recurrent(x)[0])
    assert network.recurrent.training  # cuDNN needs it


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--init_from", "nowhere"], "'nowhere' is neither a run directory nor a checkpoint"),
        (["--init_from", "SOURCE", "--model.network", "MLP"], "fits one of MLP by name and shape"),
        (["--init_from", "torchvision:resnet81"], "no network 'resnet81'; did you mean resnet18?"),
        (["--freeze", "stm.*"], "'stm.*' matches no parameter of CNN; did you mean stem.*?"),
        (["--freeze", "stem"], "did you mean stem.*?"),
        (["--freeze", "x"], "its parts are stem.*, widen2.*"),
        (["--freeze", "*"], "freezes every parameter of CNN"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    arguments, says, source, tmp_path, capsys
) -> None:
    assert command([str(source) if word == "SOURCE" else word for word in arguments]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert len(message.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_damaged_file_is_refused(source, tmp_path) -> None:
    damaged = tmp_path / "damaged.ckpt"
    content = bytearray((source / "checkpoints" / "best.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UsageError, match="its SHA-256 is not"):
        load_initial_weights(str(damaged), CNN(), None)


def test_what_was_probably_not_meant_is_a_warning(source, tmp_path, capsys) -> None:
    class Letters:
        class_names = tuple("abcdefghij")

    network = CNN(image_size=8, width=8)
    load_initial_weights(str(source), network, Letters())
    assert "head was trained for other classes" in capsys.readouterr().err

    network = CNN(image_size=8, width=8, num_classes=3)
    freeze(network, ["head.*"])
    load_initial_weights(str(source), network, None)
    assert "head.weight, head.bias will stay at random values" in capsys.readouterr().err


def test_tokens_that_mean_something_else_are_a_warning(tmp_path, capsys) -> None:
    for name, letters in (("a", "abcdefgh \n"), ("b", "ijklmnop \n")):
        (tmp_path / f"{name}.txt").write_text(f"{letters * 3}\n" * 300)
    text = ["--config", str(CONFIGS / "docs_transformer.yaml"), "--data.corpus", "TextCorpus",
            "--data.tokenizer", "CharTokenizer", "--model.network", "MLPLanguageModel",
            "--model.network.vocab_size=11", "--trainer.max_epochs=1", "--trainer.max_steps=1",
            "--trainer.accelerator=cpu", "--model.sample_tokens=0"]  # fmt: skip
    assert command([*text, "--data.corpus.path", "a.txt"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    for name, warnings in (("a", 0), ("b", 1)):
        flags = ["--data.corpus.path", f"{name}.txt", "--init_from", str(run)]
        assert command([*text, *flags]) == 0
        printed = capsys.readouterr()
        assert printed.err.count("another tokenizer or vocabulary") == warnings
        assert "new here" not in printed.out


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_weights(source, tmp_path) -> None:
    """What `kill -9` leaves then: the record and the configuration."""
    assert command([*SMALL, "--init_from", str(source), "--trainer.max_steps=1"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    whole = weights_in(run / "checkpoints" / "last.ckpt")
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.csv").unlink()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "running"}))
    assert command(["--resume", str(run)]) == 0
    again = weights_in(run / "checkpoints" / "last.ckpt")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """Where torch.hub looks for a stand-in of ResNet-18's weights, which is not there yet."""
    weights = models.resnet18().state_dict()
    torch.save(weights, tmp_path / "file")
    digest = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()[:8]
    name = f"resnet18-{digest}.pth"
    monkeypatch.setattr(models.ResNet18_Weights.DEFAULT.value, "url", f"https://there/{name}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hub" / "checkpoints" / name


def test_published_weights_are_fetched_once_and_verified(published, tmp_path, monkeypatch) -> None:
    def fetch(url: str, file: str, progress: bool) -> None:
        shutil.copy(tmp_path / "file", file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    network = TorchvisionNetwork(image_size=8)
    record = load_initial_weights("torchvision:resnet18", network, None)
    assert record["new"] == ["head.weight", "head.bias"]
    assert record["not_used"] == ["backbone.fc.weight", "backbone.fc.bias"]
    theirs = torch.load(tmp_path / "file", weights_only=True)
    assert torch.equal(network.backbone.conv1.weight, theirs["conv1.weight"])

    published.write_bytes(published.read_bytes()[:-1] + b"!")
    with pytest.raises(UsageError, match="is damaged: its SHA-256 begins with"):
        load_initial_weights("torchvision:resnet18", network, None)
    freeze(network, ["backbone.*"])
    assert trainable_parameters(network) == 513 * 10


def test_published_weights_that_cannot_be_fetched_say_where_to_put_them(
    published, monkeypatch
) -> None:
    def fetch(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(UsageError, match=f"no network.*put https://there/.* at '{published}'"):
        load_initial_weights("torchvision:resnet18", TorchvisionNetwork(image_size=8), None)


@pytest.mark.slow
def test_two_processes_begin_with_the_same_weights(source, tmp_path) -> None:
    arguments = [sys.executable, "-m", "project.train", *SMALL, "--init_from", str(source),
                 "--freeze", "stem.*", "--trainer.max_steps=3", "--trainer.devices=2",
                 "--trainer.strategy=ddp", "--data.batch_size=32"]  # fmt: skip
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("32 of 32 tensors") == 1
    (run,) = (tmp_path / "runs").iterdir()
    after = weights_in(run / "checkpoints" / "last.ckpt")
    for name, tensor in weights_in(source / "checkpoints" / "best.ckpt").items():
        assert torch.equal(tensor, after[name]) is name.startswith("stem."), name
