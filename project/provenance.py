"""What a run was made by: the command as it was typed, the code, the versions, the machine."""

import ast
import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from project.hardware import cpu_name

PACKAGES = ("torch", "lightning", "torchmetrics", "torchvision", "jsonargparse", "numpy")
MAX_PATCH_BYTES = 1_000_000
CODE_OF_A_RUN = ("data", "models", "pretrained", "tasks", "optimization", "training")  # folders


def provenance() -> dict[str, Any]:
    """Return the time, the commit, versions and hardware."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "git": {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "hardware": {
            "cpu": cpu_name(),
            "cpu_cores": os.cpu_count(),
            "platform": platform.platform(),
        },
    }


def typed_command(name: str, arguments: list[str]) -> str:
    """Return what was typed, with $HOME for the home folder, which names its owner."""
    words = []
    for word in arguments:
        parts = [shlex.quote(part) if part else "" for part in re.split(home_folder(), word)]
        words.append('"$HOME"'.join(parts) or "''")
    return " ".join(["python", "-m", f"project.{name}", *words])


def home_folder() -> str:
    """Return a regular expression for the home folder, alone or before what lies in it."""
    home = str(Path.home())
    return rf"(?<![\w/.~-]){re.escape(home)}(?=[/\\]|$)" if len(home) > 1 else "(?!)"


def without_home(value: Any) -> Any:
    """Return nested values in which the home folder, which names its owner, is `~`."""
    if isinstance(value, dict):
        return {key: without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item) for item in value]
    return re.sub(home_folder(), "~", value) if isinstance(value, str) else value


def code_hash(config: str) -> str:
    """Return a hash of the code behind a configuration: what it names, what that imports, training.

    Comments, docstrings, layout and another name of the package do not change it, nor does a file
    that the configuration does not use. Two runs of the same configuration and hash are the same
    recipe. Code elsewhere is not in it. The same on every system and version of Python.

    Args:
        config: YAML in which classes stand with their import paths.
    """
    package = Path(__file__).parent
    waiting = {*(package / "training").glob("*.py")}
    for name in re.findall(rf"(?<![\w.]){package.name}\.[\w.]+", config):
        waiting |= files_of(name)
    texts: dict[str, str] = {}  # by path below the package
    while waiting:
        path = waiting.pop()
        name = path.relative_to(package).as_posix()
        if name in texts or name.split("/")[0] not in CODE_OF_A_RUN:
            continue
        tree = without_texts(ast.parse(path.read_bytes()))
        for dotted in imported(tree, [package.name, *name.split("/")[:-1]]):
            waiting |= files_of(dotted)
        texts[name] = re.sub(rf"(?<![\w.]){package.name}\.", "", written(tree))
    return hashlib.sha256(str(sorted(texts.items())).encode()).hexdigest()


def files_of(dotted: str) -> set[Path]:
    """Return the files of this package that Python reads for a module, or for what is in one.

    Without those that are empty, as most `__init__.py` are.
    """
    package = Path(__file__).parent
    first, *parts = dotted.split(".")
    places = [package.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    paths = {path for place in places for path in (place.with_suffix(".py"), place / "__init__.py")}
    if first != package.name:
        return set()
    return {path for path in paths if path.is_file() and path.stat().st_size}


def imported(tree: ast.AST, folder: list[str]) -> Iterator[str]:
    """Yield the dotted names that a file imports.

    Args:
        folder: Names of the packages that the file lies in, which `from .` counts from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            inside = folder[: len(folder) + 1 - node.level] if node.level else []
            module = ".".join([*inside, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def without_texts(tree: ast.Module) -> ast.Module:
    """Take the docstrings out of a tree of code, and return it."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and is_text(body[0]):
            del body[0]
    return tree


def written(node: Any) -> str:
    """Return a tree of code as text. (`ast.dump` writes other text in each version of Python.)"""
    if isinstance(node, list):
        return f"[{', '.join(map(written, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.JoinedStr):  # 3.12.1 has an empty text at the end of a format
        node.values = [part for part in node.values if getattr(part, "value", None) != ""]
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
    inside = ", ".join(f"{name}={written(value)}" for name, value in fields)
    return f"{type(node).__name__}({inside})"


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def git(*arguments: str, **variables: str) -> str | None:
    """Return what git prints for the repository of this file, or None where there is none."""
    answer = git_bytes(*arguments, **variables)
    return None if answer is None else answer.decode(errors="replace").rstrip("\n")


def git_bytes(*arguments: str, **variables: str) -> bytes | None:
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            env={**os.environ, **variables},
            capture_output=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout


def code_patch() -> bytes | None:
    """Return what `git apply` needs to get from the commit to the code that runs; None without git.

    New files count too. The index and the objects go to a temporary folder, so the user's
    repository is not touched.
    """
    objects = git("rev-parse", "--path-format=absolute", "--git-path", "objects")
    top = git("rev-parse", "--show-toplevel")
    if not objects or not top:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        variables = {
            "GIT_INDEX_FILE": str(Path(scratch, "index")),
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        git("read-tree", "HEAD", **variables)
        git("-C", top, "add", "--all", **variables)
        patch = git_bytes("-C", top, "diff", "--cached", "--binary", "HEAD", **variables)
    if patch is None:
        return b"# not recorded: git did not answer within 30 s\n"
    if len(patch) > MAX_PATCH_BYTES:
        return f"# not recorded: the change has {len(patch):,} bytes\n".encode()
    return patch


def write_patch(directory: Path, name: str = "code.patch") -> None:
    """Write `code_patch`, where there is a change."""
    if patch := code_patch():
        (directory / name).write_bytes(patch)
