"""From what is typed and written in YAML to objects, with short names and short errors.

LightningCLI and jsonargparse do the work: every key is an argument of the class named beside
it. Added here: our classes by their bare names, a fresh start when an optimizer or schedule is
replaced, and one-line errors that suggest the nearest key.
"""

import ast
import difflib
import inspect
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import jsonargparse._typehints as typehints  # private: guarded by tests/test_configuration.py
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from jsonargparse._util import import_object
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

PACKAGE = Path(__file__).parent
CONFIGS = PACKAGE.parent / "configs"


class UsageError(Exception):
    """What was asked for is not possible; the text says why and what to do."""


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
        parser.add_argument("--experiment", type=str | None, help="Name in the run directory.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where runs are kept.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise UsageError(short_message(str(error), parser)) from error
        if self.config.experiment is None:
            self.config.experiment = experiment_name(args)

    def before_instantiate_classes(self) -> None:
        if self.config.trainer.precision is None:
            self.config.trainer.precision = fast_precision(self.config.trainer.accelerator)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        return None  # the command builds it, once the run has a directory


def fast_precision(accelerator: str) -> str:
    """Return `bf16-mixed` where the hardware is fast at it, else `32-true`.

    Fast are CUDA devices of compute capability 8.0 and above, and CPUs with AVX512-BF16 or AMX
    (without them bf16 convolutions took 14 times as long as float32).
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "32-true"
    if accelerator == "cpu" or not torch.backends.mps.is_available():
        return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"
    return "32-true"


def with_default_experiment(arguments: list[str]) -> list[str]:
    """Return the arguments, with `configs/default.yaml` first if no file names a model.

    As a first `--config` and not as the parser's default file: from there, defaults of one
    class would leak into another (jsonargparse#460).
    """
    if any("model" in read_yaml(path) for path in config_files(arguments)):
        return arguments
    return ["--config", str(CONFIGS / "default.yaml"), *arguments]


def experiment_name(arguments: list[str]) -> str:
    """Return the stem of the last config file that names a model."""
    files = [path for path in config_files(arguments) if "model" in read_yaml(path)]
    return files[-1].stem if files else "experiment"


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
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.stem, [p.stem for p in CONFIGS.glob("*.yaml")])
        hint = f"; did you mean configs/{near[0]}.yaml?" if near else ""
        raise UsageError(f"no config file {str(path)!r}{hint}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"config file {str(path)!r} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise UsageError(f"config file {str(path)!r} holds no keys; see configs/default.yaml")
    return content


def project_classes() -> dict[str, str]:
    """Return {bare name: import path} of the public classes in `project/*/`, without importing.

    The import path is the registry: a new file is found by being there.
    """
    paths: dict[str, str] = {}
    for file in sorted(PACKAGE.glob("*/*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                paths[node.name] = f"{PACKAGE.name}.{file.parent.name}.{file.stem}.{node.name}"
    return paths


def with_short_names() -> None:
    """Teach jsonargparse two things that it has no public hook for.

    A bare name means our class before anyone else's (`RNN` is also a class of torch). And an
    optimizer or scheduler that replaces another starts from its own defaults: AdamW's
    `weight_decay: 0.01` does not slip into SGD. Networks, tasks and data keep the values whose
    names they share, such as `num_classes`.
    """
    if getattr(typehints.resolve_class_path_by_name, "knows_project", False):
        return
    classes = project_classes()
    resolve = typehints.resolve_class_path_by_name
    discard = typehints.discard_init_args_on_class_path_change

    def resolve_ours_first(base: Any, name: str) -> str:
        return resolve(base, classes.get(name, name))

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
    """Return every argument of the class `name`, as `--<key>.<argument>`, with its meaning."""
    path = project_classes().get(name) or torch_classes().get(name, name)
    try:
        cls = import_object(path)
    except (ImportError, ValueError, AttributeError) as error:
        raise UsageError(
            f"--{key}.help: no class {name!r}{nearest(name, class_names())}"
        ) from error
    parser = LightningArgumentParser(prog="project.train", description="", add_help=False)
    parser.add_class_arguments(cls, key, fail_untyped=False, skip={"params", "optimizer"})
    return parser.format_help()


def torch_classes() -> dict[str, str]:
    """Return {bare name: import path} of torch's optimizers and schedulers."""
    paths = {}
    for module in (torch.optim, torch.optim.lr_scheduler):
        for name, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, (Optimizer, LRScheduler)):
                paths[name] = f"{module.__name__}.{name}"
    return paths


def class_names() -> list[str]:
    return [*project_classes(), *torch_classes()]


def nearest(word: str, choices: list[str]) -> str:
    """Return "; did you mean X?", or nothing when no choice is near."""
    near = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def short_message(text: str, parser: LightningArgumentParser) -> str:
    """Return one line for jsonargparse's page: the key, the value, and what would be accepted."""
    if unknown := re.match(r"unrecognized arguments: (\S+)", text):
        option = unknown[1].split("=")[0]
        options = [o for action in parser._actions for o in action.option_strings]
        return f"unknown option {option}{nearest(option, options)}"
    key = "--" + ".".join(re.findall(r'Parser key "([^"]+)"', text))
    classes = re.findall(r"class_path '([^']+)'", text)
    value = re.findall(r"(?:Given|Got) value: (.*)", text)
    if unknown := re.search(r"Option '([^']+)' is not accepted", text):
        option = f"{key}.{unknown[1]}" if key != "--" else f"--{unknown[1]}"
        if not classes:
            options = [o for action in parser._actions for o in action.option_strings]
            return f"unknown option {option}{nearest(option, options)}"
        cls = import_object(classes[-1])
        choices = [name for name in inspect.signature(cls).parameters if name != "self"]
        hint = nearest(unknown[1], choices) or f"; it takes {', '.join(choices)}"
        return f"unknown option {option} of {cls.__name__}{hint}"
    if missing := re.search(r"arguments are required: (.*?)(?:\n|$)", text):
        names = ", ".join(f"{key}.{name.strip()}" for name in missing[1].split(","))
        return f"not set: {names}"
    if choice := re.search(r"Expected a typing.Literal\[(.*?)\]. Got value: (.*)", text):
        return f"{key}: {choice[2]!r} is not one of {choice[1].replace(chr(39), '')}"
    types = [t for t in re.findall(r"Expected an? <class '([^']+)'>", text) if t != "NoneType"]
    if types:
        return f"{key}: expected {types[0]}, got {value[0].split('. Got')[0]!r}"
    if name := re.search(r"Expected a dot import path string: (\S+)", text):
        return f"{key}: no class {name[1]!r}{nearest(name[1], class_names())}"
    return (
        f"{key}: " + " ".join(text.split())[:300] if key != "--" else " ".join(text.split())[:300]
    )
