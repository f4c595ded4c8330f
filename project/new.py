"""Begin a network, a data set or a task of your own: three files that work, to be changed."""

import keyword
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from project.command_line import command_form, exit_code_of
from project.messages import UsageError

DESCRIPTION = """\
Write a small worked example in project/, an experiment with it in configs/ and
a test of it in tests/. All three work as they are: change them step by step. No
other file is edited, since a class is found by its name.

  model           a network for images             project/models/NAME.py
  language_model  a network for text               project/models/NAME.py
  data            a set of images                  project/data/NAME.py
  corpus          a text                           project/data/NAME.py
  task            loss and metrics, of any kind    project/tasks/NAME.py

examples:
  python -m project.new model my_net
  python -m project.new data my_pictures
  python -m project.new task my_task
"""
FOLDERS = {
    "model": "models",
    "language_model": "models",
    "data": "data",
    "corpus": "data",
    "task": "tasks",
}
LONGEST_NAME = 30
STARTING_POINTS = Path(__file__).parent / "starting_points"
CLONE = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 2 when what was asked for is not possible."""
    form = command_form("new", DESCRIPTION)
    form.add_argument("kind", metavar="KIND", choices=FOLDERS, help=", ".join(FOLDERS))
    form.add_argument("name", metavar="NAME", help="of the files: my_net makes the class MyNet")
    options = form.parse_args(arguments)
    return exit_code_of(lambda: begin(options.kind, options.name))


def begin(kind: str, name: str) -> None:
    """Write the three files, and print what they are and how to go on.

    Raises:
        UsageError: If the name is none for a file and a class, or is taken.
    """
    check_name(name)
    class_name = class_name_of(name)
    files = contents(kind, name)
    check_free(name, class_name, list(files))
    write_all(files)
    put_in_order([path for path in files if path.suffix == ".py"])
    module, config, test = (path.relative_to(CLONE).as_posix() for path in files)
    print(f"{module}  {class_name}: a small worked example, to be changed")
    print(f"{config}  an experiment with it")
    print(f"{test}  what should hold of it\n")
    print(f"python -m project.train --config {config}")
    tests = f"tests/{FOLDERS[kind]} tests/test_configs.py"
    print(f"python -m pytest {tests} -k '{name} or {class_name}'")


def class_name_of(name: str) -> str:
    """Return `MyNet` for `my_net`."""
    return "".join(word.capitalize() for word in name.split("_"))


def check_name(name: str) -> None:
    """Refuse what is no name for a file of Python and the class in it.

    Raises:
        UsageError: With the reason, and a name that would do where there is one.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+|_+", "_", name).lower().strip("_0123456789")
        such_as = words if words.isascii() and words.isidentifier() else "my_net"
        raise UsageError(
            f"name {name!r} must be small letters, digits and single _, such as {such_as}"
        )
    if len(name) > LONGEST_NAME:
        raise UsageError(f"name {name!r} has {len(name)} letters, of at most {LONGEST_NAME}")
    if keyword.iskeyword(name) or keyword.iskeyword(class_name_of(name)):  # none makes None
        raise UsageError(f"name {name!r} is a word of Python itself; choose another, my_{name} say")
    if name in sys.stdlib_module_names or find_spec(name) is not None:
        raise UsageError(
            f"name {name!r} is that of an installed module, which a file of this name would hide "
            f"from what is run beside it; choose another, my_{name} say"
        )


def contents(kind: str, name: str) -> dict[Path, str]:
    """Return {path: text} of the module, the config and the test, from their starting points."""
    example, folder = f"my_{kind}", FOLDERS[kind]
    sources = {
        CLONE / "project" / folder / f"{name}.py": f"{example}.py",
        CLONE / "configs" / f"{name}.yaml": f"{example}.yaml",
        CLONE / "tests" / folder / f"test_{name}.py": f"test_{example}.py",
    }
    renamed = {
        "project.starting_points": f"project.{folder}",
        class_name_of(example): class_name_of(name),
        example: name,
    }
    files = {}
    for path, source in sources.items():
        text = (STARTING_POINTS / source).read_text(encoding="utf-8")
        for before, after in renamed.items():
            text = text.replace(before, after)
        files[path] = text
    return files


def check_free(name: str, class_name: str, paths: list[Path]) -> None:
    """Refuse a name whose files or class are there.

    Raises:
        UsageError: With what is there.
    """
    # Tests of one file name in two folders: pytest would take one for the other.
    for path in [*paths, *(CLONE / "tests").rglob(f"test_{name}.py")]:
        if path.exists():
            raise UsageError(f"{path.relative_to(CLONE)} is there already; choose another name")
    from project.configuration import known_classes  # imports torch: not needed for the help

    for known, place in known_classes().items():
        if known.lower() == class_name.lower():
            raise UsageError(f"there is a class {known} already ({place}); choose another name")


def write_all(files: dict[Path, str]) -> None:
    """Write files that are not there, all or none."""
    written: list[Path] = []
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except BaseException:
        for path in written:
            path.unlink()
        raise


def put_in_order(paths: list[Path]) -> None:
    """Sort imports and break lines anew, for the name that is in them now, where ruff is there."""
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--select", "I", "--fix"], ["format"]):
        subprocess.run([*ruff, *command, *map(str, paths)], capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
