"""What `project.export` writes computes what the checkpoint does, without this project."""

import json
from pathlib import Path

import pytest
import torch
from conftest import only_run
from safetensors import safe_open
from safetensors.torch import load_file

from project import export
from project.checkpoints.checkpoint_file import read
from project.checkpoints.loading import rebuild
from project.export import main
from project.training.command import command

TEXT = ["--model=LanguageModeling", "--model.optimizer=AdamW", "--model.sample_tokens=0",
        "--data=TextData", "--data.corpus=TextCorpus", "--data.corpus.path=text.txt",
        "--data.context_length=16", "--best.monitor=val/loss", "--best.mode=min"]  # fmt: skip
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu",
         "--trainer.enable_progress_bar=false"]  # fmt: skip


def trained(arguments: list[str]) -> Path:
    Path("text.txt").write_text("a few words of text, over and over again\n" * 200)
    assert command([*arguments, *SHORT]) == 0
    return only_run("runs")


@pytest.mark.parametrize(
    ("arguments", "lengths"),
    [
        (["--model.network=CNN"], None),
        ([*TEXT, "--model.network=GPT", "--model.network.context_length=16",
          "--model.network.width=32", "--model.network.num_heads=2"], [16, 5]),
        ([*TEXT, "--model.network=RNNLanguageModel", "--model.network.width=16"], [16]),
    ],
    ids=["CNN", "GPT", "RNNLanguageModel"],
)  # fmt: skip
def test_exported_forms_compute_what_the_checkpoint_does(arguments, lengths, capsys) -> None:
    run = trained(arguments)
    assert main([str(run)]) == 0
    assert "largest difference" in capsys.readouterr().out
    content = read(run / "checkpoints" / "best.ckpt")
    network = rebuild(content, [])[0].network.eval()

    weights = load_file(run / "export" / "weights.safetensors")
    saved = {n.removeprefix("network."): w for n, w in content["state_dict"].items()}
    assert all(torch.equal(weight, saved[name]) for name, weight in weights.items())
    tied = [name for name in saved if name not in weights]
    assert all(any(torch.equal(saved[n], w) for w in weights.values()) for n in tied)

    program = torch.export.load(run / "export" / "network.pt2").module()
    for length in lengths or [None]:
        batch = torch.rand(5, 1, 8, 8) if length is None else torch.randint(256, (5, length))
        torch.testing.assert_close(program(batch), network(batch), rtol=0, atol=1e-5)

    description = json.loads((run / "export" / "network.json").read_text())
    assert description["network"]["class_path"].endswith(type(network).__name__)
    assert description["data"]
    with safe_open(run / "export" / "weights.safetensors", "pt") as file:
        assert json.loads(file.metadata()["description"]) == description


def test_an_exported_form_that_differs_is_not_kept(monkeypatch, capsys) -> None:
    run = trained(["--model.network=MLP"])
    monkeypatch.setattr(export, "LARGEST_DIFFERENCE", -1.0)
    assert main([str(run)]) == 1
    assert "differs from the network by" in capsys.readouterr().err
    assert {p.name for p in (run / "export").iterdir()} == {"weights.safetensors", "network.json"}


def test_what_cannot_be_exported_is_one_line(capsys) -> None:
    assert main(["runs/nothing"]) == 2
    assert "neither a run directory nor a checkpoint" in capsys.readouterr().err
    run = trained(["--model.network=MLP"])
    assert main([str(run / "checkpoints" / "last.ckpt")]) == 2
    assert "--output DIR" in capsys.readouterr().err
    assert main([str(run / "checkpoints" / "last.ckpt"), "--output", "there"]) == 0
    assert Path("there", "network.pt2").is_file()
