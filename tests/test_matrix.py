"""The table of eight cells, from run directories."""

import json
from pathlib import Path

import pytest
import yaml
from project.training.runs import finished_runs, repetitions, without

import project.matrix
from project.matrix import CELLS, current_setting, main


def write_run(runs: Path, name: str, experiment: str, seed: int, value: float, **changes) -> None:
    """Write what a run leaves behind, with one accuracy or loss."""
    directory = runs / f"{name}_{experiment}_0000"
    directory.mkdir(parents=True)
    if experiment.startswith("mnist"):
        figure = {"value": value, "interval_95": [value - 0.01, value + 0.01]}
        metrics = {"val": {"accuracy": figure}, "test": {"accuracy": figure}}
        data = {"dataset": "MNIST"}
    else:
        figure = {"value": value, "interval_95": [value - 0.01, value + 0.01]}
        metrics = {"val": {"loss": figure, "bits_per_byte": value / 0.693}}
        data = {"corpus": "TinyShakespeare"}
    record = {
        "experiment": experiment,
        "status": "finished",
        "seed": seed,
        "data": data,
        "metrics": metrics,
        "parameters": 1234,
        "training_seconds": 5.0,
        **changes.pop("record", {}),
    }
    config = {"seed_everything": seed, "data": {"root": "a", "width": changes.pop("width", 1)}}
    (directory / "run.json").write_text(json.dumps(record))
    (directory / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def small_settings(monkeypatch) -> None:
    """Take the settings of `write_run` for those of the config files."""
    setting = json.dumps({"data": {"width": 1}})
    monkeypatch.setattr(project.matrix, "current_setting", lambda experiment, keys: setting)


def lines_of(runs: Path, capsys) -> list[str]:
    assert main(["--runs_dir", str(runs)]) == 0
    return capsys.readouterr().out.splitlines()


def test_every_cell_is_a_config_and_every_architecture_has_two() -> None:
    from project.configuration import CONFIGS

    assert all((CONFIGS / f"{experiment}.yaml").is_file() for experiment in CELLS)
    architectures = list(CELLS.values())
    assert all(architectures.count(name) == 2 for name in ("MLP", "CNN", "RNN", "Transformer"))


def test_cells_show_mean_and_deviation_over_seeds_or_one_interval(
    tmp_path, capsys, small_settings
) -> None:
    for seed, value in enumerate((0.98, 0.99, 0.97)):
        write_run(tmp_path, f"2026-{seed}", "mnist_mlp", seed, value)
    write_run(tmp_path, "2026-5", "shakespeare_cnn", 0, 1.5)
    lines = lines_of(tmp_path, capsys)
    (images,) = [line for line in lines if "test accuracy 98.00 ± 1.00 %" in line]
    assert images.split()[:4] == ["MLP", "MNIST", "1,234", "3"]
    (language,) = [line for line in lines if "val loss 1.5000 [1.4900, 1.5100] nats" in line]
    assert "2.165 bits/byte" in language
    assert "Not run yet: python -m project.matrix --train" in lines
    assert len([line for line in lines if line.startswith(tuple(CELLS.values()))]) == 8


def test_other_settings_unfinished_and_repeated_runs_are_left_out(
    tmp_path, capsys, small_settings
) -> None:
    write_run(tmp_path, "2026-1", "mnist_mlp", 0, 0.5, width=2)
    write_run(tmp_path, "2026-2", "mnist_mlp", 0, 0.6)
    write_run(tmp_path, "2026-3", "mnist_mlp", 0, 0.7)
    write_run(tmp_path, "2026-4", "mnist_mlp", 1, 0.9)
    write_run(tmp_path, "2026-5", "mnist_mlp", 2, 0.1, record={"status": "failed"})
    write_run(tmp_path, "2026-6", "mnist_mlp", 0, 0.2, width=3)
    used = repetitions(finished_runs(tmp_path, "mnist_mlp"), json.dumps({"data": {"width": 1}}))
    assert [run.record["metrics"]["test"]["accuracy"]["value"] for run in used] == [0.7, 0.9]
    assert "3 runs of other configurations or repeated seeds are left out." in lines_of(
        tmp_path, capsys
    )


def test_nothing_run_yet_says_what_to_type(tmp_path, capsys) -> None:
    assert "Not run yet: python -m project.matrix --train" in lines_of(tmp_path / "none", capsys)


def test_a_setting_is_of_the_file_and_the_keys_and_not_of_seed_or_place() -> None:
    mine = current_setting("mnist_mlp", [])
    assert current_setting("mnist_mlp", ["--seed_everything=3", "--data.root=there"]) == mine
    assert current_setting("mnist_mlp", ["--model.network.width=3"]) != mine


def test_a_key_that_is_none_is_refused_before_anything_runs(tmp_path, capsys) -> None:
    assert main(["--train", "--runs_dir", str(tmp_path), "--trainer.nonsense", "1"]) == 2
    assert "unknown option --trainer.nonsense" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_keys_are_left_out_at_any_depth() -> None:
    tree = {"a": [{"root": 1, "b": 2}], "root": 3}
    assert without(tree, {"root"}) == {"a": [{"b": 2}]}


@pytest.mark.slow
def test_missing_cells_are_trained_once(tmp_path, monkeypatch, capfd) -> None:
    """Two cells of the eight, for a few steps, without data files."""
    cells = {"docs_transformer": "Transformer", "default": "CNN"}
    monkeypatch.setattr(project.matrix, "CELLS", cells)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    arguments = ["--train", "--runs_dir", str(tmp_path / "runs"), "--trainer.max_steps", "20"]
    assert main(arguments) == 0
    output = capfd.readouterr().out
    assert output.count("--- ") >= 2
    assert "PythonDocs" in output
    assert "Digits" in output
    assert main(arguments) == 0
    assert "--- default" not in capfd.readouterr().out
    arguments[-1] = "21"  # another setting
    assert main(arguments) == 0
    output = capfd.readouterr().out
    assert "--- default, seed 0" in output
    assert "2 runs of other configurations" in output
