"""Can a trained model be explained, trusted and afforded? A report from its checkpoint alone."""

import argparse
import sys
from pathlib import Path

from project.command_line import add_run, check_changes, command_form, exit_code_of
from project.messages import UsageError
from project.reporting.findings import SECTIONS

DESCRIPTION = """\
Ask of a trained model what comes after its accuracy: how it fails, whether
its data are sound, what fools it, what explains it, what it cost. Everything
comes from the checkpoint; the figures carry n, seed and a 95 % interval, and
what was not run is named. Written into RUN/report: index.html, report.md,
results.json, figures, a model card (README.md), a data card with
croissant.json, energy.json and evidence.md.

examples:
  python -m project.report runs/<run>
  python -m project.report runs/<run> --sections robustness calibration
  python -m project.report runs/<run> --n 10000 --seed 1 --device cuda
  python -m project.report best.ckpt --output report --data.root DIR

sections:
  identity data performance calibration robustness out_of_distribution
  interpretability energy limits
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, 1 when a section failed, or 2 for what is not possible."""
    options, changes = parser().parse_known_args(arguments)
    typed = sys.argv[1:] if arguments is None else arguments
    return exit_code_of(lambda: run(options, changes, typed))


def parser() -> argparse.ArgumentParser:
    form = command_form("report", DESCRIPTION)
    add_run(form)
    form.add_argument(
        "--sections", nargs="+", metavar="NAME", choices=SECTIONS, help="these alone; see below"
    )
    form.add_argument("--n", type=int, default=1000, help="examples for attacks and the like; 1000")
    form.add_argument("--seed", type=int, default=0, help="of all that is drawn; 0 by default")
    form.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")
    form.add_argument("--output", type=Path, help="folder; RUN/report by default")
    return form


def run(options: argparse.Namespace, changes: list[str], typed: list[str]) -> int:
    """Measure, write the report, and print its first screen.

    Raises:
        UsageError: If an option is out of range, or something is changed that is not of the data.
    """
    check_changes(changes)
    if options.n < 2:
        raise UsageError(f"--n {options.n} must be at least 2: one example has no interval")
    from project.reporting.writing import make_report

    return make_report(options, changes, typed)


if __name__ == "__main__":
    sys.exit(main())
