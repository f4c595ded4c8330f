"""The code of every notebook runs, cell by cell, and none carries outputs."""

import json
from pathlib import Path

import pytest

from project.configuration import PACKAGE

NOTEBOOKS = sorted((PACKAGE.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, capsys) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells)
    names: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    if path.stem == "01_train_and_look":
        assert names["measured"]["test/accuracy"] > 0.9
    assert capsys.readouterr().out
