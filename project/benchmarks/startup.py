"""From Enter to the configuration, and to the first training step, against importing Lightning."""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial

from project.benchmarks.measuring import Figures, interleaved, ratios
from project.configuration import PACKAGE
from project.messages import RunError

IMPORT = "import lightning.pytorch"
# Each ends at the moment that is meant, without taking the interpreter down, which is slow too.
SCRIPTS = {
    IMPORT: f"import os; {IMPORT}; os._exit(0)",
    "project.train --print_config": (
        "import os, sys, project.train as train\n"
        "try: code = train.main(['--print_config'])\n"
        "except SystemExit as end: code = end.code\n"
        "sys.stdout.flush(); os._exit(code or 0)"
    ),
    "project.train, to its first step": (
        "import os, sys, project.train as train\n"
        "from project.tasks.image_classification import ImageClassification as Task\n"
        "Task.training_step = lambda *batch: os._exit(0)\n"
        "sys.exit(train.main(['--runs_dir', sys.argv[1]]) or 1)"  # it came to no step
    ),
}


def startup(rounds: int = 3) -> list[Figures]:
    """Compare seconds of fresh processes."""
    samples = interleaved(rounds, {name: partial(seconds_of, s) for name, s in SCRIPTS.items()})
    quotients = ratios(samples, {f"{name} / import": (name, IMPORT) for name in list(SCRIPTS)[1:]})
    return [Figures("start-up", "seconds", samples, quotients)]


def seconds_of(script: str) -> float:
    """Return the seconds of a fresh process.

    Raises:
        RunError: If it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-c", script, folder],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        )
        seconds = time.perf_counter() - started
    if ended.returncode != 0:
        last = (ended.stderr.splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise RunError(f"a start failed: {last}")
    return seconds
