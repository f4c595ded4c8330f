"""Files as a user has them, against what the same model says of the same data in its test."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import only_run, small_digits_run, small_text_run
from PIL import Image

from project.data.image_sets import Digits
from project.evaluate import main as evaluate
from project.predict import main
from project.training.command import command


@pytest.fixture(scope="module")
def image_run(tmp_path_factory) -> Path:
    longer = ("--trainer.max_epochs=3", "--trainer.precision=32-true")
    return small_digits_run(tmp_path_factory.mktemp("images"), *longer)


@pytest.fixture
def digits(tmp_path) -> Path:
    """The first 20 images of the test split, as files."""
    folder = tmp_path / "digits"
    folder.mkdir()
    _, test = Digits().load(tmp_path)
    for i in range(20):
        Image.fromarray(test.images[i, 0].numpy()).save(folder / f"{i:02d}.png")
    return folder


def lines_of(arguments: list[str], capsys, code: int = 0) -> list[dict]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_an_image_file_gets_the_verdict_of_the_test(image_run, digits, capsys) -> None:
    found = lines_of([str(image_run), str(digits)], capsys)
    outcomes = np.load(image_run / "outcomes.npz")
    assert [int(line["class"]) for line in found] == outcomes["test/predicted"][:20].tolist()
    confidences = [line["probability"] for line in found]
    np.testing.assert_allclose(confidences, outcomes["test/confidence"][:20], rtol=1e-5)
    assert all(sum(line["probabilities"].values()) == pytest.approx(1) for line in found)
    assert all(line["was"] == "8x8 L" and line["read_as"] == "8x8 grey" for line in found)
    assert not any(line["looks_inverted"] for line in found)


def test_batches_and_broken_files_do_not_change_the_others(
    image_run, digits, capsys, monkeypatch
) -> None:
    whole = lines_of([str(image_run), str(digits)], capsys)
    (digits / "07.png").write_bytes(b"no image")
    monkeypatch.setattr("project.inference.prediction.IMAGES_OF_A_BATCH", 3)
    found = lines_of([str(image_run), str(digits), "not_there.png"], capsys, code=1)
    for line, other in zip([*whole[:7], *whole[8:]], found, strict=True):
        assert line["file"] == other["file"]
        assert line["probability"] == pytest.approx(other["probability"], rel=1e-5)
    assert main([str(image_run), str(digits)]) == 1
    output, error = capsys.readouterr()
    assert "07.png' is not a readable image: cannot identify image file" in error
    assert "1 of 20 files were left out" in error
    assert len(output.splitlines()) == 20  # the head and 19 images


def test_size_and_mode_do_not_matter_and_a_negative_is_told(image_run, digits, capsys) -> None:
    (before,) = lines_of([str(image_run), str(digits / "00.png")], capsys)
    image = Image.open(digits / "00.png")
    large = image.resize((80, 80), Image.Resampling.NEAREST).convert("RGBA")
    large.save(digits / "large.png")
    negative = Image.fromarray(255 - np.array(image))
    negative.save(digits / "negative.png")
    (found,) = lines_of([str(image_run), str(digits / "large.png")], capsys)
    assert found["class"] == before["class"]
    assert found["was"] == "80x80 RGBA"
    (found,) = lines_of([str(image_run), str(digits / "negative.png")], capsys)
    assert found["looks_inverted"]
    (found,) = lines_of([str(image_run), str(digits / "negative.png"), "--invert"], capsys)
    assert found["probability"] == pytest.approx(before["probability"], rel=1e-5)
    assert not found["looks_inverted"]


def test_the_folder_of_the_training_is_not_needed(tmp_path, capsys) -> None:
    pictures = tmp_path / "pictures"
    for name, grey in (("dark", 40), ("light", 200)):
        (pictures / name).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (9, 12), grey + i).save(pictures / name / f"{i}.png")
    arguments = [
        "--data.dataset", "ImageFolder", "--data.dataset.path", str(pictures),
        "--data.dataset.image_size", "8", "--data.dataset.in_channels", "1",
        "--model.network", "MLP", "--model.network.num_classes", "2",
        "--model.network.width", "8", "--model.network.dropout", "0", "--data.augment", "null",
        "--data.batch_size", "4", "--trainer.max_epochs", "20", "--trainer.accelerator", "cpu",
        "--runs_dir", str(tmp_path / "runs"),
    ]  # fmt: skip
    assert command(arguments) == 0
    run = only_run(tmp_path / "runs")
    pictures.rename(tmp_path / "elsewhere")
    found = lines_of([str(run), str(tmp_path / "elsewhere" / "light")], capsys)
    assert {line["class"] for line in found} == {"light"}
    assert found[0]["was"] == "9x12 L"


NETWORKS = {
    "windows": [],
    "streams": ["--model.network=RNNLanguageModel", "--data.streams=true"],
}


@pytest.fixture(scope="module", params=NETWORKS)
def text_run(tmp_path_factory, request) -> Path:
    options = ("--data.batch_size=4", "--data.eval_batch_size=1", "--trainer.precision=32-true")
    folder = tmp_path_factory.mktemp("text")
    return small_text_run(folder, *options, *NETWORKS[request.param])


def test_a_text_gets_the_loss_of_an_evaluation(text_run, tmp_path, capsys) -> None:
    text = tmp_path / "new.txt"
    text.write_text("a cat and a rat on a mat\n" * 9)
    changes = ["--data.corpus.path", str(text), "--data.val_fraction=0", "--data.test_fraction=0"]
    assert evaluate([str(text_run), "--device=cpu", "--split=train", *changes]) == 0
    evaluation = json.loads((text_run / "evaluation.json").read_text())[-1]
    measured = evaluation["metrics"]["train"]
    (found,) = lines_of([str(text_run), str(text), "--tokens"], capsys)
    assert found["num_tokens"] == measured["loss"]["count"] == len(text.read_text()) - 1
    assert found["loss"] == pytest.approx(measured["loss"]["value"], rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(measured["bits_per_byte"]["value"], rel=1e-5)
    assert found["interval_95"] == pytest.approx(measured["loss"]["interval_95"], rel=1e-4)
    pieces, losses = zip(*found["tokens"], strict=True)
    assert "".join(pieces) == text.read_text()
    assert losses[0] is None
    assert sum(losses[1:]) / len(losses[1:]) == pytest.approx(found["loss"], rel=1e-6)


def test_texts_that_cannot_be_read_are_left_out_and_unknown_characters_told(
    text_run, tmp_path, capsys
) -> None:
    (tmp_path / "texts").mkdir()
    for name, content in (("a", b"the cat \xff"), ("b", b"x"), ("c", b"the zebra sat\n")):
        (tmp_path / "texts" / f"{name}.txt").write_bytes(content)
    assert main([str(text_run), str(tmp_path / "texts")]) == 1
    output, error = capsys.readouterr()
    assert "is not utf-8: byte 0xff at offset 8" in error
    assert "name its encoding, for example --encoding cp1252" in error
    assert "b.txt' has 1 tokens, and at least 2 are needed" in error
    head, row = output.splitlines()[-2:]
    assert "2 unknown characters" in row  # z and b
    assert max(len(head), len(row.partition("  2 unknown")[0])) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens"], "--tokens is for language models"),
        (["--device", "nonsense"], "--device nonsense cannot be used"),
        (["empty"], "has no .png"),
    ],
)
def test_what_is_not_possible_is_one_line(image_run, digits, arguments, message, capsys) -> None:
    Path("empty").mkdir()
    assert main([str(image_run), str(digits / "00.png"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_checkpoint_of_other_data_says_what_to_do(tmp_path, capsys) -> None:
    content = {"state_dict": {}, "hyper_parameters": {"_class_path": "torch.nn.Linear"}}
    torch.save(content, tmp_path / "strange.ckpt")
    assert main([str(tmp_path / "strange.ckpt"), "a.png"]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_damaged_file_of_any_kind_is_left_out(image_run, tmp_path, capsys) -> None:
    """A photo whose EXIF is damaged makes Pillow raise errors of other modules."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("L", (9, 9), 50)
    image.save(tmp_path / "good.jpg", exif=exif)
    content = bytearray((tmp_path / "good.jpg").read_bytes())
    place = content.index(b"Exif") + 6
    broken = []
    for i in range(place, place + 24):
        damaged = bytearray(content)
        damaged[i] ^= 0xFF
        (tmp_path / f"{i}.jpg").write_bytes(damaged)
        broken.append(str(tmp_path / f"{i}.jpg"))
    assert main([str(image_run), *broken, str(tmp_path / "good.jpg")]) in (0, 1)
    assert "good.jpg" in capsys.readouterr().out
