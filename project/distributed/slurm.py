"""SLURM: which job this is, what it had begun before it was requeued, and how it is requeued.

A job is requeued by the signal that `sbatch --signal=USR1@90` sends before the time limit, or by
SLURM itself after a preemption or the failure of a node. It then starts again with the same script,
and each training in it goes on where it was, in the same run directory. (Lightning's own requeueing
looks for its checkpoint in `default_root_dir`, which is another one for every run, and its signal
handlers save half a step: `trainer.py` leaves them out.)
"""

import multiprocessing
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from project.checkpoints.interruption import Stopped
from project.comparison.runs import directories, read_run
from project.distributed.processes import process_rank
from project.messages import warn

INTERACTIVE = ("bash", "interactive")  # names of jobs that Lightning leaves alone, too


def job() -> dict[str, Any] | None:
    """Return {"cluster", "job", "restarts"} of a batch job whose tasks srun starts, else None.

    `job` is `<array>_<task>` for a task of an array; `restarts` is 0 in its first start.
    """
    variables = os.environ
    if not {"SLURM_JOB_ID", "SLURM_NTASKS"} <= variables.keys():
        return None
    if variables.get("SLURM_JOB_NAME") in INTERACTIVE:
        return None
    name = variables["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in variables:
        name = f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    return {
        "cluster": variables.get("SLURM_CLUSTER_NAME"),
        "job": name,
        "restarts": int(variables.get("SLURM_RESTART_COUNT") or 0),
    }


def begun_before(runs_dir: Path, command: str) -> Path | None:
    """Return the run that an earlier start of this job began with the same command, if any.

    Every process comes to the same answer, whatever the first has written meanwhile: the runs of
    this start do not count, and what it is found by does not change when a run goes on. Twice the
    same command in one job is one run.

    Args:
        command: As `typed_command` has it.
    """
    here = job()
    if here is None or here["restarts"] == 0 or "PROJECT_REPETITION" in os.environ:
        return None
    found = None
    for run in filter(None, map(read_run, directories([runs_dir]))):
        began = run.record.get("slurm") or here
        is_of_this_job = (began["cluster"], began["job"]) == (here["cluster"], here["job"])
        is_earlier = began["restarts"] < here["restarts"]
        if is_of_this_job and is_earlier and run.record.get("command") == command:
            found = run.directory  # the newest: their names begin with the time
    return found


def requeue_after(error: BaseException) -> None:
    """Put this job into the queue again, after SIGUSR1 has stopped and saved what runs in it.

    Not after SIGTERM: that is `scancel`, or a preemption after which SLURM requeues by itself. The
    first process does it, and not a worker of a sweep: its supervisor goes on with all of them.
    """
    here = job()
    if here is None or not isinstance(error, Stopped) or error.signum != signal.SIGUSR1:
        return
    if process_rank() != 0 or multiprocessing.parent_process() is not None:
        return
    command = ["scontrol", "requeue", here["job"]]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        reason = answer.stderr.strip() or f"exit code {answer.returncode}"
        is_done = answer.returncode == 0
    except (OSError, subprocess.SubprocessError) as failure:
        reason, is_done = str(failure), False
    if is_done:
        print(f"job {here['job']} is requeued: its next start goes on from here", flush=True)
    else:
        warn(
            f"`{' '.join(command)}` failed ({reason}): go on in another job, as said below, and "
            "set #SBATCH --requeue there"
        )
