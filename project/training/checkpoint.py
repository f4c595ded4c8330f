"""From a run or a checkpoint file back to the objects in it."""

from pathlib import Path
from typing import Any

from project.messages import UsageError


def checkpoint_of(run: Path) -> Path:
    """Return the checkpoint that a run chose as its best, or `run` itself if it is a file.

    Raises:
        UsageError: If there is none.
    """
    if run.is_file():
        return run
    best = run / "checkpoints" / "best.ckpt"
    if best.is_file():
        return best
    if run.is_dir():
        raise UsageError(
            f"the run {str(run)!r} has no checkpoints/best.ckpt: did it validate once?"
        )
    raise UsageError(f"{str(run)!r} is neither a run directory nor a checkpoint; see `ls runs`")


def load(path: Path) -> dict[str, Any]:
    """Return what is in a checkpoint, on the CPU; numbers and strings alone, never code.

    Raises:
        UsageError: If the file is damaged or not a checkpoint.
    """
    import pickle
    import zipfile

    import torch

    if not zipfile.is_zipfile(path):  # as torch writes
        raise UsageError(f"{str(path)!r} is damaged or not a checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else "it is empty"
        raise UsageError(f"{str(path)!r} is damaged or not a checkpoint: {reason}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UsageError(f"{str(path)!r} is not a checkpoint of Lightning: it has no state_dict")
    return content
