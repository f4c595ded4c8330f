"""What differs between configurations, as they are read from YAML."""

import json
import re
from typing import Any


def differing(configs: list[dict[str, Any]]) -> list[str]:
    """Return the dotted keys that do not have the same value in all configurations."""
    flattened = [flat(config) for config in configs]
    keys = dict.fromkeys(key for config in flattened for key in config)
    return [key for key in keys if len({json.dumps(c.get(key)) for c in flattened}) > 1]


def short_key(key: str) -> str:
    """Return a dotted key as it is typed, without its section."""
    parts = [part for part in key.split(".") if part != "init_args"]
    return parts[-2] if parts[-1] == "class_path" else parts[-1]


def short(value: Any) -> Any:
    """Return a value, a class path by its last name."""
    is_path = isinstance(value, str) and re.fullmatch(r"\w+(\.\w+)+", value)
    return value.rpartition(".")[2] if is_path else value


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return {dotted key: value} of nested dictionaries; a list is one value, {} is none."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    parts: dict[str, Any] = {}
    for key, value in tree.items():
        parts |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return parts


def without(tree: Any, keys: set[str]) -> Any:
    """Return nested dictionaries and lists without these keys, and without nulls, at any depth."""
    if isinstance(tree, dict):
        return {k: without(v, keys) for k, v in tree.items() if k not in keys and v is not None}
    if isinstance(tree, list):
        return [without(item, keys) for item in tree]
    return tree
