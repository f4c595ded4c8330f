"""Freed memory is kept for the next step."""

import platform
import subprocess
import sys

import pytest

FAULTS_OF_STEPS = """
import resource
from project.training.memory import keep_freed_memory
keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return len([bytearray(1 << 22) for _ in range(8)])
step(), step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems keep theirs")
def test_steps_after_the_first_do_not_fault_their_memory_in_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS_OF_STEPS], capture_output=True, check=True)
    assert int(done.stdout) < 1000  # it was 82,000: one for each 4 KB of 32 MB, ten times
