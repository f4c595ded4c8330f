"""Rules of the house that a machine can hold."""

import ast
from pathlib import Path

import pytest

from project.configuration import PACKAGE


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("models/*.py")), ids=lambda p: p.stem)
def test_networks_import_torch_and_the_standard_library_only(path: Path) -> None:
    import sys

    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= {"torch", *sys.stdlib_module_names}


def test_lock_file_has_hashes_and_no_address() -> None:
    lines = (PACKAGE.parent / "requirements.lock").read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("--")]
    pinned = [i for i, line in enumerate(lines) if "==" in line and not line.startswith("#")]
    assert len(pinned) > 50
    assert all("--hash=sha256:" in lines[i + 1] for i in pinned)
