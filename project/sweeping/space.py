"""What a sweep file asks for, typed, and held against its experiment before anything starts."""

import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna.pruners
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from project.comparison.configurations import flat
from project.configuration import ProjectCLI, read_yaml
from project.data.loader import derived_seed
from project.messages import UsageError, short_message
from project.training.command import build

DEFAULTS = {
    "sampler": {"class_path": "optuna.samplers.TPESampler", "init_args": {"seed": 0}},
    "pruner": {"class_path": "optuna.pruners.MedianPruner"},
}


@dataclass(frozen=True)
class SweepFile:
    """The keys of a sweep file.

    Args:
        experiment: Config file of the experiment, relative to the sweep file.
        space: For each key that is searched, {low, high} with log or step, or {choices}.
        sampler: Draws the values. (Others of Optuna keep a state, which a kill would lose.)
        pruner: Ends trials early; NopPruner ends none.
        fixed: Keys that differ from the experiment in every trial, such as fewer epochs.
        trials: How many that end with a value or are pruned.
        storage: `journal` or `sqlite`, in the sweep's folder, or a URL that Optuna takes.
    """

    experiment: str
    space: dict[str, dict[str, Any]]
    sampler: TPESampler | RandomSampler
    pruner: BasePruner
    fixed: dict[str, Any] = field(default_factory=dict)
    trials: int = 30
    storage: str = "journal"


@dataclass(frozen=True)
class Sweep:
    """What is to be done.

    Args:
        file: The sweep file.
        experiment: The config file of the experiment.
        asked: What the file says, as `SweepFile`.
        space: What is searched.
        typed: More keys of project.train, from the command line.
    """

    file: Path
    experiment: Path
    asked: Namespace
    space: dict[str, BaseDistribution]
    typed: list[str]

    @property
    def name(self) -> str:
        return self.file.stem

    def trial_arguments(self, values: dict[str, Any]) -> list[str]:
        """Return what project.train is given for a trial; what was typed goes before `fixed`."""
        late = {
            key: value
            for key, value in self.asked.fixed.items()
            if any(key.startswith(f"{outer}.") for outer in values)  # arguments of a searched class
        }
        early = {key: value for key, value in self.asked.fixed.items() if key not in late}
        return [
            *("--config", str(self.experiment)),
            *flags(early),
            *self.typed,
            *flags(values | late),
        ]

    def full_arguments(self, values: dict[str, Any]) -> list[str]:
        """Return the arguments of the experiment in full, that is without `fixed`."""
        return ["--config", str(self.experiment), *self.typed, *flags(values)]

    def sampler(self, number: int) -> BaseSampler:
        """Return the sampler of one trial: what it draws needs no state from the trials before."""
        config = self.asked.clone()
        seed = config.sampler.init_args.seed
        if seed is not None:
            config.sampler.init_args.seed = derived_seed("trial", seed, number) % 2**32
        return file_parser().instantiate(config).sampler

    def pruner(self) -> BasePruner:
        return file_parser().instantiate(self.asked).pruner


def read_sweep(file: Path, typed: list[str]) -> Sweep:
    """Read a sweep file.

    Raises:
        UsageError: With the key, the value and what would be accepted.
    """
    read_yaml(file)  # says what is wrong with a file that is none
    try:
        asked = file_parser().parse_string(file.read_text(encoding="utf-8"))  # 1e-3 is a number
    except ArgumentError as error:
        classes = ["TPESampler", "RandomSampler", *optuna.pruners.__all__]
        keys = [f"--{name}" for name in SweepFile.__dataclass_fields__]
        message = short_message(str(error), keys, classes).replace("--", "")
        raise UsageError(f"{file}: {message}") from error
    if asked.trials < 1 or not asked.space:
        what = "space" if not asked.space else f"trials {asked.trials}"
        raise UsageError(f"{file}: {what} must hold one or more; see configs/sweep/mnist_cnn.yaml")
    experiment = Path(os.path.normpath(file.parent / asked.experiment))
    if "model" not in read_yaml(experiment):
        raise UsageError(f"{file}: experiment {str(experiment)!r} names no model")
    space = {key: distribution(key, given) for key, given in asked.space.items()}
    given = [*asked.fixed, *(key_of(argument) for argument in typed)]
    if twice := sorted(space.keys() & given):
        raise UsageError(f"{twice[0]} is searched, so it can have no value of its own")
    return Sweep(file, experiment, asked, space, typed)


