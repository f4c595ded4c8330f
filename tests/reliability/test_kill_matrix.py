"""The small kill matrix, in a process of its own: forks need one that has no threads yet."""

import subprocess
import sys
from pathlib import Path

from conftest import posix
from kill_matrix import SMALL

MATRIX = Path(__file__).with_name("kill_matrix.py")


@posix
def test_runs_that_are_killed_and_resumed_are_equal_bit_by_bit() -> None:
    answer = subprocess.run(
        [sys.executable, str(MATRIX), "--small"], capture_output=True, text=True, timeout=600
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"{len(SMALL)}/{len(SMALL)}" in answer.stdout.splitlines()[-1]
