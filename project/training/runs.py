"""Finished runs on disk, and those of them that differ in nothing but the seed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Keys that say where and when a run was made, and not what was computed.
ELSEWHERE = {
    "seed_everything",
    "experiment",
    "runs_dir",
    "root",
    "cache_dir",
    "checkpoint_minutes",
    "num_workers",
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        directory: Where it lies.
        record: What its `run.json` holds.
        setting: Its configuration without what may differ between repetitions, as JSON.
    """

    directory: Path
    record: dict[str, Any]
    setting: str


def finished_runs(runs_dir: Path, experiment: str) -> list[Run]:
    """Return the finished runs of an experiment, the oldest first."""
    found = []
    for path in sorted(runs_dir.glob("*/run.json")):  # names begin with the time
        record = json.loads(path.read_text(encoding="utf-8"))
        config = path.with_name("config.yaml")
        if record["experiment"] == experiment and record["status"] == "finished":
            setting = setting_of(config.read_text(encoding="utf-8"))
            found.append(Run(path.parent, record, setting))
    return found


def repetitions(runs: list[Run], setting: str) -> list[Run]:
    """Return the runs of a setting, the newest of each seed, in the order of seeds."""
    by_seed = {run.record["seed"]: run for run in runs if run.setting == setting}
    return [by_seed[seed] for seed in sorted(by_seed)]


def setting_of(config: str) -> str:
    """Return what a complete configuration, as YAML, computes, as JSON to compare."""
    return json.dumps(without(yaml.safe_load(config), ELSEWHERE), sort_keys=True)


def without(tree: Any, keys: set[str]) -> Any:
    """Return nested dictionaries and lists without these keys, at any depth."""
    if isinstance(tree, dict):
        return {k: without(v, keys) for k, v in tree.items() if k not in keys}
    if isinstance(tree, list):
        return [without(item, keys) for item in tree]
    return tree
