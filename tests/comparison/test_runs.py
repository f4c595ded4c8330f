"""Which runs are put together, which are left out, and in which order they stand.

On run directories that are written here, with the figures that a test needs.
"""

import csv
import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from project.comparison.files import csv_of, markdown_of
from project.comparison.leaderboard import Board, leaderboards
from project.comparison.outcomes import save_outcomes
from project.comparison.runs import Collection, Group, collect
from project.comparison.terminal import text_of
from project.messages import UsageError

DIGITS = {"dataset": "Digits", "sha256": {"train": "a", "val": "b", "test": "c"}}
TEXT = {
    "corpus": "PythonDocs",
    "tokenizer": "ByteTokenizer",
    "made_from": {"documents": "d", "cleaning": "none", "val_fraction": 0.1, "test_fraction": 0.1},
    "sha256": {"train": "e", "val": "f", "test": "g"},
}
started = iter(range(10_000, 100_000))


def write_run(
    runs: Path,
    val: float = 0.5,
    test: float | None = 0.5,
    *,
    seed: int = 0,
    config: dict[str, Any] | None = None,
    metric: str = "accuracy",
    **record: Any,
) -> Path:
    """Write what a run leaves behind, each newer than the one before; `config` is {key: value}."""
    experiment = record.setdefault("experiment", "default")
    directory = runs / f"20260101-1{next(started)}_{experiment}_0000"
    directory.mkdir(parents=True)
    metrics = {"val": {metric: {"value": val, "interval_95": [val - 0.1, val + 0.1]}}}
    if test is not None:
        metrics["test"] = {metric: {"value": test, "interval_95": [test - 0.1, test + 0.1]}}
    found = {
        "status": "finished",
        "seed": seed,
        "chosen_by": f"val/{metric}",
        "data": DIGITS,
        "metrics": metrics,
        "parameters": 1234,
        "training_seconds": 5.0,
        "command": "python -m project.train",
        "git": {"commit": "0123456789", "changed": False},
    }
    (directory / "run.json").write_text(json.dumps(found | record))
    tree: dict[str, Any] = {"seed_everything": seed}
    for key, value in (config or {}).items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    (directory / "config.yaml").write_text(yaml.safe_dump(tree))
    return directory


def groups_of(runs: Path) -> list[Group]:
    return collect([runs]).groups


def boards_of(found: Collection | Path) -> list[Board]:
    return leaderboards(found.groups if isinstance(found, Collection) else groups_of(found))


def values_of(group: Group) -> list[float]:
    return group.values("test", "accuracy")


def test_seeds_are_together_in_their_order_and_another_width_is_apart(tmp_path) -> None:
    for seed, width in ((1, 8), (0, 8), (0, 16)):
        config = {"model.init_args.network.init_args.width": width}
        write_run(tmp_path, test=width + seed / 10, seed=seed, config=config)
    assert [values_of(group) for group in groups_of(tmp_path)] == [[8.0, 8.1], [16.0]]


def test_folds_are_together_and_apart_from_other_numbers_of_folds(tmp_path) -> None:
    for num_folds, fold in ((5, 1), (5, 0), (2, 0), (None, 0)):
        config = {"data.init_args.num_folds": num_folds, "data.init_args.fold": fold}
        write_run(tmp_path, test=fold, config=config)
    groups = groups_of(tmp_path)
    assert [values_of(group) for group in groups] == [[0.0, 1.0], [0.0], [0.0]]
    assert [group.is_crossed for group in groups] == [True, False, False]
    assert "2 folds" in text_of(boards_of(tmp_path), Counter())


