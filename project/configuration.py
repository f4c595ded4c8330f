"""From what is typed and written in YAML to objects, with short names and short errors.

LightningCLI and jsonargparse do the work: every key is an argument of the class named beside
it. Added here: our classes by their bare names, a fresh start when an optimizer or schedule is
replaced, and one-line errors that suggest the nearest key.
"""

import ast
import codecs
import importlib
import inspect
import json
import locale
import traceback
from argparse import SUPPRESS
from copy import copy
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import jsonargparse._typehints as typehints  # private: guarded by tests/test_configuration.py
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from jsonargparse._util import import_object
from lightning.pytorch import LightningDataModule, LightningModule, callbacks
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.checkpoints.former_names import OWN_NAME, current_path
from project.hardware import fast_precision
from project.messages import UsageError, nearest, short_message

PACKAGE = Path(__file__).parent
CONFIGS = PACKAGE.parent / "configs"
PARTS = (  # folders whose public classes can be named without their path
    "models", "pretrained", "tasks", "data", "optimization", "training",
    "checkpoints", "distributed", "tracking", "costs",
)  # fmt: skip


@dataclass
class Selection:
    """How the best checkpoint is chosen and when a run may stop early.

    Args:
        monitor: A logged metric of the validation split.
        mode: Whether less or more of it is better.
        patience: Validations without improvement before the run stops; null never stops it.
    """

    monitor: str = "val/loss"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None


@dataclass
class Speed:
    """How the hardware is used: changes the time a run takes, and the last bits of its numbers.

    Args:
        compile: Compile the network with torch.compile, in place, so that checkpoints stay as they
            are. That takes up to a minute at the start, and pays in long runs.
        matmul: Precision of float32 matrix products on CUDA: `high` is TF32, `medium` bfloat16.
        threads: Of torch in each process; by default OMP_NUM_THREADS, or the cores of a machine
            over its processes.
        device_peak: Dense bfloat16 peak of one device, FLOP/s, for MFU; by default that of the
            table in `costs/flops.py`.
    """

    compile: bool = False
    matmul: Literal["highest", "high", "medium"] = "highest"
    threads: int | None = None
    device_peak: float | None = None


@dataclass
class Energy:
    """How the electricity of training is counted, for `energy` in `run.json`; without a network.

    Args:
        measure: By codecarbon's offline tracker, on the whole machine and the GPUs of the run.
        country: Whose grid makes the CO2, three letters (ISO 3166), such as FRA; null is the
            world's average.
        grams_per_kwh: CO2e of a supply of your own, in place of a country's.
        cpu_watts: Power of all processors at full load, where no counter measures them; by
            default that of codecarbon's table, or 4 W a thread.
        ram_watts: Power of the memory, which is never measured; by default guessed from its size.
    """

    measure: bool = True
    country: str | None = None
    grams_per_kwh: float | None = None
    cpu_watts: float | None = None
    ram_watts: float | None = None


@dataclass
class Wandb:
    """Weights & Biases beside the run's own files.

    Args:
        mode: `online`, `offline` (kept in `<runs_dir>/wandb`) or `disabled`; null is disabled.
        project: Name of the project there.
        entity: Whose project; by default that of the login.
        tags: Of the run.
        checkpoints: Also send `best` when the run ends, or `all` as they are written.
    """

    mode: Literal["online", "offline", "disabled"] | None = None
    project: str = OWN_NAME
    entity: str | None = None
    tags: list[str] | None = None
    checkpoints: Literal["none", "best", "all"] = "none"


