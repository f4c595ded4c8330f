"""Every architecture on images and on language, in one table."""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Print what the finished runs of eight experiments measured: four architectures, each on
MNIST and on TinyShakespeare. With --train, run what is missing first: on two CPU cores
about half an hour for each seed. A cell counts the runs whose configuration is that
of its file now; other keys, as of project.train, change it for every cell.

examples:
  python -m project.matrix
  python -m project.matrix --train --seeds 0 1 2 --data.root DIR
  python -m project.matrix --train --trainer.max_steps 100
"""
CELLS = {  # experiment: architecture
    "mnist_mlp": "MLP",
    "mnist_cnn": "CNN",
    "mnist_rnn": "RNN",
    "mnist_transformer": "Transformer",
    "shakespeare_mlp": "MLP",
    "shakespeare_cnn": "CNN",
    "shakespeare_lstm": "RNN",
    "shakespeare_transformer": "Transformer",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or the exit code of a training that failed."""
    options, keys = parser().parse_known_args(arguments)
    from project.messages import UsageError

    try:
        settings = {experiment: current_setting(experiment, keys) for experiment in CELLS}
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.train:
        for experiment, setting in settings.items():
            for seed in missing_seeds(experiment, setting, options):
                if code := train(experiment, seed, options.runs_dir, keys):
                    print(f"error: {experiment} stopped; what is done is kept", file=sys.stderr)
                    return code
    print(table(options.runs_dir, settings))
    return 0


def parser() -> argparse.ArgumentParser:
    form = argparse.ArgumentParser(
        prog="python -m project.matrix",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    form.add_argument("--train", action="store_true", help="run what is missing first")
    form.add_argument("--seeds", type=int, nargs="+", default=[0], help="to train; 0 by default")
    form.add_argument("--runs_dir", type=Path, default=Path("runs"), help="runs by default")
    return form


def current_setting(experiment: str, keys: list[str]) -> str:
    """Return what the experiment's file and the keys compute, to compare with runs.

    Raises:
        UsageError: If a key is not one of the experiment's.
    """
    from project.configuration import CONFIGS, ProjectCLI
    from project.training.command import quieten_lightning
    from project.training.runs import setting_of

    quieten_lightning()
    cli = ProjectCLI(["--config", str(CONFIGS / f"{experiment}.yaml"), *keys])
    return setting_of(cli.parser.dump(cli.config, skip_unset=False))


def missing_seeds(experiment: str, setting: str, options: argparse.Namespace) -> list[int]:
    from project.training.runs import finished_runs, repetitions

    used = repetitions(finished_runs(options.runs_dir, experiment), setting)
    done = {run.record["seed"] for run in used}
    return [seed for seed in options.seeds if seed not in done]


def train(experiment: str, seed: int, runs_dir: Path, keys: list[str]) -> int:
    """Run an experiment in a process of its own; return its exit code."""
    from project.configuration import CONFIGS

    arguments = ["--config", str(CONFIGS / f"{experiment}.yaml"), "--seed_everything", str(seed)]
    command = [sys.executable, "-m", "project.train", *arguments, "--runs_dir", str(runs_dir)]
    print(f"--- {experiment}, seed {seed}", flush=True)
    return subprocess.run([*command, *keys]).returncode


def table(runs_dir: Path, settings: dict[str, str]) -> str:
    """Return a line for each cell, and how to fill those that are empty."""
    from project.training.runs import finished_runs, repetitions

    rows = [("", "data", "parameters", "seeds", "result", "training")]
    others = 0
    for experiment, architecture in CELLS.items():
        runs = finished_runs(runs_dir, experiment)
        used = repetitions(runs, settings[experiment])
        others += len(runs) - len(used)
        rows.append((architecture, *cell([run.record for run in used], experiment)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines.append("")
    lines.append("± is the standard deviation over seeds; [ ] the 95 % interval of a single run.")
    if any(row[3] == "0" for row in rows):
        lines.append("Not run yet: python -m project.matrix --train")
    if others:
        lines.append(f"{others} runs of other configurations or repeated seeds are left out.")
    return "\n".join(lines)


def cell(records: list[dict[str, Any]], experiment: str) -> tuple[str, str, str, str, str]:
    """Return data set, parameters, seeds, result and training time of one cell."""
    if not records:
        return experiment, "", "0", "", ""
    newest = records[-1]
    data = newest["data"].get("dataset") or newest["data"]["corpus"]
    seconds = statistics.mean(record["training_seconds"] for record in records)
    return (
        data,
        f"{newest['parameters']:,}",
        str(len(records)),
        result(records),
        f"{seconds:,.0f} s",
    )


def result(records: list[dict[str, Any]]) -> str:
    """Return accuracy, or loss and bits per byte, of the test split where there is one."""
    split = "test" if "test" in records[0]["metrics"] else "val"
    metrics = [record["metrics"][split] for record in records]
    if "accuracy" in metrics[0]:
        share = mean_and_spread([m["accuracy"] for m in metrics], scale=100, digits=2)
        return f"{split} accuracy {share} %"
    loss = mean_and_spread([m["loss"] for m in metrics], scale=1, digits=4)
    bits = statistics.mean(m["bits_per_byte"] for m in metrics)
    return f"{split} loss {loss} nats, {bits:.3f} bits/byte"


def mean_and_spread(figures: list[dict[str, Any]], scale: float, digits: int) -> str:
    values = [scale * figure["value"] for figure in figures]
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        return f"{mean} ± {statistics.stdev(values):.{digits}f}"
    low, high = (f"{scale * end:.{digits}f}" for end in figures[0]["interval_95"])
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(main())