def test_where_and_how_a_run_was_made_does_not_tell_it_from_another_seed(tmp_path) -> None:
    places = [
        {"data.init_args.root": "here", "data.init_args.num_workers": 0, "runs_dir": "runs",
         "trainer.logger": True, "trainer.enable_progress_bar": None, "experiment": "one",
         "checkpoint_minutes": 10, "wandb.project": "a"},
        {"data.init_args.root": "there", "data.init_args.num_workers": 8, "runs_dir": "elsewhere",
         "trainer.logger": False, "trainer.enable_progress_bar": True, "experiment": "two",
         "checkpoint_minutes": 1, "wandb.project": "b", "data.init_args.cache_dir": "c"},
    ]  # fmt: skip
    for seed, config in enumerate(places):
        write_run(tmp_path, seed=seed, config=config, experiment=config["experiment"])
    (group,) = groups_of(tmp_path)
    assert len(group.runs) == 2


def test_of_a_repeated_seed_the_newest_counts_wherever_it_lies(tmp_path) -> None:
    old, new = tmp_path / "b_first", tmp_path / "a_second"
    write_run(old, test=0.1)
    write_run(old, test=0.2)
    write_run(new, test=0.3)
    for places in ([old, new], [new, old]):
        found = collect(places)
        assert [values_of(group) for group in found.groups] == [[0.3]]
        assert found.left_out == {"repeated": 2}


def test_a_run_that_is_named_twice_is_one(tmp_path) -> None:
    run = write_run(tmp_path)
    found = collect([tmp_path, run, run])
    assert len(found.groups[0].runs) == 1
    assert not found.left_out


def test_what_is_not_finished_or_cannot_be_read_is_counted(tmp_path) -> None:
    write_run(tmp_path, test=0.7)
    for status in ("failed", "failed", "running", "interrupted", "pruned"):
        write_run(tmp_path, status=status)
    write_run(tmp_path, metrics={})
    cut_off = write_run(tmp_path) / "run.json"
    cut_off.write_text(cut_off.read_text()[:-20])
    (write_run(tmp_path) / "run.json").write_bytes(b"\xff\x00")
    (write_run(tmp_path) / "config.yaml").write_text("a: [")
    (write_run(tmp_path) / "config.yaml").unlink()
    (write_run(tmp_path) / "run.json").write_text("[]")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "notes.txt").touch()
    found = collect([tmp_path])
    assert [values_of(group) for group in found.groups] == [[0.7]]
    wanted = {"failed": 2, "not finished": 1, "interrupted": 1, "pruned": 1, "damaged": 5}
    assert found.left_out == {**wanted, "without metrics": 1}
    text = text_of(boards_of(found), found.left_out)
    words = "Left out: 5 damaged, 2 failed, 1 interrupted, 1 not finished, 1 pruned, 1 without"
    assert words in " ".join(text.split())