class ProjectCLI(LightningCLI):
    """LightningCLI that builds `model`, `data`, `trainer` settings and `best`, and runs nothing."""

    def __init__(self, arguments: list[str]) -> None:
        with_short_names()
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # allow_abbrev off: `--trainer.max_epoch 3` would be taken for max_epochs in silence.
            parser_kwargs={"allow_abbrev": False, "exit_on_error": False, "prog": "project.train"},
            args=with_default_experiment(arguments),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Selection, "best")
        parser.add_class_arguments(Speed, "speed")
        parser.add_class_arguments(Energy, "energy")
        parser.add_class_arguments(Wandb, "wandb")
        parser.add_argument("--experiment", type=str | None, help="Name in the run directory.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where runs are kept.")
        parser.add_argument(
            "--init_from",
            type=str | None,
            help="Run, checkpoint or torchvision:NETWORK whose weights to begin with, if they fit.",
        )
        parser.add_argument(
            "--freeze",
            type=list[str] | str | None,
            help="Patterns of names of the network's parameters to keep, such as 'stem.*'.",
        )
        parser.add_argument(
            "--checkpoint_minutes",
            type=float,
            default=5.0,
            help="Between two checkpoints to resume from; 0 saves before every step.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise refusal(error, parser) from error
        if self.config.experiment is None:
            self.config.experiment = experiment_name(args)
        if isinstance(self.config.freeze, str):
            self.config.freeze = [self.config.freeze]

    def parsed(self, arguments: list[str]) -> "ProjectCLI":
        """Return the configuration of other arguments, without building its objects."""
        other = copy(self)
        other.parse_arguments(self.parser, arguments)
        return other

    def before_instantiate_classes(self) -> None:
        if self.config.trainer.precision is None:
            self.config.trainer.precision = fast_precision(self.config.trainer.accelerator)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        return None  # the command builds it, once the run has a directory


def complete_config(cli: ProjectCLI) -> str:
    """Return every key of a configuration with its value, as YAML."""
    return cli.parser.dump(cli.config, skip_unset=False)


def with_default_experiment(arguments: list[str]) -> list[str]:
    """Return the arguments, with `configs/default.yaml` first if no file names a model.

    As a first `--config` and not as the parser's default file: from there, defaults of one
    class would leak into another (jsonargparse#460).
    """
    if files_with_a_model(arguments):
        return arguments
    return ["--config", str(CONFIGS / "default.yaml"), *arguments]


def experiment_name(arguments: list[str]) -> str:
    """Return the stem of the last config file that names a model."""
    files = files_with_a_model(arguments)
    return files[-1].stem if files else "experiment"


def files_with_a_model(arguments: list[str]) -> list[Path]:
    return [path for path in config_files(arguments) if "model" in read_yaml(path)]


def config_files(arguments: list[str]) -> list[Path]:
    files = []
    for flag, value in zip_longest(arguments, arguments[1:], fillvalue=""):
        if flag in ("--config", "-c"):
            files.append(Path(value))
        elif flag.startswith("--config="):
            files.append(Path(flag.removeprefix("--config=")))
    return files


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError as error:
        near = nearest(
            f"configs/{path.name}", [f"configs/{p.name}" for p in CONFIGS.glob("*.yaml")]
        )
        raise UsageError(f"no config file {str(path)!r}{near}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"config file {str(path)!r} cannot be read: {reason}") from error
    encoding = locale.getpreferredencoding(False)  # in which jsonargparse reads the file again
    if not text.isascii() and codecs.lookup(encoding).name != "utf-8":
        raise UsageError(
            f"config file {str(path)!r} has letters beyond ASCII, which Python reads as {encoding} "
            "here; set the variable PYTHONUTF8 to 1"
        )
    if not isinstance(content, dict):
        raise UsageError(f"config file {str(path)!r} holds no keys; see configs/default.yaml")
    return content


def changed_data(saved: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """Return the arguments of a data module from a checkpoint, with `--data.KEY VALUE` changed.

    Args:
        saved: Arguments, and the path of the class under `_class_path`.

    Raises:
        UsageError: If a key or a value is not one of the data.
    """
    with_short_names()
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    given = {k: v for k, v in saved.items() if k not in ("_class_path", "_instantiator")}
    before = {"class_path": saved["_class_path"], "init_args": given}
    try:
        config = parser.parse_args([f"--data={json.dumps(before)}", *changes])
    except ArgumentError as error:
        raise refusal(error, parser) from error
    data = yaml.safe_load(parser.dump(config, skip_unset=False))["data"]
    return {**saved, "_class_path": data["class_path"], **data["init_args"]}


def refusal(error: ArgumentError, parser: LightningArgumentParser) -> UsageError:
    """Return one line for what a parser refused."""
    options = [o for action in parser._actions for o in action.option_strings]
    return UsageError(short_message(str(error), options, known_classes()))


def project_classes() -> dict[str, str]:
    """Return {bare name: import path} of the public classes in `PARTS`, without importing.

    The import path is the registry: a new file is found by being there.

    Raises:
        UsageError: If a file is no Python, with its line.
    """
    paths: dict[str, str] = {}
    for file in sorted(f for folder in PARTS for f in (PACKAGE / folder).glob("*.py")):
        try:
            statements = ast.parse(file.read_bytes()).body
        except SyntaxError as error:
            said = f"{in_clone(file)}, line {error.lineno}: {error.msg}"
            raise UsageError(said) from error
        for node in statements:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                paths[node.name] = f"{PACKAGE.name}.{file.parent.name}.{file.stem}.{node.name}"
    return paths


def known_classes() -> dict[str, str]:
    """Return {bare name: import path} of our classes, torch's optimizers and schedulers."""
    paths = {}
    for module in (torch.optim, torch.optim.lr_scheduler):
        for name, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, (Optimizer, LRScheduler)):
                paths[name] = f"{module.__name__}.{name}"
    # Torch's own does not say which metric it follows.
    paths["ReduceLROnPlateau"] = "lightning.pytorch.cli.ReduceLROnPlateau"
    for name, member in inspect.getmembers(callbacks, inspect.isclass):
        paths[name] = f"{callbacks.__name__}.{member.__name__}"
    return paths | project_classes()


def check_import(path: str) -> None:
    """Import the module of a class, if it is one of ours: a new one perhaps, with a mistake in it.

    A module that is not there is left to whoever looks for the class.

    Raises:
        ValueError: With its line; `short_message` finds it in jsonargparse's page.
    """
    if not path.startswith(f"{PACKAGE.name}."):
        return
    try:
        importlib.import_module(path.rpartition(".")[0])
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is this function's
        places = [(Path(frame.filename), frame.lineno) for frame in frames]
        if isinstance(error, SyntaxError):
            places.append((Path(error.filename or ""), error.lineno))
        ours = [(file, line) for file, line in places if file.is_relative_to(PACKAGE)]
        if ours:
            said = f"{in_clone(ours[-1][0])}, line {ours[-1][1]}: {type(error).__name__}: {error}"
            raise ValueError(said) from error


def in_clone(file: Path) -> str:
    """Return the path of a file from the folder of the repository, the same on every system."""
    return file.relative_to(PACKAGE.parent).as_posix()


def with_short_names() -> None:
    """Teach jsonargparse two things that it has no public hook for.

    A bare name means our class before anyone else's (`RNN` is also a class of torch). And an
    optimizer or scheduler that replaces another starts from its own defaults: AdamW's
    `weight_decay: 0.01` does not slip into SGD. Networks, tasks and data keep the values whose
    names they share, such as `num_classes`.
    """
    if getattr(typehints.resolve_class_path_by_name, "knows_project", False):
        return
    classes = known_classes()
    resolve = typehints.resolve_class_path_by_name
    discard = typehints.discard_init_args_on_class_path_change

    def resolve_ours_first(base: Any, name: str) -> str:
        path = current_path(classes.get(name, name))
        check_import(path)
        return resolve(base, path)

    def discard_all_of_an_optimizer(parser: Any, before: Any, value: Any) -> None:
        if before and "init_args" in before and before["class_path"] != value["class_path"]:
            now = import_object(value["class_path"])
            if isinstance(now, type) and issubclass(now, (Optimizer, LRScheduler)):
                before["init_args"] = Namespace()
        discard(parser, before, value)  # type: ignore[no-untyped-call]

    resolve_ours_first.knows_project = True  # type: ignore[attr-defined]
    typehints.resolve_class_path_by_name = resolve_ours_first  # type: ignore[assignment]
    typehints.discard_init_args_on_class_path_change = discard_all_of_an_optimizer


def class_help(key: str, name: str) -> str:
    """Return every argument of the class `name`, as `--<key>.<argument>`, with its meaning.

    Raises:
        UsageError: If there is no such class.
        ValueError: If there is a mistake in its file.
    """
    classes = known_classes()
    path = classes.get(name, name)
    check_import(path)
    try:
        cls = import_object(path)
    except (ImportError, ValueError, AttributeError) as error:
        raise UsageError(f"--{key}.help: no class {name!r}{nearest(name, classes)}") from error
    given_by_the_task = set()
    if issubclass(cls, Optimizer):
        given_by_the_task = {"params"}
    elif issubclass(cls, LRScheduler):
        given_by_the_task = {"optimizer"}
    parser = LightningArgumentParser(
        prog="project.train", description="", add_help=False, usage=SUPPRESS
    )
    parser.add_class_arguments(cls, key, fail_untyped=False, skip=given_by_the_task)
    return f"{path}\n{parser.format_help()}"


def help_of_everything(cli: ProjectCLI) -> str:
    """Return the help of the general keys and of every class that the configuration names."""
    parts = [cli.parser.format_help()]

    def visit(key: str, node: Any) -> None:
        if isinstance(node, Namespace) and "class_path" in node:
            parts.append(class_help(key, node.class_path))
            for name, child in vars(node.get("init_args", Namespace())).items():
                visit(f"{key}.{name}", child)

    for section in ("model", "data"):
        visit(section, cli.config[section])
    return "\n".join(parts)
