"""Search for the best values of an experiment's keys: trials by Optuna, chosen by validation."""

import argparse
import sys
from pathlib import Path

from project.command_line import command_form, exit_code_of

DESCRIPTION = """\
Train an experiment again and again, each time with other values of the keys
that a sweep file names, and keep the values that validate best. Trials that do
worse than others are pruned; the test split is never looked at. The file says
what is searched: see configs/sweep/mnist_cnn.yaml. Any other key of
project.train holds for every trial.

examples:
  python -m project.sweep --config configs/sweep/digits_cnn.yaml
  python -m project.sweep --config configs/sweep/mnist_cnn.yaml --data.root DIR
  python -m project.sweep --config configs/sweep/mnist_cnn.yaml --trials 60
  CUDA_VISIBLE_DEVICES=0,1 python -m project.sweep --processes 2 \\
    --config configs/sweep/mnist_cnn.yaml

The same command again goes on after a stop or a kill: trials that have ended
are kept, one that was under way goes on where it was. All of it is in
<runs_dir>/sweeps/<name of the sweep file>/: best.yaml for project.train,
history.png, importance.png, and the runs and logs of the trials.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code.

    0 when the trials have ended, 1 when too many failed in a row, 2 for what is not possible, 130
    after Ctrl-C and 143 after SIGTERM or SIGUSR1.
    """
    options, keys = parser().parse_known_args(arguments)

    def search() -> int:
        from project.sweeping.supervisor import sweep  # imports torch: not needed for the help

        return sweep(options, keys)

    return exit_code_of(search)


def parser() -> argparse.ArgumentParser:
    form = command_form("sweep", DESCRIPTION)
    form.usage = "%(prog)s --config FILE [options] [--KEY VALUE]..."
    form.add_argument("--config", metavar="FILE", type=Path, required=True, help="the sweep file")
    form.add_argument("--trials", metavar="N", type=positive, help="instead of the file's number")
    form.add_argument(
        "--processes",
        metavar="N",
        type=positive,
        default=1,
        help="trials at a time, each on a GPU of its own, or on its share of the CPU's cores",
    )
    form.add_argument("--runs_dir", metavar="DIR", type=Path, default=Path("runs"))
    return form


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
