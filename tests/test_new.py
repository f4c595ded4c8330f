"""What `project.new` writes works as it is, in a copy of the project; a refusal writes nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import quiet_trainer

from project import new
from project.configuration import PACKAGE
from project.data.image_sets import Digits
from project.data.images import ImageData
from project.inference.prediction import model_of
from project.messages import UsageError
from project.models.mlp import MLP
from project.reporting.subject import open_subject
from project.starting_points.my_task import MyTask
from project.training.closing_table import metric_rows

REPOSITORY = PACKAGE.parent
# Short, long, before and after the names of our modules: imports and lines are put in order.
NAMES = {
    "model": "b_net",
    "language_model": "zebra_reader",
    "data": "faces_of_a_very_long_name_here",
    "corpus": "aloud",
    "task": "unmasking",
}


def files_of(kind: str, name: str) -> list[str]:
    folder = new.FOLDERS[kind]
    return [
        f"project/{folder}/{name}.py",
        f"configs/{name}.yaml",
        f"tests/{folder}/test_{name}.py",
    ]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which each kind was begun."""
    folder = tmp_path_factory.mktemp("clone")
    no_cache = shutil.ignore_patterns("__pycache__")
    for name in ("project", "configs", "tests/models"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=no_cache)
    for name in ("pyproject.toml", "tests/conftest.py", "tests/test_configs.py"):
        shutil.copy(REPOSITORY / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(new, "CLONE", folder)
        for kind, name in NAMES.items():
            assert new.main([kind, name]) == 0
    return folder


def in_clone(clone: Path, *command: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", *command]
    return subprocess.run(arguments, cwd=clone, env=variables, capture_output=True, text=True)


def test_three_files_are_written_and_no_trace_of_the_example_is_left(clone) -> None:
    for kind, name in NAMES.items():
        for path in files_of(kind, name):
            text = (clone / path).read_text()
            assert f"my_{kind}" not in text
            assert "starting_points" not in text
            class_name = "".join(map(str.capitalize, name.split("_")))
            assert class_name in text or path.startswith("configs")


def test_written_tests_pass_and_those_by_listing_and_every_config_trains_a_batch(clone) -> None:
    classes = ["".join(map(str.capitalize, name.split("_"))) for name in NAMES.values()]
    chosen = " or ".join([*NAMES.values(), *classes])
    done = in_clone(clone, "pytest", "-k", chosen, "-p", "no:cacheprovider", "-rA")
    assert done.returncode == 0, done.stdout[-3000:]
    for name in NAMES.values():
        assert f"test_trains_validates_and_tests_a_batch[{name}]" in done.stdout
    assert "test_a_run_that_goes_on_ends_as_one_that_did_not_stop" in done.stdout
    assert "test_one_batch_can_be_learnt[BNet]" in done.stdout
    assert "test_the_future_does_not_leak_to_the_bit[0-ZebraReader" in done.stdout


def test_what_is_written_is_in_the_style_of_the_house(clone) -> None:
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = in_clone(clone, "ruff", *command, ".")
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_what_is_written_is_typed(clone) -> None:
    files = [path for kind, name in NAMES.items() for path in files_of(kind, name)]
    modules = [path for path in files if path.startswith(PACKAGE.name)]
    done = in_clone(clone, "mypy", *modules)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MyNet", "such as my_net"),
        ("my-net", "such as my_net"),
        ("2d_net", "such as d_net"),
        ("my__net", "such as my_net"),
        ("", "such as my_net"),
        ("../net", "such as net"),
        ("lambda", "a word of Python"),
        ("none", "a word of Python"),  # the class would be None
        ("torch", "an installed module"),
        ("random", "an installed module"),
        ("a" * 31, "31 letters, of at most 30"),
        ("cnn", "project/models/cnn.py is there"),
        ("default", "configs/default.yaml is there"),
        ("loader", "tests/data/test_loader.py is there"),  # a test of that name in another folder
        ("gpt", "class GPT already"),
        ("adam", "class Adam already"),
    ],
)
def test_a_name_that_would_not_do_is_refused_and_nothing_written(
    name, reason, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(new, "CLONE", tmp_path)
    for path in ("project/models/cnn.py", "configs/default.yaml", "tests/data/test_loader.py"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    before = sorted(tmp_path.rglob("*"))
    assert new.main(["model", name]) == 2
    assert reason in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_all_three_files_are_written_or_none(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(new, "CLONE", tmp_path)
    (tmp_path / "tests").touch()  # no folder: the third file cannot be written
    assert new.main(["task", "unmasking"]) == 1
    assert "tests" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "tests"]


def test_another_task_is_not_taken_for_a_classifier(tmp_path) -> None:
    task = MyTask(MLP(image_size=8, num_classes=64))
    trainer = quiet_trainer(tmp_path, max_steps=1)
    trainer.fit(task, ImageData(Digits()))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(UsageError, match=r"MyTask .* gives neither classes"):
        model_of(str(tmp_path / "own.ckpt"), "cpu", [])
    subject = open_subject(str(tmp_path / "own.ckpt"), [], "cpu", [])
    assert subject.kind == "other"
    assert "MyTask" in subject.closed


def test_a_loss_is_in_nats_beside_accuracy_or_perplexity_alone() -> None:
    assert metric_rows("test", {"loss": 0.5, "accuracy": 0.9})[0][1].endswith("0.5000 nats")
    assert metric_rows("test", {"loss": 0.5, "gain_db": 3.0})[0][1].endswith("0.5000")
