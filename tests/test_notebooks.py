"""Every notebook runs from top to bottom in a kernel, as its reader runs it, and holds its word."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from project.configuration import PACKAGE

NOTEBOOKS = sorted((PACKAGE.parent / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
MACHINE_PATH = re.compile(r"""(?<![\w.:/>])(?:/\w+/|~/|[A-Z]:\\)""")  # /home/..., but not https://
CLAIMS = {  # what a notebook shows, run as its last cell
    "01_train_and_look": """
assert task.measured["accuracy"]["value"] > 0.9
in_record = record["metrics"]["test"]["accuracy"]
assert record["status"] == "finished" and in_record["value"] > 0.9
assert abs(int(is_right.sum()) - in_record["right"]) <= 2  # computed in bfloat16, perhaps
assert confidence[is_right].mean() > confidence[~is_right].mean()
""",
    "02_language_models": """
assert all(measured["loss"]["value"] < unigram_nats - 1 for measured in results.values())
assert all(losses[0] > losses[3] + 0.3 for losses in by_context.values())  # 1 byte, and 8
assert abs(by_context["MLP"][-1] - by_context["MLP"][4]) < 1e-4  # it sees 16
assert carried < empty
assert len({*samples.values()}) == len(networks)
""",
    "03_explain_and_attack": """
assert (error < 0.05 * difference).all()
last = {name: values[:, -1].nanmean().abs() for name, values in rho.items()}
assert last["saliency"] < 0.15 and last["integrated"] < 0.15 < last["guided"]
place = epsilons.index(epsilon)
assert shares["plain", "PGD-20"][place] < 0.2 < shares["plain", "noise"][place]
assert shares["robust", "PGD-20"][place] > shares["plain", "PGD-20"][place] + 0.2
assert shares["plain", "PGD-20"][0] > 0.9 and shares["robust", "PGD-20"][-1] < 0.05
assert errors["noisy, scaled"] < errors["noisy"]
assert all(value > 0.5 for value in told_apart.values())
""",
}


@pytest.fixture
def kernel_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let kernels be those of this Python, and write below `tmp_path`; return their TMPDIR."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path / "TMPDIR"


@each_notebook
def test_runs_from_top_to_bottom_and_leaves_nothing(
    path: Path, tmp_path: Path, kernel_alone: Path
) -> None:
    notebook = nbformat.read(path, as_version=4)
    if path.stem in CLAIMS:
        notebook.cells.append(nbformat.v4.new_code_cell(CLAIMS[path.stem]))
    here = tmp_path / "here"
    here.mkdir()
    place = {"metadata": {"path": str(here)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=place).execute()
    assert any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    assert [*here.iterdir()] == []
    assert [*kernel_alone.iterdir()] == []


@each_notebook
def test_is_stored_as_it_is_to_be_read(path: Path) -> None:
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.keys() == {"kernelspec"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert len(notebook.cells) <= 25
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert not MACHINE_PATH.search(cell.source), cell.id
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id


@each_notebook
def test_uses_public_names_alone(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    names: set[str] = set()
    for node in ast.walk(ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", code, flags=re.MULTILINE))):
        if isinstance(node, ast.ImportFrom):
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
    hidden = {name for name in names if name.startswith("_") and not name.endswith("__")}
    assert names
    assert hidden == set()
