"""Runs on disk, put together where they differ in nothing but seed and fold."""

import json
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from project.checkpoints.former_names import with_current_paths
from project.comparison.configurations import differing, flat, short, short_key, without
from project.messages import UsageError

# Keys that say where, when and with which seed a run was made, and not by which recipe.
REPEATED = {
    "checkpoint_minutes",
    "enable_model_summary",
    "enable_progress_bar",
    "energy",
    "experiment",
    "fold",
    "logger",
    "num_workers",
    "root",
    "cache_dir",
    "runs_dir",
    "seed_everything",
    "wandb",
}
MOST_PARTS = 3  # of a name; the rest is in the table of what differs
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast


@dataclass(frozen=True)
class Run:
    """A run with its record and its complete configuration.

    Args:
        directory: Where it lies.
        record: What its `run.json` holds.
        config: What its `config.yaml` holds.
    """

    directory: Path
    record: dict[str, Any]
    config: dict[str, Any]

    @cached_property
    def setting(self) -> str:
        """The recipe and the code as text, to tell whether two runs repeat one another."""
        processes = self.record.get("hardware", {}).get("processes", 1)
        return json.dumps([self.recipe, self.code, processes], sort_keys=True)

    @property
    def code(self) -> str:
        """First letters of the hash of the code; "unknown" for runs of older versions."""
        return str(self.record.get("code_sha256", "unknown"))[:7]

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Its configuration without what may differ between repetitions."""
        return dict(without(self.config, REPEATED))

    @cached_property
    def repetition(self) -> tuple[int, int]:
        """Seed and fold."""
        data = self.config.get("data") or {}
        return self.record.get("seed", 0), data.get("init_args", {}).get("fold", 0)

    def repeats(self, other: "Run") -> bool:
        """Return whether it is of the recipe, seed and fold of another, by whatever code."""
        return self.repetition == other.repetition and self.recipe == other.recipe

    def value(self, split: str, metric: str) -> float | None:
        """Return what the best checkpoint measured, None where it did not."""
        figure = self.record.get("metrics", {}).get(split, {}).get(metric)
        return figure["value"] if isinstance(figure, dict) else figure

    def interval(self, split: str, metric: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a figure over the examples of the split."""
        figure = self.record["metrics"].get(split, {}).get(metric)
        ends = figure.get("interval_95") if isinstance(figure, dict) else None
        return None if ends is None else (ends[0], ends[1])


@dataclass(frozen=True)
class Group:
    """Runs of one setting, the newest of each seed and fold, in their order.

    Args:
        runs: At least one.
        name: That tells it from other groups.
        failed: Seeds and folds of which no run ended well, such as those that diverged.
    """

    runs: list[Run]
    name: str = ""
    failed: int = 0

    @property
    def newest(self) -> Run:
        return max(self.runs, key=lambda run: run.directory.name)

    @property
    def is_crossed(self) -> bool:
        """Whether the runs are of several folds."""
        return len({run.repetition[1] for run in self.runs}) > 1

    def values(self, split: str, metric: str) -> list[float]:
        """Return a figure of each run; of several folds, that of each fold over its seeds."""
        by_part: dict[int, list[float]] = {}
        for number, run in enumerate(self.runs):
            if (value := run.value(split, metric)) is not None:
                by_part.setdefault(run.repetition[1] if self.is_crossed else number, []).append(
                    value
                )
        return [statistics.fmean(values) for _, values in sorted(by_part.items())]


@dataclass
class Collection:
    """The groups of finished runs, and how many runs are left out, by reason."""

    groups: list[Group]
    left_out: Counter[str] = field(default_factory=Counter)


