"""A leaderboard of runs: mean and deviation over seeds, how sure it is, and what it cost."""

import argparse
import sys
from pathlib import Path

from project.command_line import command_form, exit_code_of
from project.messages import UsageError

DESCRIPTION = """\
Put runs together that differ only in seed or fold, and rank them on each data
set by validation, with the test result, its 95 % interval, parameters, time,
code and command; say whether the first is better than the others by a paired
test, and what differs between their configurations.

examples:
  python -m project.compare
  python -m project.compare runs/<one run> runs/<another run>
  python -m project.compare --write runs/comparison.html runs/comparison.md
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 2 when what was asked for is not possible."""
    form = command_form("compare", DESCRIPTION)
    form.add_argument(
        "runs",
        metavar="RUN",
        type=Path,
        nargs="*",
        default=[Path("runs")],
        help="run directories, or folders of them; `runs` by default",
    )
    form.add_argument(
        "--write",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="also write .html (with learning curves), .md or .csv",
    )
    options = form.parse_args(arguments)
    return exit_code_of(lambda: compare(options))


def compare(options: argparse.Namespace) -> None:
    """Print the boards, and write them.

    Raises:
        UsageError: If there is no finished run, or a file is of no known kind.
    """
    from project.comparison.cells import left_out_in_words
    from project.comparison.files import csv_of, markdown_of
    from project.comparison.leaderboard import leaderboards
    from project.comparison.page import page_of
    from project.comparison.runs import collect
    from project.comparison.terminal import text_of

    kinds = (".html", ".md", ".csv")
    if wrong := [path for path in options.write if path.suffix not in kinds]:
        raise UsageError(f"--write {wrong[0]}: the name must end in {', '.join(kinds)}")
    found = collect(options.runs)
    if not found.groups:
        places = ", ".join(map(str, options.runs))
        words = left_out_in_words(found.left_out) or "python -m project.train makes one"
        raise UsageError(f"no finished run in {places}. {words}")
    boards = leaderboards(found.groups)
    print(text_of(boards, found.left_out))
    for path in options.write:
        writers = {
            ".html": lambda: page_of(boards, found.left_out),
            ".md": lambda: markdown_of(boards, found.left_out),
            ".csv": lambda: csv_of(boards),
        }
        path.write_text(writers[path.suffix](), encoding="utf-8")
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
