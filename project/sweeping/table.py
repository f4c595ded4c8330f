"""What a sweep prints: a line a trial, a bar on a terminal, and at the end the best of all."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from project.sweeping.space import Sweep, ends
from project.sweeping.study import ENDED, best_of


class Table:
    """Prints the trials of a study as they end.

    Args:
        monitor: The metric that is searched by.
        trials: How many are to end.
    """

    def __init__(self, sweep: Sweep, study: Study, monitor: str, trials: int) -> None:
        self.study = study
        self.monitor = monitor
        self.width = max(8, len(monitor))
        self.columns = {
            key: (name, max(len(name), 9, *(len(shown(value)) for value in ends(sweep.space[key]))))
            for key, name in short_names(list(sweep.space)).items()
        }
        self.console = Console(markup=False, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("trials", total=trials)

    @contextmanager
    def showing(self, folder: Path) -> Iterator[None]:
        """Print the head of the table, and show the bar while inside."""
        self.advance()
        if count := len(self.study.get_trials(deepcopy=False)):
            self.console.print(f"going on with {folder}, where {count} trials have begun")
        names = "  ".join(f"{name:>{width}}" for name, width in self.columns.values())
        self.console.print(f"trial  {self.monitor:>{self.width}}  {'best':>8}  {names}  seconds")
        with self.bar:
            yield

    def show_validation(self, trial: Trial, validations: int, value: float) -> None:
        text = f"trial {trial.number}, validation {validations}: {shown(value)}"
        self.bar.update(self.task, description=text)

    def show(self, trial: FrozenTrial, best: FrozenTrial | None, seconds: float) -> None:
        """Print the line of a trial that has ended."""
        value = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else trial.state.name
        value = value.lower().replace("fail", "failed")
        values = "  ".join(
            f"{shown(trial.params[key]):>{width}}" for key, (_, width) in self.columns.items()
        )
        best_value = "" if best is None else f"{best.value:.4f}"
        line = (
            f"{trial.number:>5}  {value:>{self.width}}  {best_value:>8}  {values}  {seconds:>7.1f}"
        )
        if trial.state == TrialState.PRUNED:
            line += f"  after {len(trial.intermediate_values)} validations"
        if trial.state == TrialState.FAIL:
            line += f"  {trial.user_attrs['error'][:200]}"
        self.console.print(line)
        self.advance()

    def advance(self) -> None:
        ended = len(self.study.get_trials(deepcopy=False, states=ENDED))
        self.bar.update(self.task, completed=ended)

    def close(self, folder: Path, plots: str) -> None:
        """Print the best trial, how to train it in full, and what else there is."""
        counts = Counter(trial.state for trial in self.study.get_trials(deepcopy=False))
        best = best_of(self.study)
        lines = [
            "",
            f"trials       {counts[TrialState.COMPLETE]} complete, "
            f"{counts[TrialState.PRUNED]} pruned, {counts[TrialState.FAIL]} failed",
        ]
        if best is not None:
            lines.append(f"best         trial {best.number}, {self.monitor} {best.value:.6g}")
            lines += [
                f"               --{key} {shown(value)}" for key, value in best.params.items()
            ]
            lines.append(f"in full      python -m project.train --config {folder / 'best.yaml'}")
        self.console.print("\n".join([*lines, f"plots        {plots}"]))


def short_names(keys: list[str]) -> dict[str, str]:
    """Return the last part of each key, or the last two where that is not enough to tell."""
    last = Counter(key.split(".")[-1] for key in keys)
    return {k: ".".join(k.split(".")[-(1 if last[k.split(".")[-1]] == 1 else 2) :]) for k in keys}


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