def collect(places: list[Path]) -> Collection:
    """Read runs, and put repetitions together; the oldest group is first.

    Args:
        places: Run directories, and folders of them.

    Raises:
        UsageError: If one is neither.
    """
    left_out: Counter[str] = Counter()
    failed: dict[str, set[tuple[int, int]]] = {}
    by_setting: dict[tuple[str, str], dict[tuple[int, int], Run]] = {}
    unique = {directory.resolve(): directory for directory in directories(places)}
    # Names begin with the time: of repeated seeds the newest is kept, wherever it lies.
    for directory in sorted(unique.values(), key=lambda path: path.name):
        run = read_run(directory)
        if run is None or (reason := unfit(run.record)):
            left_out["damaged" if run is None else reason] += 1
            if run is not None and reason == "failed":
                failed.setdefault(run.setting, set()).add(run.repetition)
            continue
        key = run.setting, identity_of_data(run.record.get("data", {}))
        repetitions = by_setting.setdefault(key, {})
        left_out["repeated"] += run.repetition in repetitions
        repetitions[run.repetition] = run
    groups = []
    for (setting, _), found in by_setting.items():
        without_result = failed.get(setting, set()) - found.keys()
        groups.append(Group([found[key] for key in sorted(found)], failed=len(without_result)))
    return Collection(named(groups), +left_out)


def unfit(record: dict[str, Any]) -> str:
    """Return why a run has nothing to be compared, "" if it has."""
    status = str(record.get("status", "damaged"))
    if status == "finished":
        return "" if record.get("metrics") else "without metrics"
    return "not finished" if status == "running" else status


def identity_of_data(data: dict[str, Any]) -> str:
    """Return what is the same for runs that were tested on the same examples."""
    if "made_from" in data:  # a text, whatever its tokens
        keys = ("documents", "cleaning", "val_fraction", "test_fraction")
        return json.dumps({key: data["made_from"].get(key) for key in keys}, sort_keys=True)
    hashes = data.get("sha256", {})
    return json.dumps([name_of_data(data), hashes.get("test", hashes)], sort_keys=True)


def name_of_data(data: dict[str, Any]) -> str:
    return str(data.get("dataset") or data.get("corpus") or "other data")


def directories(places: list[Path]) -> Iterator[Path]:
    """Yield the run directories, in the order of their names within a folder."""
    for place in places:
        if (place / "run.json").is_file():
            yield place
            continue
        found = sorted(path.parent for path in place.glob("*/run.json"))
        if not found and len(places) > 1:
            raise UsageError(f"{str(place)!r} is neither a run directory nor a folder of runs")
        yield from found


def read_run(directory: Path) -> Run | None:
    """Return a run, None where its files cannot be read."""
    try:
        record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        config = yaml.load((directory / "config.yaml").read_text(encoding="utf-8"), LOADER)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(record, dict) or not isinstance(config, dict):
        return None
    return Run(directory, record, with_current_paths(config))


def named(groups: list[Group]) -> list[Group]:
    """Name groups by their experiment, and by what differs where that is the same."""
    by_experiment: dict[str, list[Group]] = {}
    for group in groups:
        by_experiment.setdefault(group.newest.record["experiment"], []).append(group)
    keys = {
        experiment: differing([group.newest.recipe for group in rivals])
        for experiment, rivals in by_experiment.items()
    }
    names = [name_of(group.newest, keys) for group in groups]
    named_groups = []
    for group, name in zip(groups, names, strict=True):
        if names.count(name) > 1:  # the same recipe by other code, or on other data
            name += f" code={group.newest.code}"
        named_groups.append(replace(group, name=name))
    return named_groups


def name_of(run: Run, keys: dict[str, list[str]]) -> str:
    """Return the experiment of a run, with the values of these keys of its experiment."""
    experiment, config = run.record["experiment"], flat(run.recipe)
    # A class first; what another class takes says nothing of this one.
    differing_keys = sorted(keys[experiment], key=lambda key: not key.endswith("class_path"))
    known = [key for key in differing_keys if config.get(key) is not None]
    parts = [f"{short_key(key)}={short(config[key])}" for key in known[:MOST_PARTS]]
    return " ".join([experiment, *parts])