def file_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SweepFile)
    parser.set_defaults(DEFAULTS)
    return parser


def key_of(argument: str) -> str:
    """Return the key in `--key=value`, `--key` or `--key+=value`; "" for a value."""
    if not argument.startswith("--"):
        return ""
    return argument.removeprefix("--").partition("=")[0].removesuffix("+")


def flags(values: dict[str, Any]) -> list[str]:
    """Return `--key=value` for each, a class before its arguments: a new one would drop them."""
    keys = sorted(values, key=lambda key: key.count("."))
    return [f"--{key}={as_text(values[key])}" for key in keys]


def as_text(value: Any) -> str:
    # jsonargparse reads {class_path: ...} as a Namespace.
    return value if isinstance(value, str) else json.dumps(value, default=vars)


def distribution(key: str, given: dict[str, Any]) -> BaseDistribution:
    """Return what Optuna draws from: integers if all numbers are, and of nested choices the JSON.

    Raises:
        UsageError: If `given` is no range and no choice.
    """
    numbers = [given[name] for name in ("low", "high", "step") if name in given]
    try:
        if given.keys() == {"choices"}:
            nested = (dict, list, Namespace)
            return CategoricalDistribution(
                [as_text(c) if isinstance(c, nested) else c for c in given["choices"]]
            )
        if {"low", "high"} <= given.keys() <= {"low", "high", "step", "log"}:
            if not all(type(number) in (int, float) for number in numbers):
                raise ValueError(f"{numbers} are not all numbers")
            if all(type(number) is int for number in numbers):
                return IntDistribution(**given)
            return FloatDistribution(**given)
    except (ValueError, TypeError) as error:
        raise UsageError(f"space.{key}: {error}") from error
    raise UsageError(
        f"space.{key}: {given} is neither {{low: 1e-3, high: 1e-1}}, with log: true or a step, nor "
        "{choices: [...]}"
    )


def ends(values: BaseDistribution) -> list[Any]:
    """Return each choice, or the two ends of a range."""
    if isinstance(values, CategoricalDistribution):
        return list(values.choices)
    assert isinstance(values, IntDistribution | FloatDistribution)
    return [values.low, values.high]


def check(sweep: Sweep) -> ProjectCLI:
    """Build the experiment with its data, and parse every end of the space; return the former.

    Raises:
        UsageError: With the key, the value and what would be accepted.
    """
    base = build(sweep.trial_arguments({}))
    settings = base.config.trainer
    if settings.fast_dev_run:
        raise UsageError("trainer.fast_dev_run keeps nothing, so no trial can be chosen by it")
    if str(settings.devices) not in ("auto", "1") or settings.num_nodes != 1:
        raise UsageError(
            f"a trial runs on one device, and trainer.devices is {settings.devices} on "
            f"{settings.num_nodes} nodes; add --trainer.devices 1 --trainer.num_nodes 1"
        )
    for key, values in sweep.space.items():
        outer = {k: ends(d) for k, d in sweep.space.items() if key.startswith(f"{k}.")}
        for value, *classes in itertools.product(ends(values), *outer.values()):
            check_value(sweep, base, key, dict(zip(outer, classes, strict=True)) | {key: value})
    return base


def check_value(sweep: Sweep, base: ProjectCLI, key: str, values: dict[str, Any]) -> None:
    """Parse a key with one of its values, and the classes that it belongs to.

    Raises:
        UsageError: If it is not accepted, or a range of integers is meant for a number.
    """
    try:
        config = base.parsed(sweep.trial_arguments(values)).config
    except UsageError as error:
        raise UsageError(f"{sweep.file}, space.{key}, {values[key]!r}: {error}") from error
    leaves = {k.replace(".init_args", ""): v for k, v in flat(config.as_dict()).items()}
    if isinstance(sweep.space[key], IntDistribution) and isinstance(leaves.get(key), float):
        raise UsageError(
            f"{sweep.file}, space.{key}: {values[key]} would search whole numbers only, and the "
            f"key takes any; write {float(values[key])}"
        )
