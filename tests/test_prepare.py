"""What a user sees of preprocessing."""

import shlex
from pathlib import Path

import pytest

from project.configuration import ProjectCLI
from project.prepare import main

TEXT = "\ufeffThe cat sat.\r\nThe dog ran.\r\n" * 100 + "\x00\x07"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "my text.txt"
    path.write_bytes(TEXT.encode())
    return path


def rows(output: str) -> dict[str, str]:
    return {line[:15].strip(): line[15:].strip() for line in output.splitlines() if line[:1] != " "}


def test_report_counts_what_was_kept_and_dropped(text, capsys) -> None:
    assert main([str(text), "--tokenizer", "char"]) == 0
    report = rows(capsys.readouterr().out)
    kept = len(TEXT) - 1 - 200 - 2  # byte order mark, carriage returns, control characters
    assert report["characters"] == f"{len(TEXT):,} read, {kept:,} kept"
    assert "2 control characters" in report["dropped"]
    assert "1 byte order marks" in report["dropped"]
    assert "200 second halves of newlines" in report["dropped"]
    assert report["vocabulary"].startswith("17 tokens (CharTokenizer)")
    assert "' '" in report["most frequent"]
    sizes = [
        int(report[split].split(" ")[0].replace(",", "")) for split in ("train", "val", "test")
    ]
    assert sum(sizes) == kept


@pytest.mark.parametrize("tokenizer", ["bytes", "char", "bpe"])
def test_tokens_are_kept_for_the_training_command_that_is_printed(
    text, tokenizer, capsys, tmp_path
) -> None:
    size = ["--vocab_size", "300"] if tokenizer == "bpe" else []
    arguments = [str(text), "--tokenizer", tokenizer, *size, "--lower_case"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "made at" in output
    assert main(arguments) == 0
    assert "made before" in capsys.readouterr().out

    command = shlex.split(output.split("train on it:\n")[1].replace("\\\n", ""))
    assert command[:3] == ["python", "-m", "project.train"]
    repository = Path(__file__).parents[1]
    flags = [f.replace("configs/", f"{repository}/configs/") for f in command[3:]]
    cli = ProjectCLI(flags)
    cli.datamodule.prepare_data()
    cli.datamodule.setup()
    cli.model.check_data(cli.datamodule)
    assert len(list((tmp_path / "data" / "tokens").iterdir())) == 1  # nothing was made anew


def test_embedded_text_needs_no_file(capsys) -> None:
    assert main(["PythonDocs", "--tokenizer", "bpe", "--vocab_size", "512"]) == 0
    report = rows(capsys.readouterr().out)
    assert report["vocabulary"].startswith("512 tokens")
    assert float(report["bytes per token"]) > 2


def test_options_of_files_are_refused_for_named_texts(capsys) -> None:
    assert main(["PythonDocs", "--encoding", "latin-1"]) == 2
    assert "--encoding is for files of your own, and not for PythonDocs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", [], "is empty"),
        (b"caf\xe9", [], "byte 0xe9 at offset 3"),
        (b"text", ["--encoding", "utf-9"], "no encoding 'utf-9'"),
        (b"text", ["--tokenizer", "bpe", "--vocab_size", "3"], "vocab_size 3"),
        (b"text", ["--vocab_size", "300"], "--vocab_size 300 is for bpe"),
        (b"text", ["--val_fraction", "2.0"], "val_fraction 2.0 must lie"),
        (b"text", ["--val_fraction", "0.9", "--test_fraction", "0.1"], "nothing to train on"),
        (None, [], "is not there; give a text file or a folder of .txt files\n"),
    ],
)
def test_bad_text_is_one_message(tmp_path, content, arguments, message, capsys) -> None:
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "--data." not in captured.err
    assert len(captured.err.splitlines()) == 1
