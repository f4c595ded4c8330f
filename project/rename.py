"""Give this package another name: its folder, and every mention of it in the files of git."""

import argparse
import importlib.util
import keyword
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

from project.command_line import command_form, exit_code_of
from project.messages import RunError, UsageError, warn

PACKAGE = Path(__file__).parent
REPOSITORY = PACKAGE.parent
PROSE_AND_CODE = (".py", ".ipynb", ".md", ".txt", ".rst")  # the others set `name: value`
LINTED = (".py", ".ipynb")
BY_HAND = ("README.md", "pyproject.toml", "CITATION.cff", "LICENSE")

DESCRIPTION = """\
Make the template yours: give the package another name, in its folder, imports,
commands, paths, configurations, documents and notebooks. Where the same word
means another thing, it stays. Runs from before are still read and resumed.

examples:
  python -m project.rename my_research --dry_run
  python -m project.rename my_research
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, 2 when the name cannot be used, 1 when a file cannot be written.

    Unless it returns 0, nothing is changed.
    """
    form = command_form("rename", DESCRIPTION)
    form.add_argument("name", metavar="NAME", help="of the package, such as my_research")
    form.add_argument("--dry_run", action="store_true", help="show each line, change nothing")
    form.add_argument("--force", action="store_true", help="although changes are not committed")
    options = form.parse_args(arguments)
    return exit_code_of(lambda: rename(options))


def rename(options: argparse.Namespace) -> None:
    """Change everything or nothing, and say what was changed.

    Raises:
        UsageError: If the name cannot be used, or git could not bring the files back.
        RunError: If a file cannot be written.
    """
    paths = files_of_git()
    check_name(options.name)
    is_clean = not git("status", "--porcelain", "--", ".")
    if not (is_clean or options.force or options.dry_run):
        raise UsageError(
            "there are changes that are not committed, and git is the way back: `git add --all && "
            "git commit` first, or --force"
        )
    texts = changed_texts(paths, options.name)
    if options.dry_run:
        show_lines(texts)
    else:
        write(texts, options.name)
        tidy([moved(path, options.name) for path in texts if path.suffix in LINTED])
    show_summary(texts, options.name)
    if not options.dry_run:
        show_next(options.name, is_clean)


def git(*arguments: str) -> str:
    """Return what git prints for the repository of this package.

    Raises:
        UsageError: If there is none.
    """
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(
            f"{str(REPOSITORY)!r} is no git repository, and git is the way back: "
            "`git init && git add --all && git commit -m template` first"
        ) from error
    return os.fsdecode(answer.stdout)


def files_of_git() -> list[Path]:
    """Return the files that git tracks, and new ones that it does not ignore."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    paths = [REPOSITORY / name for name in sorted({*names} - {""})]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def check_name(name: str) -> None:
    """Refuse a name that Python, git or this repository would not take.

    Raises:
        UsageError: With the reason.
    """
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} is no name that Python can import: take letters, digits and _, such as "
            "my_research"
        )
    if name == PACKAGE.name:
        raise UsageError(f"the package is called {name!r} already")
    if (REPOSITORY / name).exists():
        raise UsageError(f"{name!r} is there already, in {str(REPOSITORY)!r}")
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise UsageError(f"{name!r} is a module of Python or an installed package; take another")
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", f"{name}/__init__.py"], cwd=REPOSITORY
    )
    if ignored.returncode == 0:
        raise UsageError(f"git ignores a folder {name!r} (.gitignore); take another name")


def changed_texts(paths: list[Path], name: str) -> dict[Path, tuple[str, str]]:
    """Return {file: (its text, its text with the new name)} of the files that name the package."""
    texts = {}
    prose, settings = mentions(), mentions(has_values=True)
    for path in paths:
        try:
            old = path.read_bytes().decode()
        except UnicodeDecodeError:  # a picture
            continue
        pattern = prose if path.suffix in PROSE_AND_CODE else settings
        new = pattern.sub(lambda found: found[0].replace(PACKAGE.name, name), old)
        new = with_former_name(new, name)
        if new != old:
            texts[path] = (old, new)
    return texts


def mentions(has_values: bool = False) -> re.Pattern[str]:
    """Return what matches the name where it means the package, and not where it is a word.

    Args:
        has_values: Also as a whole value: `name = "project"`, `--job-name=project`.
    """
    old = re.escape(PACKAGE.name)
    names = [path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()]
    part = rf"(?:{'|'.join(sorted(names))})\b"
    folders = {"tests", *(path.name for path in REPOSITORY.iterdir() if path.is_dir())} - {old}
    beside = rf"(?:{'|'.join(map(re.escape, sorted(folders)))})\b"
    quote = r"\\?[\"']"  # in a notebook with a backslash
    forms = [
        rf"(?<![\w.-]){old}(?=\.(?:{part}|__\w+__|[{{<]))",  # project.train, f"project.{name}"
        rf"(?<=[\"']){old}(?=\.[\"'*])",  # "project.", "project.*"
        rf"(?<![\w.-]){old}(?=/(?:{part}|\w+\.py\b|[{{<*\s`\"'),\\]|$))",  # project/data
        rf"(?<![\w.-]){old}(?=\\\.)",  # r"project\.\w+"
        rf"\bfrom {old}(?= import\b)",
        rf"\bimport {old}(?=\s*(?:$|as\b|[;\"'`\\]))",
        rf"/ {quote}{old}(?={quote})|(?<=[\"']){old}(?={quote} /)",  # ROOT / "project" / "data"
        rf"(?<![\w.-]){old}(?={quote}, {quote}{beside}|\|{beside})",  # ("project", "tests")
        rf"\b(?:package|folder) `{old}(?=`)",
    ]
    if has_values:
        opening = r"(?:[=:,]|(?<![\w\])])\[)\s*"  # of a value or a list, and not of a subscript
        forms += [rf"[=:]\s*{old}(?=\s*$)", rf"{opening}[\"']{old}(?=\*?[\"'](?!\s*[:=]))"]
    return re.compile("|".join(forms), re.MULTILINE)


def with_former_name(text: str, name: str) -> str:
    """Return the text of `checkpoints/former_names.py` with the name of today added."""

    def add(found: re.Match[str]) -> str:
        names = [*found[2].split(), PACKAGE.name]
        return f'{found[1]}"{" ".join(former for former in names if former != name)}"'

    return re.sub(r'^(FORMER_NAMES = \(?\s*)"(.*)"', add, text, flags=re.MULTILINE)


def moved(path: Path, name: str) -> Path:
    """Return where a file lies after the package's folder has been renamed."""
    if PACKAGE in path.parents:
        return REPOSITORY / name / path.relative_to(PACKAGE)
    return path


