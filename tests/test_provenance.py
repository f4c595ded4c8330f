"""What a record says of the code: the same recipe has the same hash, another one another."""

import shutil
from pathlib import Path

import pytest

from project import provenance
from project.configuration import PACKAGE

CONFIG = f"""\
model:
  class_path: {PACKAGE.name}.tasks.image_classification.ImageClassification
  init_args: {{network: {{class_path: {PACKAGE.name}.models.cnn.CNN}}}}
"""


@pytest.fixture
def code(tmp_path, monkeypatch) -> Path:
    """A copy of the package, whose hash is taken."""
    folder = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))
    return folder


def test_a_copy_has_the_same_hash(code, monkeypatch) -> None:
    copied = provenance.code_hash(CONFIG)
    monkeypatch.undo()
    assert provenance.code_hash(CONFIG) == copied


@pytest.mark.parametrize(
    "used", ["models/cnn.py", "tasks/attacks.py", "data/loader.py", "training/run.py"]
)
def test_an_edit_of_what_is_used_is_another_recipe(used, code) -> None:
    before = provenance.code_hash(CONFIG)
    with (code / used).open("a", encoding="utf-8") as file:
        file.write("ANOTHER = 1\n")
    assert provenance.code_hash(CONFIG) != before


def test_comments_and_files_that_are_not_used_are_not(code) -> None:
    before = provenance.code_hash(CONFIG)
    (code / "models" / "my_net.py").write_text("class MyNet: ...\n")
    for path, line in (("models/mlp.py", "ANOTHER = 1\n"), ("models/cnn.py", "# a comment\n")):
        with (code / path).open("a", encoding="utf-8") as file:
            file.write(line)
    text = (code / "models" / "cnn.py").read_text("utf-8")
    (code / "models" / "cnn.py").write_text(text.replace('"""Conv', '"""Another'), "utf-8")
    assert provenance.code_hash(CONFIG) == before
    named = CONFIG.replace("cnn.CNN", "my_net.MyNet")
    assert provenance.code_hash(named) != before


@pytest.mark.parametrize(
    ("importing", "of"),
    [
        ("from .my_part import x", "my_part.py"),
        ("from . import my_part", "my_part.py"),
        ("from ..data import my_part", "../data/my_part.py"),
        (f"import {PACKAGE.name}.models.my_part as part", "my_part.py"),
        ("from .my_folder import x", "my_folder/__init__.py"),
        ("from .my_folder.my_part import x", "my_folder/__init__.py"),
        ("from .my_folder import my_part", "my_folder/my_part.py"),
        ("", "__init__.py"),
    ],
)
def test_what_a_used_file_imports_is_used(importing, of, code) -> None:
    for path in ("my_part.py", "../data/my_part.py", "my_folder/my_part.py"):
        (code / "models" / path).parent.mkdir(exist_ok=True)
        (code / "models" / path).write_text("x = 1\n")
    with (code / "models" / "cnn.py").open("a", encoding="utf-8") as file:
        file.write(f"{importing}\n")
    (code / "models" / "my_folder" / "__init__.py").write_text('"""Words alone."""\n')
    before = provenance.code_hash(CONFIG)
    (code / "models" / of).write_text("x = 2\n")
    assert provenance.code_hash(CONFIG) != before


def test_a_class_in_a_folder_of_its_own_is_used(code) -> None:
    (code / "models" / "mine").mkdir()
    path = code / "models" / "mine" / "__init__.py"
    path.write_text("class Net: ...\n")
    named = CONFIG.replace("cnn.CNN", "mine.Net")
    before = provenance.code_hash(named)
    path.write_text("class Net: x = 1\n")
    assert provenance.code_hash(named) != before
