"""Runs from before this package was renamed name their classes by the name that it had then.

Such paths are read as if they began with its name of today. Nothing is imported by a former name:
another package may have it now.
"""

from typing import Any

OWN_NAME = __name__.partition(".")[0]
FORMER_NAMES: tuple[str, ...] = ()  # fmt: skip  # one line, added to by project/rename.py


def current_path(path: str) -> str:
    """Return an import path as it is today."""
    package, dot, rest = path.partition(".")
    return f"{OWN_NAME}.{rest}" if dot and package in FORMER_NAMES else path


def with_current_paths(tree: Any) -> Any:
    """Return nested arguments with each `class_path` as it is today."""
    if isinstance(tree, list):
        return [with_current_paths(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: current_path(value)
        if key in ("class_path", "_class_path") and isinstance(value, str)
        else with_current_paths(value)
        for key, value in tree.items()
    }
