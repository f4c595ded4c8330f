"""From a run or a checkpoint file back to the objects in it."""

import importlib
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from project.checkpoints.checkpoint_file import is_address, is_folder
from project.checkpoints.former_names import OWN_NAME
from project.messages import UsageError

# What a checkpoint may name. Not all of torch: some of its classes start programs.
TRUSTED = (OWN_NAME, "torch.nn", "torch.optim", "torchvision", "lightning.pytorch")


def checkpoint_of(run: str | Path) -> str | Path:
    """Return the checkpoint that a run chose as its best, or `run` itself if it is one.

    Args:
        run: A run directory, a checkpoint, or an address of one.

    Raises:
        UsageError: If there is none.
    """
    if is_address(run):
        return run
    run = Path(run)
    if run.is_file() or is_folder(run):
        return run
    best = run / "checkpoints" / "best.ckpt"
    if best.is_file() or is_folder(best):
        return best
    if run.is_dir():
        raise UsageError(
            f"the run {str(run)!r} has no checkpoints/best.ckpt: did it validate once?"
        )
    raise UsageError(f"{str(run)!r} is neither a run directory nor a checkpoint; see `ls runs`")


def rebuild(content: dict[str, Any], allowed: list[str]) -> tuple[Any, Any]:
    """Return the task and the data in a checkpoint, as they were; None for data it does not hold.

    Args:
        allowed: Packages whose classes it may name, besides `TRUSTED`.

    Raises:
        UsageError: If it names a class of another package, or something that is not a class.
    """
    from lightning.pytorch import LightningDataModule, LightningModule

    task_arguments = content.get(LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, {})
    data_arguments = content.get(LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY, {})
    if "_class_path" not in task_arguments:
        raise UsageError("the checkpoint does not say which task it is of")
    check_classes([task_arguments, data_arguments], allowed)
    try:
        with imports_limited_to(allowed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="checkpoints will be without")  # none is made
            task = instantiate(LightningModule, task_arguments)
            data = None
            if "_class_path" in data_arguments:
                data = instantiate(LightningDataModule, data_arguments)
    except (ArgumentError, RuntimeError, TypeError, ValueError) as error:
        lines = str(error).splitlines()  # from jsonargparse, a page of every type that was tried
        tried = [line for line in lines if line.lstrip().startswith("- ")]
        wrong = [line for line in lines if "does not correspond to a subclass" in line]
        reason = [*wrong, *tried, *lines][0].strip(" -")
        raise UsageError(f"the checkpoint cannot be built: {reason}") from error
    task.on_load_checkpoint(content)
    try:
        task.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"the weights do not fit the classes of the checkpoint: {reason}"
        ) from error
    if data is not None and type(data).__qualname__ in content:
        data.load_state_dict(content[type(data).__qualname__])
    return task, data


def on_device(module: Any, device: str) -> Any:
    """Return a network or a task in evaluation mode on a device.

    Raises:
        UsageError: If there is no such device, or torch was built without it.
    """
    try:
        return module.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device} cannot be used: {reason}") from error


def instantiate(base: type, arguments: dict[str, Any]) -> Any:
    """Build the subclass of `base` that saved hyper-parameters describe."""
    from lightning.pytorch.cli import instantiate_module

    return instantiate_module(base, {k: v for k, v in arguments.items() if k != "_instantiator"})


def check_classes(tree: Any, allowed: list[str]) -> None:
    """Stop where a configuration from a checkpoint names what it may not.

    Each `class_path` must be a class of a trusted package; no other package is imported to find
    out. That it is of the type which its place asks for is checked when it is built, except where
    the place takes any callable, which is checked here.

    Raises:
        UsageError: With the path and how to allow its package.
    """
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    kinds = {"optimizer": Optimizer, "scheduler": LRScheduler}
    for key, path in class_paths(tree):
        check_package(path, allowed)
        module, _, name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"the checkpoint names {path}, which is not there: {error}") from error
        if not isinstance(found, type) or not issubclass(found, kinds.get(key, object)):
            kind = kinds[key].__name__ if key in kinds else "class"
            raise UsageError(f"the checkpoint names {path} as its {key}, which is no {kind}")
        check_package(f"{found.__module__}.{name}", allowed)  # not one that was imported there


def class_paths(tree: Any, key: str = "class") -> Iterator[tuple[str, str]]:
    """Yield (the key above it, class path) of every class that nested arguments name."""
    if isinstance(tree, list | tuple):
        for item in tree:
            yield from class_paths(item, key)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            if name in ("class_path", "_class_path"):
                yield key, str(value)
            else:
                yield from class_paths(value, key if name in ("init_args", "dict_kwargs") else name)


def check_package(path: str, allowed: list[str]) -> None:
    if not any(path.startswith(f"{package}.") for package in (*TRUSTED, *allowed)):
        raise UsageError(
            f"the checkpoint names {path}, and only classes of {', '.join(TRUSTED)} are built from "
            f"a checkpoint; if you trust that package, add --allow {path.partition('.')[0]}"
        )


@contextmanager
def imports_limited_to(allowed: list[str]) -> Iterator[None]:
    """Let jsonargparse, while inside, import by name from trusted packages alone.

    A text in the place of a callable is imported too, so `check_classes` does not see them all. And
    a class in the place of an argument without a type is not built: no type would hold it back.
    """
    import jsonargparse._typehints  # private: guarded by tests/test_configuration.py
    from jsonargparse import set_parsing_settings

    typehints: Any = jsonargparse._typehints
    unlimited = typehints.import_object

    def limited(name: str, *args: Any, **kwargs: Any) -> Any:
        check_package(name, allowed)
        return unlimited(name, *args, **kwargs)

    typehints.import_object = limited
    set_parsing_settings(instantiate_subclass_spec_in_any=False)
    try:
        yield
    finally:
        typehints.import_object = unlimited
        set_parsing_settings(instantiate_subclass_spec_in_any=True)
