"""Every command explains itself on one screen's width, with examples, and at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from project.configuration import PACKAGE

COMMANDS = [p.stem for p in PACKAGE.glob("*.py") if "def main(" in p.read_text(encoding="utf-8")]


def test_there_are_commands() -> None:
    assert {"train", "evaluate", "predict", "compare", "sweep", "dashboard"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns_has_two_examples_and_needs_no_torch(name: str) -> None:
    script = (
        f"import sys, project.{name} as command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules or 'lightning' in sys.modules, file=sys.stderr)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "80"},
    )
    lines = shown.stdout.splitlines()
    of_seven_letters = [line.replace(PACKAGE.name, "package") for line in lines]
    assert max(map(len, of_seven_letters)) <= 80
    examples = [line for line in lines if line.startswith(f"  python -m project.{name}")]
    assert len(examples) >= 2
    assert shown.stderr.strip() == "False"


@pytest.mark.parametrize("name", COMMANDS)
def test_configs_that_help_names_exist(name: str) -> None:
    text = Path(PACKAGE, f"{name}.py").read_text(encoding="utf-8")
    for config in re.findall(r"configs/[\w/]+\.yaml", text):
        assert Path(PACKAGE.parent, config).is_file(), config
