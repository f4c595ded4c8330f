"""Two pictures of a study: what its trials measured, and which key made the difference."""

from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna import Study
from optuna.importance import get_param_importances
from optuna.trial import TrialState

from project.sweeping.study import the_better
from project.tracking.pictures import drawn, png
from project.whole_files import replace_bytes

FEWEST_TRIALS = 8  # complete ones, for importance: of fewer it tells nothing


def plot(study: Study, monitor: str, folder: Path) -> str:
    """Write `history.png` and, where there are trials enough, `importance.png`; say which."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return "none yet: no trial is complete"
    replace_bytes(folder / "history.png", png(drawn(history(study, monitor))))
    if len(complete) < FEWEST_TRIALS:
        return (
            f"{folder / 'history.png'}; importance.png needs {FEWEST_TRIALS} complete trials, and "
            f"there are {len(complete)}"
        )
    if len({trial.value for trial in complete}) == 1:
        return f"{folder / 'history.png'}; no importance.png, since all trials are equally good"
    replace_bytes(folder / "importance.png", png(drawn(importance(study, monitor))))
    return f"{folder / 'history.png'}, importance.png"


def history(study: Study, monitor: str) -> Figure:
    """Return each trial's value over its number, and the best up to there."""
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    failed = [t.number for t in trials if t.state == TrialState.FAIL]
    values: list[Any] = [t.value for t in complete]
    so_far = list(accumulate(values, the_better(study)))
    numbers = [t.number for t in complete]
    axes.step(numbers, so_far, where="post", color="tab:red", label="best so far")
    axes.scatter(numbers, values, color="tab:blue", label="complete", zorder=3)
    if pruned:
        last: list[Any] = [t.value for t in pruned]
        axes.scatter(
            [t.number for t in pruned], last, color="tab:gray", marker="x", label="pruned, its last"
        )
    if failed:
        floor = axes.get_ylim()[0]
        axes.scatter(failed, [floor] * len(failed), color="black", marker="|", label="failed")
    axes.set(xlabel="trial", ylabel=monitor, title=f"Sweep {study.study_name}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def importance(study: Study, monitor: str) -> Figure:
    """Return how much of the difference between trials each key explains, by Optuna."""
    shares = get_param_importances(study)
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(shares)), dpi=150, layout="constrained")
    axes = figure.subplots()
    keys = list(reversed(shares))  # the greatest on top
    bars = axes.barh(keys, [shares[key] for key in keys], color="tab:blue")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlim=(0, 1.1), xlabel=f"share of the differences in {monitor}")
    return figure
