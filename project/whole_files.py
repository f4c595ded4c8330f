"""Files that are there whole or not at all, whenever the writer ends."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

SECONDS_TO_WAIT = 5.0  # for another program to close a file


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a crash at any moment leaves the old one or the new one."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(temporary, path)


def put_in_place(made: Path, path: Path) -> None:
    """Rename a file, over the one that was at `path`.

    Windows refuses while another program, such as `project.compare` or a virus scanner, has one of
    them open, which is seldom for long.

    Raises:
        OSError: If it cannot be done, on Windows after 5 s.
    """
    until = time.monotonic() + (SECONDS_TO_WAIT if os.name == "nt" else 0)
    while True:
        try:
            made.replace(path)
            return
        except PermissionError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)


def replace_json(path: Path, content: Any) -> None:
    """Write JSON as `replace_text` does; numbers that are not finite become null."""
    replace_text(path, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """Return nested values with None where a number is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
