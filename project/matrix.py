"""Every architecture on images and on language, in one table."""

import argparse
import sys
from typing import Any

from project.command_line import command_form, exit_code_of
from project.messages import UsageError

DESCRIPTION = """\
Train four architectures on images and on language, and print what they
measured in one table. Runs that are finished already, with the same
configuration and code, are not trained again. Without --full on embedded data,
at small comparable budgets: about three minutes a seed on two CPU cores. With
--full on MNIST and TinyShakespeare by the configs of the README: about half an
hour a seed. Other keys, as of project.train, hold for every cell.

examples:
  python -m project.matrix
  python -m project.matrix --seeds 0..2
  python -m project.matrix --full --seeds 0..2 --data.root DIR
  python -m project.matrix --full --show
"""
DOCS = "--config docs_transformer.yaml --trainer.max_steps 300"
EMBEDDED = {  # experiment: (architecture, what is typed)
    "digits_mlp": ("MLP", "--trainer.max_epochs 40 --model.network MLP"),
    "digits_cnn": ("CNN", "--trainer.max_epochs 40"),
    "digits_rnn": ("RNN", "--trainer.max_epochs 40 --model.network RNN"),
    "digits_vit": ("Transformer", "--trainer.max_epochs 40 --model.network ViT"),
    "docs_mlp": (
        "MLP",
        f"{DOCS} --model.network MLPLanguageModel --model.network.width 480 "
        "--model.network.depth 2",
    ),
    "docs_cnn": ("CNN", f"{DOCS} --model.network CausalCNN --model.network.depth 7"),
    "docs_rnn": (
        "RNN",
        f"{DOCS} --model.network RNNLanguageModel --model.network.width 220 "
        "--model.network.depth 2 --data.streams true",
    ),
    "docs_gpt": ("Transformer", DOCS),
}
FULL = {
    "mnist_mlp": ("MLP", "--config mnist_mlp.yaml"),
    "mnist_cnn": ("CNN", "--config mnist_cnn.yaml"),
    "mnist_rnn": ("RNN", "--config mnist_rnn.yaml"),
    "mnist_transformer": ("Transformer", "--config mnist_transformer.yaml"),
    "shakespeare_mlp": ("MLP", "--config shakespeare_mlp.yaml"),
    "shakespeare_cnn": ("CNN", "--config shakespeare_cnn.yaml"),
    "shakespeare_lstm": ("RNN", "--config shakespeare_lstm.yaml"),
    "shakespeare_transformer": ("Transformer", "--config shakespeare_transformer.yaml"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or the exit code of a training that failed."""
    form = command_form("matrix", DESCRIPTION)
    form.add_argument("--full", action="store_true", help="MNIST and TinyShakespeare")
    form.add_argument("--seeds", default="0", help="such as 0..4 or 0,3; 0 by default")
    form.add_argument("--show", action="store_true", help="train nothing: print what is there")
    form.add_argument("--runs_dir", default="runs", help="runs by default")
    options, keys = form.parse_known_args(arguments)
    return exit_code_of(lambda: matrix(options, keys))


def matrix(options: argparse.Namespace, keys: list[str]) -> int:
    """Train what is missing, and print the table; return the exit code of the training.

    Raises:
        UsageError: If a key is not one of every experiment, or the seeds are none.
    """
    from project.command_line import quieten_lightning
    from project.training.command import build
    from project.training.repetitions import finished, numbers, train_each

    quieten_lightning()
    try:
        seeds = numbers(options.seeds)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--seeds: {error}") from error
    cells = FULL if options.full else EMBEDDED
    keys = [*keys, "--runs_dir", options.runs_dir]
    built = {name: build([*typed(name, text), *keys]) for name, (_, text) in cells.items()}
    head = ("", "data", "parameters", "runs", "result", "95 % interval", "training")
    rows: list[tuple[str, ...]] = [head]
    for name, (architecture, text) in cells.items():
        if options.show:
            runs = finished(built[name])
        else:
            print(f"=== {name}", flush=True)
            code, runs = train_each(built[name], [*typed(name, text), *keys], seeds, [])
            if code:
                return code
        rows.append((architecture, *cell(name, runs)))
    print("\n" + table(rows))
    return 0


def typed(name: str, text: str) -> list[str]:
    """Return the arguments of an experiment as `project.train` takes them."""
    from project.configuration import CONFIGS

    words = [str(CONFIGS / word) if word.endswith(".yaml") else word for word in text.split()]
    return [*words, "--experiment", name]


def cell(name: str, runs: list[Any]) -> tuple[str, str, str, str, str, str]:
    """Return data, parameters, runs, result, interval and training time of one cell."""
    from project.comparison.cells import cells
    from project.comparison.leaderboard import board_of
    from project.comparison.runs import Group, name_of_data

    if not runs:
        return name, "", "0", "", "", ""
    board = board_of(name_of_data(runs[-1].record["data"]), [Group(runs)])
    row = cells(board, 0)
    result = row["test" if board.split == "test" else "validation"]
    unit = {"accuracy": " %", "loss": " nats"}.get(board.metric, "")
    return (
        board.data,
        row["parameters"],
        row["runs"],
        f"{board.split} {board.metric} {result}{unit}",
        row["95 % interval"],
        row["training"],
    )


def table(rows: list[tuple[str, ...]]) -> str:
    from project.comparison.cells import SPREAD
    from project.comparison.terminal import aligned

    lines = aligned(rows, right=[2, 3, 6])
    if any(row[3] == "0" for row in rows):
        lines.append("Not run yet: the same command without --show.")
    return "\n".join([*lines, "", SPREAD])


if __name__ == "__main__":
    sys.exit(main())
