"""Files that are there whole or not at all, whenever the writer ends."""

import os
from pathlib import Path


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
    temporary.replace(path)