def write(texts: dict[Path, tuple[str, str]], name: str) -> None:
    """Rename the folder and write the files; put back what was done if one cannot be written."""
    PACKAGE.rename(REPOSITORY / name)
    begun = []
    try:
        for path, (_, new) in texts.items():
            begun.append(path)
            moved(path, name).write_bytes(new.encode())
    except BaseException as error:
        for path in begun:
            with suppress(OSError):
                moved(path, name).write_bytes(texts[path][0].encode())
        (REPOSITORY / name).rename(PACKAGE)
        if isinstance(error, OSError):
            raise RunError(
                f"{str(begun[-1])!r} cannot be written: {error.strerror}; all is as it was"
            ) from error
        raise


def tidy(paths: list[Path]) -> None:
    """Let ruff break lines anew, since the name has another length, as `make lint` asks.

    Texts and comments stay whole: one that is too long now is marked `noqa: E501`.
    """
    for words in (
        ["check", "--fix", "--fixable=I,RUF100", "--exit-zero"],
        ["format"],
        ["check", "--select=E501", "--add-noqa"],
    ):
        command = [sys.executable, "-m", "ruff", *words, "--quiet", *map(str, paths)]
        if subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode:
            warn("ruff is not here, or has stopped: `ruff format .` would break lines anew")
            return


def changed_lines(old: str, new: str) -> list[tuple[int, str]]:
    """Return (number, new text) of the lines that differ; their count does not."""
    pairs = zip(old.splitlines(), new.splitlines(), strict=True)
    return [(n, after) for n, (before, after) in enumerate(pairs, 1) if before != after]


def show_lines(texts: dict[Path, tuple[str, str]]) -> None:
    for path, (old, new) in texts.items():
        for number, line in changed_lines(old, new):
            print(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}")


def show_summary(texts: dict[Path, tuple[str, str]], name: str) -> None:
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path, (old, new) in texts.items():
        place = moved(path, name).relative_to(REPOSITORY).parts[0]
        files[place] += 1
        lines[place] += len(changed_lines(old, new))
    print(f"{PACKAGE.name} -> {name}: {lines.total():,} lines in {files.total()} files")
    for place in sorted(files):
        print(f"  {place:<16} {lines[place]:>5,} lines in {files[place]:>3} files")


def show_next(name: str, is_clean: bool) -> None:
    by_hand = ", ".join(file for file in BY_HAND if (REPOSITORY / file).is_file())
    print(f"\nnext:\n  make test    installs {name} and tests it (without make: pip install -e .)")
    print(f'  git add --all && git commit --message "The package is {name}"')
    print(f"by hand, title, author, description and address: {by_hand}")
    if is_clean:
        print(f"back, before that commit:\n  git reset --hard && git clean -d --force {name}")


if __name__ == "__main__":
    sys.exit(main())
