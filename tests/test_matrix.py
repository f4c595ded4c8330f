"""Four architectures on images and on language: eight cells at comparable budgets, one table."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from project import matrix
from project.configuration import ProjectCLI
from project.matrix import EMBEDDED, FULL, main, typed
from project.training.command import build

ARCHITECTURES = ("MLP", "CNN", "RNN", "Transformer")
SHORT = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2",
         "--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1",
         "--trainer.limit_test_batches", "1", "--trainer.logger", "false"]  # fmt: skip


def configuration(name: str, cells: dict[str, tuple[str, str]]) -> ProjectCLI:
    return ProjectCLI(typed(name, cells[name][1]))


def parameters(cli: ProjectCLI) -> int:
    return sum(p.numel() for p in cli.model.network.parameters())


@pytest.mark.parametrize("cells", [EMBEDDED, FULL], ids=["embedded", "full"])
def test_each_architecture_has_a_cell_on_images_and_one_on_language(cells) -> None:
    assert sorted(a for a, _ in cells.values()) == sorted(2 * ARCHITECTURES)
    tasks = [type(configuration(name, cells).model).__name__ for name in cells]
    assert tasks == ["ImageClassification"] * 4 + ["LanguageModeling"] * 4
    assert [architecture for architecture, _ in cells.values()] == list(2 * ARCHITECTURES)


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_embedded_cell_learns_from_a_batch_of_its_data(name) -> None:
    """`build` opens the data and holds the network against them, as a training does."""
    cli = build(typed(name, EMBEDDED[name][1]))
    batch = next(iter(cli.datamodule.train_dataloader()))
    cli.model.train()
    x, y = batch[:2]
    logits = cli.model.network(x)
    logits = logits[0] if isinstance(logits, tuple) else logits  # and the state of an RNN
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())
    loss.backward()
    gradients = [p.grad for p in cli.model.network.parameters() if p.requires_grad]
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("name", FULL)
def test_every_full_cell_fits_its_data(name, stand_in_data) -> None:
    cli = build([*typed(name, FULL[name][1]), "--data.root", str(stand_in_data)])
    assert cli.config.experiment == name


@pytest.mark.parametrize("cells", [EMBEDDED, FULL], ids=["embedded", "full"])
def test_language_cells_have_equal_budgets(cells) -> None:
    """Parameters within 5 % of the Transformer's, and the tokens that are trained on the same."""
    language = [configuration(name, cells) for name in list(cells)[4:]]
    sizes = [parameters(cli) for cli in language]
    assert max(sizes) / min(sizes) < 1.05
    tokens = []
    for cli in language:
        data = cli.config.data.init_args
        tokens.append(cli.config.trainer.max_steps * data.batch_size * data.context_length)
    assert max(tokens) == min(tokens)
    assert len({str(cli.config.data.init_args.corpus) for cli in language}) == 1


def test_embedded_image_cells_train_as_long_on_the_same_images() -> None:
    images = [configuration(name, EMBEDDED) for name in list(EMBEDDED)[:4]]
    assert len({cli.config.trainer.max_epochs for cli in images}) == 1
    assert len({str(cli.config.data.init_args.dataset) for cli in images}) == 1


def table_of(output: str) -> list[list[str]]:
    """Return the words of the eight rows."""
    lines = output.splitlines()
    (head,) = [i for i, line in enumerate(lines) if "parameters" in line and "95 %" in line]
    return [line.split() for line in lines[head + 2 : head + 10]]


def test_show_without_runs_trains_nothing_and_says_what_to_type(tmp_path, capsys) -> None:
    assert main(["--show", "--runs_dir", str(tmp_path / "none")]) == 0
    output = capsys.readouterr().out
    assert table_of(output) == [
        [architecture, name, "0"] for name, (architecture, _) in EMBEDDED.items()
    ]
    assert "Not run yet: the same command without --show." in output
    assert not (tmp_path / "none").exists()


