"""Test a trained run again: with the data inside its checkpoint, or with others."""

import argparse
import sys
from pathlib import Path
from typing import Any

from project.command_line import add_run, check_changes, command_form, exit_code_of

DESCRIPTION = """\
Rebuild task, network and data from what is inside a checkpoint, measure it on
a split, print a table with 95 % intervals, and add it to evaluation.json in
the run. Data that lie elsewhere on this machine are found by DATA_DIR or
--data.root; any --data.KEY VALUE changes the data.

examples:
  python -m project.evaluate runs/<run>
  python -m project.evaluate runs/<run> --split val
  python -m project.evaluate runs/<run> --data.dataset QMNIST --data.root DIR
  python -m project.evaluate best.ckpt --split train --data.corpus TextCorpus \\
    --data.corpus.path other.txt --data.val_fraction 0 --data.test_fraction 0
"""
MOST_CLASSES = 20  # that are listed one by one


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 2 when what was asked for is not possible."""
    options, changes = parser().parse_known_args(arguments)
    typed = sys.argv[1:] if arguments is None else arguments
    return exit_code_of(lambda: run(options, changes, typed))


def parser() -> argparse.ArgumentParser:
    form = command_form("evaluate", DESCRIPTION)
    add_run(form)
    form.add_argument(
        "--split", choices=("test", "val", "train"), help="test by default, val if there is none"
    )
    form.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")
    form.add_argument("--precision", help="that of the training by default")
    form.add_argument("--output", type=Path, help="evaluation.json in the run by default")
    return form


def run(options: argparse.Namespace, changes: list[str], typed: list[str]) -> None:
    """Evaluate, print the table and keep it.

    Raises:
        UsageError: If something is changed that is not of the data.
    """
    from project.command_line import quieten_lightning
    from project.inference.evaluation import earlier, evaluate, keep, place_of
    from project.provenance import typed_command

    check_changes(changes)
    quieten_lightning()
    path = place_of(options.run, options.output)
    if path is not None:
        earlier(path)  # so that nothing is measured that could not be kept
    found = evaluate(
        options.run,
        options.split,
        changes,
        options.device,
        options.precision,
        options.allow,
    )
    found = {"command": typed_command("evaluate", typed), **found}
    print(table(found))
    keep(path, options.run, found)
    print(f"kept in {path}" if path else "not kept: --output FILE says where to")


def table(found: dict[str, Any]) -> str:
    """Return the figures, and those of each class where there are few, at most 80 columns."""
    from project.training.closing_table import metric_rows, table_of

    split = found["split"]
    metrics = found["metrics"][split]
    title = f"{Path(found['checkpoint']).name} of step {found['step']:,} on the {split} split"
    lines = [table_of(title, [*metric_rows(split, metrics), ("data", data_in_words(found))])]
    lines += [f"note: {note}" for note in found["notes"]]
    confusion = metrics.get("confusion", [])
    if 0 < len(confusion) <= MOST_CLASSES:
        lines += ["", *class_lines(confusion, found["data"].get("classes"))]
    return "\n".join(lines)


def data_in_words(found: dict[str, Any]) -> str:
    data = found["data"]
    name = data.get("dataset") or data.get("corpus") or "its own data module"
    words = {True: ", as in training", False: ", not those of the training", None: ""}
    return name + words[found["is_training_data"]]


def class_lines(confusion: list[list[int]], names: list[str] | None) -> list[str]:
    """Return a line for each class: recall with its interval, and what it is taken for."""
    from project.intervals import wilson_interval

    names = (
        names if names and len(names) == len(confusion) else list(map(str, range(len(confusion))))
    )
    width = max(len("class"), *map(len, names))
    lines = [f"{'class':<{width}}  {'right':>13}  {'%':>7}  95 % interval     mostly taken for"]
    for label, row in enumerate(confusion):
        count, right = sum(row), row[label]
        if count == 0:
            lines.append(f"{names[label]:<{width}}  {'no images':>13}")
            continue
        low, high = wilson_interval(right, count)
        wrong = max((n, other) for other, n in enumerate(row) if other != label)
        mistaken = f"{names[wrong[1]]} ({wrong[0]})" if wrong[0] else ""
        lines.append(
            f"{names[label]:<{width}}  {right:>6} of {count:<4}  {100 * right / count:7.2f}  "
            f"{100 * low:6.2f} to {100 * high:6.2f}  {mistaken}".rstrip()
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
