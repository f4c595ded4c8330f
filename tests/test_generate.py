"""From a trained run to text, as a user types it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import small_text_run

from project.generate import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character model of a small text, which is deleted."""
    folder = tmp_path_factory.mktemp("generate")
    longer = ("--model.network.width=32", "--model.network.depth=2", "--trainer.max_steps=60")
    directory = small_text_run(folder, *longer)
    shutil.rmtree(folder / "there")
    return directory


def test_prompt_is_continued_from_the_checkpoint_alone(run, capsys, tmp_path) -> None:
    alone = tmp_path / "only.ckpt"
    shutil.copy(run / "checkpoints" / "best.ckpt", alone)
    assert main([str(run), "--prompt", "the ", "--max_tokens", "40", "--temperature", "0"]) == 0
    from_run = capsys.readouterr().out
    assert from_run.startswith("the ")
    assert len(from_run) == 4 + 40 + 1
    assert set(from_run) <= set("the cat sat on the mat and the rat\n")
    assert main([str(alone), "--prompt", "the ", "--max_tokens", "40", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == from_run


def test_further_samples_leave_the_first_as_it_was(run, capsys) -> None:
    arguments = [str(run), "--prompt", "the ", "--max_tokens", "30", "--temperature", "1"]
    assert main(arguments) == 0
    one = capsys.readouterr().out
    assert main([*arguments, "--num_samples", "3"]) == 0
    samples = capsys.readouterr().out.split("-" * 20 + "\n")
    assert samples[0] == one
    assert len(set(samples)) == 3
    assert all(sample.startswith("the ") for sample in samples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "the \u00e9X"], "'\u00e9X', which is not among the 13 characters"),
        (["--prompt", ""], "prompt has no tokens"),
        (["--temperature", "-1"], "temperature -1.0"),
        (["--num_samples", "0"], "must be at least 1"),
        (["--device", "cuda:9"], "--device cuda:9"),
        (["--device", "gpu"], "--device gpu"),
    ],
)
def test_what_cannot_be_done_is_one_message(run, arguments, message, capsys) -> None:
    assert main([str(run), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_what_is_not_a_language_model_is_refused(run, tmp_path, capsys) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((run / "checkpoints" / "best.ckpt").read_bytes()[:1000])
    picture = tmp_path / "picture.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"_class_path": "a.Picture"}}, picture)
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "nothing", "neither a run directory nor a checkpoint"),
        (tmp_path / "empty", "has no checkpoints/best.ckpt"),
        (damaged, "is damaged or not a checkpoint"),
        (Path(__file__), "is damaged or not a checkpoint"),
        (picture, "is of a.Picture and not of a language model"),
    ):
        assert main([str(path)]) == 2
        assert message in capsys.readouterr().err


def test_a_process_of_its_own_writes_the_same(run, capsys) -> None:
    """As a user types it: nothing of the training is imported yet."""
    arguments = [str(run), "--prompt", "the ", "--max_tokens", "20"]
    assert main(arguments) == 0
    typed = [sys.executable, "-m", "project.generate", *arguments]
    done = subprocess.run(typed, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == capsys.readouterr().out