def test_cells_are_trained_once_and_shown_from_their_runs(
    trained, tmp_path, monkeypatch, capsys
) -> None:
    """Two cells of the eight, with two seeds each."""
    some = {name: EMBEDDED[name] for name in ("digits_mlp", "digits_rnn")}
    monkeypatch.setattr(matrix, "EMBEDDED", some)
    short = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.logger",
             "false", "--runs_dir", str(tmp_path / "runs"), "--seeds", "0..1"]  # fmt: skip
    assert main(short) == 0
    assert len(trained) == 4
    output = capsys.readouterr().out
    found: dict[str, list[dict[str, Any]]] = {}
    for path in (tmp_path / "runs").glob("*/run.json"):
        record = json.loads(path.read_text())
        found.setdefault(record["experiment"], []).append(record)
    rows = table_of(output)[:2]
    for row, name in zip(rows, some, strict=True):
        values = [100 * r["metrics"]["test"]["accuracy"]["value"] for r in found[name]]
        assert row[:4] == [some[name][0], "Digits", f"{found[name][0]['parameters']:,}", "2"]
        assert row[4:9] == ["test", "accuracy", f"{sum(values) / 2:.2f}", "±", row[8]]
        assert float(row[8]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5, abs=0.01)
    trained.clear()
    for more in ([], ["--show"]):
        assert main([*short, *more]) == 0
        output = capsys.readouterr().out
        assert table_of(output)[:2] == rows
        assert "p-values" not in output
    assert trained == []
    assert main([*short, "--trainer.max_steps", "3", "--show"]) == 0  # another configuration
    assert "Not run yet" in capsys.readouterr().out


def test_a_run_that_is_not_finished_is_not_shown(trained, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(matrix, "EMBEDDED", {"digits_mlp": EMBEDDED["digits_mlp"]})
    place = ["--runs_dir", str(tmp_path / "runs")]
    short = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2", *place]
    assert main(short) == 0
    (path,) = (tmp_path / "runs").glob("*/run.json")
    record = json.loads(path.read_text())
    other = path.parent.with_name("copy")
    shutil.copytree(path.parent, other)
    (other / "run.json").write_text(json.dumps(record | {"seed": 1}))
    path.write_text(json.dumps(record | {"status": "running"}))
    capsys.readouterr()
    assert main([*short, "--show"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("MLP")]
    assert row.split()[3] == "1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--trainer.nonsense", "1"], "unknown option --trainer.nonsense"),
        (["--seeds", "4..0"], "--seeds: '4..0' is not like 0..4 or 0,3,7"),
        (["--trainer.fast_dev_run", "true"], "there is nothing to repeat"),
    ],
)
def test_what_is_not_possible_is_one_line_before_anything_is_trained(
    arguments, says, trained, tmp_path, capsys
) -> None:
    assert main([*arguments, "--runs_dir", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert trained == []
    assert not (tmp_path / "runs").exists()


def test_full_without_its_data_says_which(tmp_path, capsys, offline) -> None:
    assert main(["--full", "--runs_dir", str(tmp_path / "runs")]) == 2
    assert "MNIST is not in" in capsys.readouterr().err


@pytest.mark.slow
def test_eight_cells_end_in_one_table(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--runs_dir", str(tmp_path / "runs")]) == 0
    output = capfd.readouterr().out
    rows = table_of(output)
    assert [row[0] for row in rows] == [architecture for architecture, _ in EMBEDDED.values()]
    assert [row[4:6] for row in rows] == [["test", "accuracy"]] * 4 + [["test", "loss"]] * 4
    assert [row[7] for row in rows] == ["%"] * 4 + ["nats"] * 4
    assert "Not run yet" not in output
    assert len(list(Path(tmp_path, "runs").iterdir())) == 8
    assert main([*SHORT, "--runs_dir", str(tmp_path / "runs")]) == 0
    assert capfd.readouterr().out.count("is there") == 8