def test_a_place_without_runs_among_others_is_named(tmp_path) -> None:
    write_run(tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty' is neither"):
        collect([tmp_path / "runs", tmp_path / "empty"])


def test_names_say_what_differs_within_an_experiment(tmp_path) -> None:
    network = "model.init_args.network"
    for kind, width in (("CNN", 8), ("CNN", 16), ("MLP", 16)):
        config = {
            f"{network}.class_path": f"project.models.{kind.lower()}.{kind}",
            f"{network}.init_args.width": width,
            "trainer.max_epochs": 3,
        }
        write_run(tmp_path, config=config)
    write_run(tmp_path, experiment="other", config={"trainer.max_epochs": 4})
    names = [group.name for group in groups_of(tmp_path)]
    assert names[:3] == [
        "default network=CNN width=8", "default network=CNN width=16",
        "default network=MLP width=16",
    ]  # fmt: skip
    assert names[3] == "other"


def test_images_are_ranked_by_validation_and_not_by_test(tmp_path) -> None:
    for width, (val, test) in enumerate([(0.7, 0.9), (0.9, 0.7), (0.8, 0.8)]):
        write_run(tmp_path, val, test, config={"width": width})
    (board,) = boards_of(tmp_path)
    assert (board.metric, board.split) == ("accuracy", "test")
    assert [values_of(group) for group in board.groups] == [[0.7], [0.8], [0.9]]


def test_interval_of_an_accuracy_over_seeds_is_one_of_accuracies(tmp_path) -> None:
    for seed, test in enumerate((0.2, 0.95)):
        write_run(tmp_path, test=test, seed=seed)
    assert " 0.00-100.00" in text_of(boards_of(tmp_path), Counter())


def test_a_text_is_ranked_by_the_least_loss_and_the_mean_of_seeds_counts(tmp_path) -> None:
    for width, seed, val in ((1, 0, 1.0), (1, 1, 3.0), (2, 0, 1.9), (3, 0, 2.1)):
        write_run(tmp_path, val, seed=seed, config={"width": width}, metric="loss", data=TEXT)
    (board,) = boards_of(tmp_path)
    assert board.metric == "loss"
    assert [group.newest.config["width"] for group in board.groups] == [2, 1, 3]


def test_what_the_user_chose_by_is_better_in_the_direction_that_was_said(tmp_path) -> None:
    for mode in ("min", "max"):
        for width, val in enumerate((0.2, 0.1)):
            config = {"width": width, "best.monitor": "val/error", "best.mode": mode}
            write_run(tmp_path / mode, val, config=config, metric="error")
    best = {mode: boards_of(tmp_path / mode)[0].groups[0] for mode in ("min", "max")}
    assert best["min"].values("val", "error") == [0.1]
    assert best["max"].values("val", "error") == [0.2]


def test_two_data_sets_give_two_boards_and_the_same_name_is_told_apart(tmp_path) -> None:
    write_run(tmp_path)
    other = {**DIGITS, "sha256": {"train": "a", "val": "b", "test": "z"}}
    write_run(tmp_path, data=other, config={"width": 2})
    write_run(tmp_path, data={**DIGITS, "dataset": "MNIST"}, config={"width": 3})
    write_run(tmp_path, 2.0, metric="loss", data=TEXT, config={"width": 4})
    names = [board.data for board in boards_of(tmp_path)]
    assert names[2:] == ["MNIST", "PythonDocs"]
    assert all(name.startswith("Digits ") for name in names[:2])
    assert names[0] != names[1]


def test_the_same_recipe_on_other_data_is_another_recipe(tmp_path) -> None:
    """Such as PythonDocs of two versions of Python, or files that were put in place of others."""
    write_run(tmp_path, test=0.1)
    other = {**DIGITS, "sha256": {"train": "a", "val": "b", "test": "z"}}
    write_run(tmp_path, test=0.9, seed=1, data=other)
    assert [values_of(group) for group in groups_of(tmp_path)] == [[0.1], [0.9]]


def test_other_folds_and_seeds_of_the_split_are_on_the_same_board(tmp_path) -> None:
    write_run(tmp_path)
    other = {**DIGITS, "sha256": {"train": "x", "val": "y", "test": "c"}}
    write_run(tmp_path, data=other, config={"data.init_args.num_folds": 5})
    assert len(boards_of(tmp_path)) == 1


def text_run(runs: Path, tokenizer: str, bits: float, loss: float, digest: str) -> Path:
    metrics = {split: {"loss": loss, "bits_per_byte": bits} for split in ("val", "test")}
    data = {**TEXT, "tokenizer": tokenizer, "sha256": {"test": digest}}
    config = {"data.init_args.tokenizer.class_path": f"a.{tokenizer}", "width": bits}
    run = write_run(runs, metrics=metrics, data=data, config=config, chosen_by="val/loss")
    save_outcomes(run, "test", {"losses": loss + torch.rand(500)})
    return run


def test_two_tokenizers_are_ranked_by_bits_per_byte_and_not_paired(tmp_path) -> None:
    text_run(tmp_path, "ByteTokenizer", bits=2.1, loss=1.4, digest="g")
    text_run(tmp_path, "BPETokenizer", bits=1.9, loss=3.3, digest="h")
    (board,) = boards_of(tmp_path)
    assert board.metric == "bits_per_byte"
    assert [group.values("val", "loss") for group in board.groups] == [[3.3], [1.4]]
    assert board.against_first == {1: None}
    assert "1 against 2: no paired test" in text_of([board], Counter())


def test_one_tokenizer_is_ranked_by_loss_and_paired(tmp_path) -> None:
    text_run(tmp_path, "ByteTokenizer", bits=2.1, loss=1.4, digest="g")
    text_run(tmp_path, "ByteTokenizer", bits=1.9, loss=1.2, digest="g")
    (board,) = boards_of(tmp_path)
    assert board.metric == "loss"
    found = board.against_first[1]
    assert found is not None
    assert found.difference == pytest.approx(0.2, abs=0.05)
    assert "better, +0." in text_of([board], Counter())


def image_run(runs: Path, width: int, right: np.ndarray, val: float, seed: int = 0) -> Path:
    """Write a run whose network has these of 300 images right."""
    labels = np.arange(len(right)) % 10
    run = write_run(runs, val, float(right.mean()), config={"width": width}, seed=seed)
    outcomes = {
        "labels": labels,
        "predicted": np.where(right, labels, labels + 1),
        "losses": np.where(right, 0.1, 2.0),
    }
    save_outcomes(run, "test", {name: torch.tensor(values) for name, values in outcomes.items()})
    return run


def test_a_difference_on_the_test_split_is_tested_with_a_correction_for_its_number(
    tmp_path,
) -> None:
    i = np.arange(300)
    image_run(tmp_path, 1, i >= 6, val=0.9)
    image_run(tmp_path, 2, i >= 18, val=0.8)  # 12 more are wrong
    image_run(tmp_path, 3, (i >= 6) & (i < 293), val=0.7)  # 7 more
    (board,) = boards_of(tmp_path)
    found = [board.against_first[rank] for rank in (1, 2)]
    assert [one.p_value for one in found if one] == pytest.approx([2 * 0.5**12, 2 * 0.5**7])
    assert board.adjusted == pytest.approx({1: 2 * 2 * 0.5**12, 2: 2 * 0.5**7})
    assert [one.difference for one in found if one] == pytest.approx([0.04, 7 / 300])
    text = text_of([board], Counter())
    assert "1 against 2: better, +4.00 points" in text
    assert "p = 0.00098\n" in text  # the adjusted one
    assert "McNemar's exact test of these two runs on 300 images" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_first_by_validation_may_be_worse_on_the_test_split(tmp_path) -> None:
    image_run(tmp_path, 1, np.arange(300) >= 30, val=0.9)
    image_run(tmp_path, 2, np.arange(300) >= 0, val=0.8)
    (board,) = boards_of(tmp_path)
    assert "1 against 2: worse, -10.00 points" in text_of([board], Counter())


def test_several_seeds_are_compared_by_resampling(tmp_path) -> None:
    numbers = np.random.default_rng(0)
    for seed in range(3):
        image_run(tmp_path, 1, numbers.random(300) < 0.95, val=0.9, seed=seed)
    image_run(tmp_path, 2, numbers.random(300) < 0.5, val=0.8)
    (board,) = boards_of(tmp_path)
    assert board.against_first[1] is not None
    assert "300 images and 3 x 1 runs" in board.against_first[1].method
    assert "1 against 2: better" in text_of([board], Counter())


@pytest.mark.parametrize("lacking", ["outcomes", "labels", "length"])
def test_without_the_same_examples_there_is_no_paired_test(tmp_path, lacking) -> None:
    image_run(tmp_path, 1, np.arange(300) >= 30, val=0.9)
    run = image_run(tmp_path, 2, np.arange(300) >= 0, val=0.8)
    if lacking == "outcomes":
        (run / "outcomes.npz").unlink()
    elif lacking == "labels":
        found = {"labels": torch.zeros(300), "predicted": torch.zeros(300)}
        save_outcomes(run, "test", {**found, "losses": torch.zeros(300)})
    else:
        shutil.copy(image_run(tmp_path / "other", 3, np.arange(299) > 5, 0.1) / "outcomes.npz", run)
    (board,) = boards_of(tmp_path)
    assert board.against_first == {1: None}
    assert "1 against 2: no paired test" in text_of([board], Counter())


def test_texts_of_which_a_part_was_measured_are_not_paired(tmp_path) -> None:
    text_run(tmp_path, "ByteTokenizer", bits=2.1, loss=1.4, digest="g")
    run = text_run(tmp_path, "ByteTokenizer", bits=1.9, loss=1.2, digest="g")
    save_outcomes(run, "test", {"losses": torch.rand(400)})
    assert boards_of(tmp_path)[0].against_first == {1: None}


def test_runs_that_left_the_test_split_alone_are_ranked_and_say_so(tmp_path) -> None:
    """As the trials of a sweep, which are compared where they lie."""
    trials = tmp_path / "sweeps" / "tiny" / "trials"
    for width, val in enumerate((0.4, 0.6)):
        write_run(trials, val, None, config={"width": width}, experiment=f"trial-000{width}")
    write_run(trials, status="pruned")
    found = collect([trials])
    (board,) = boards_of(found)
    assert (board.split, found.left_out) == ("val", {"pruned": 1})
    line = text_of([board], found.left_out).splitlines()[3]
    assert line.split() == ["1", "trial-0001", "1", "60.00", "none", "50.00-70.00"]
    (row, _) = csv.DictReader(io.StringIO(csv_of([board])))
    assert (row["val_mean"], row["test_mean"], row["interval_low"]) == ("0.6", "", "0.5")


def test_a_run_that_was_not_tested_stands_among_those_that_were(tmp_path) -> None:
    write_run(tmp_path, 0.9, None, config={"width": 1})
    write_run(tmp_path, 0.8, 0.8, config={"width": 2})
    (board,) = boards_of(tmp_path)
    rows = [line.split() for line in text_of([board], Counter()).splitlines()[3:5]]
    assert [row[-2:] for row in rows] == [["90.00", "-"], ["80.00", "70.00-90.00"]]


def test_a_run_without_the_figure_that_ranks_stands_last(tmp_path) -> None:
    write_run(tmp_path, 0.9, metric="other", config={"width": 1})
    write_run(tmp_path, 3.0, metric="loss", config={"width": 2})
    (board,) = boards_of(tmp_path)
    assert [group.newest.config["width"] for group in board.groups] == [2, 1]


def test_runs_of_older_versions_whose_figures_are_plain_numbers_are_read(tmp_path) -> None:
    for width, value in enumerate((0.5, 0.75)):
        metrics = {"val": {"accuracy": value}, "test": {"accuracy": value - 0.1}}
        run = write_run(tmp_path, metrics=metrics, config={"width": width})
        record = json.loads((run / "run.json").read_text())
        for key in ("data", "git", "chosen_by", "parameters", "training_seconds", "command"):
            del record[key]
        (run / "run.json").write_text(json.dumps(record))
    (board,) = boards_of(tmp_path)
    assert board.data == "other data"
    lines = text_of([board], Counter()).splitlines()
    assert lines[3].split() == ["1", "default", "width=1", "1", "75.00", "65.00"]
    assert "0.65" in csv_of([board])


def many_boards(folder: Path) -> list[Board]:
    """Ten groups with long names, losses over seeds and values that differ."""
    for width in range(10):
        for seed in range(2):
            loss = 12.3456 + width / 10 + seed / 3
            config = {"model.init_args.network.init_args.width": 1_000_000 * width,
                      "model.init_args.optimizer.class_path": f"a.{'Long' * 6}{width}"}  # fmt: skip
            run = write_run(
                folder, loss, loss, seed=seed, config=config, data=TEXT, metric="loss",
                experiment="shakespeare_transformer_large", tokens_per_second=1_234_567.8,
                energy_kwh=0.00123456, parameters=1_234_567_890, training_seconds=123_456.7,
            )  # fmt: skip
            save_outcomes(run, "test", {"losses": loss + torch.rand(5_000)})
    return boards_of(folder)


def test_lines_fit_eighty_columns_but_for_commands(tmp_path) -> None:
    reasons = ("failed", "repeated", "damaged", "pruned", "interrupted", "not finished")
    left_out = Counter(dict.fromkeys(reasons, 1_000))
    lines = text_of(many_boards(tmp_path), left_out).splitlines()
    long = [line for line in lines if len(line) > 80 and "python -m project.train" not in line]
    assert not long
    assert sum(line.startswith("1 against") for line in lines) == 9
    (row, *_) = [line for line in lines if line.startswith("2 ")]
    assert "12.6123 ± 0.2357" in row
    assert "1.23 Wh" in "\n".join(lines)
    cells = [line.split() for line in lines if line.startswith("differs")]
    assert [rank for row in cells for rank in row[1:]] == [str(rank) for rank in range(1, 11)]


def test_columns_are_under_each_other(tmp_path) -> None:
    lines = text_of(many_boards(tmp_path), Counter()).splitlines()
    ranks = lines[1:13]
    place = ranks[0].index("validation")
    assert all(line[place - 2 : place] == "  " and line[place] != " " for line in ranks[2:])


def cells_of(line: str) -> list[str]:
    """Return the cells of a row as GitHub splits it: at each | that is not escaped."""
    return line.strip().replace("\\|", "\0").strip("|").split("|")


def test_markdown_has_as_many_cells_in_each_row_whatever_is_typed(tmp_path) -> None:
    nasty = "python -m project.train --freeze 'a|b' --x 'two\nlines' --y '`code`'"
    write_run(tmp_path, experiment="a|b <i>&c", command=nasty)
    many_boards(tmp_path)
    text = markdown_of(boards_of(tmp_path), Counter())
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert [len(rows) for rows in tables] == [3, 12]
    for rows in tables:
        assert {len(cells_of(row)) for row in rows} == {13}
    assert "<i>" not in text
    assert "a\\|b &lt;i&gt;&amp;c" in text
    assert "`` python -m project.train --freeze 'a\\|b' --x 'two lines' --y '`code`' ``" in text


def test_csv_holds_unrounded_means_and_the_directories(tmp_path) -> None:
    runs = [write_run(tmp_path, 0.1 + seed, 0.2 + seed, seed=seed) for seed in range(3)]
    (row,) = csv.DictReader(io.StringIO(csv_of(boards_of(tmp_path))))
    assert float(row["val_mean"]) == pytest.approx(1.1, abs=1e-12)
    assert float(row["test_deviation"]) == 1.0
    assert row["seeds"] == "0 1 2"
    assert row["directories"].split() == [str(run) for run in runs]


def test_a_task_of_ones_own_is_ranked_apart_and_claims_no_nats(tmp_path) -> None:
    config = {"model.class_path": "project.tasks.own.Denoising", "best.mode": "min",
              "best.monitor": "val/loss"}  # fmt: skip
    write_run(tmp_path)
    for width, loss in ((8, 0.3), (16, 0.2)):
        wide = config | {"model.init_args.network.init_args.width": width}
        run = write_run(tmp_path, loss, loss, metric="loss", config=wide)
        save_outcomes(run, "test", {"losses": loss + torch.rand(50) / 100})
    images, own = boards_of(tmp_path)
    assert (images.data, len(images.groups), images.metric) == ("Digits", 1, "accuracy")
    assert (own.data, len(own.groups), own.metric) == ("Digits, Denoising", 2, "loss")
    found = own.against_first[1]
    assert found is not None
    assert found.method.startswith("paired bootstrap over 50 examples")
    assert found.difference == pytest.approx(0.1, abs=0.01)
    text = text_of([own], Counter())
    assert "Digits, Denoising: loss; the best" in text
    assert "1 against 2: better, +0." in text
    assert "in the loss" in text
    assert "nats" not in text
