"""Fetching data sets, with one message when that fails."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def fetch(name: str, root: Path, folder: Path, get: Callable[[], object]) -> None:
    """Call `get` to download; turn whatever goes wrong into one message with the remedy.

    Raises:
        FileNotFoundError: If the files cannot be had; folders made on the way are gone again.
    """
    new_folders = [path for path in (folder, folder.parent, root) if not path.exists()]
    try:
        get()
    except (OSError, RuntimeError, EOFError) as error:
        for path in new_folders:
            with suppress(OSError):  # something did arrive: keep it
                path.rmdir()
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"{name} is not in {str(folder)!r} and could not be downloaded ({reason}); copy its "
            f"files there, or say which folder holds them instead of {str(root)!r}: "
            "--data.root DIR or DATA_DIR=DIR"
        ) from error


def data_root(root: str | None) -> Path:
    """Return the folder of the data files: `root`, else the variable DATA_DIR, else `data`."""
    return Path(root or os.environ.get("DATA_DIR") or "data").expanduser()
