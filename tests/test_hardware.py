"""Freed memory is kept for the next step, and no GPU is looked for where there is none."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS_OF_STEPS = """
import resource
from project.hardware import keep_freed_memory
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


GPUS_AFTER = """
import os, torch
from project.hardware import look_for_no_gpu
had = torch.cuda.is_available()
look_for_no_gpu()
print(had, torch.cuda.is_available(), repr(os.environ.get("CUDA_VISIBLE_DEVICES")))
"""


@pytest.mark.parametrize("was_set", [None, "0"])
def test_where_there_is_no_gpu_none_is_visible_unless_that_was_set(was_set: str | None) -> None:
    environment = {name: text for name, text in os.environ.items() if "VISIBLE" not in name}
    environment |= {} if was_set is None else {"CUDA_VISIBLE_DEVICES": was_set}
    command = [sys.executable, "-c", GPUS_AFTER]
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    had, has, visible = done.stdout.split()
    assert had == has
    assert visible == repr("" if had == "False" and was_set is None else was_set)
