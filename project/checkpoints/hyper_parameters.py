"""Hyper-parameters from which a checkpoint reloads alone, also for objects that were built by hand.

Under `project.train` Lightning knows the class and the arguments of all that it builds. Of
`ImageClassification(network=CNN(width=64))` it would pickle the network, and a file that holds code
is not read back with `weights_only=True`. So the same is written as under `project.train`: class
paths and plain values. An object is asked for its arguments by their names: our classes, and yours
if they are to reload, keep each argument of `__init__` as an attribute of that name.
"""

import functools
import inspect
import warnings
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"  # the one that Lightning trusts


class NotKeptError(ValueError):
    """An object does not say how it was built; the text says what to add to its class."""


def save_plain_hyperparameters(module: LightningModule | LightningDataModule) -> None:
    """Save the arguments of the calling `__init__` so that a checkpoint reloads alone.

    What cannot be written so, such as an optimizer given as a lambda, is left out with a warning.
    """
    frame = inspect.currentframe()
    with warnings.catch_warnings():
        # Lightning's hint to leave the network out: then a checkpoint would not reload alone.
        warnings.filterwarnings("ignore", message=".*is an instance of `nn.Module`.*")
        module.save_hyperparameters(logger=False, frame=frame.f_back if frame else None)
    if "_class_path" in module.hparams:
        return  # built by LightningCLI, or from a checkpoint
    plain: dict[str, Any] = {"_class_path": import_path(type(module))}
    for name, value in module.hparams.items():
        try:
            plain[name] = description(value)
        except NotKeptError as error:
            if name == "network":
                del plain["_class_path"]  # nothing to begin from
            warnings.warn(f"checkpoints will be without {name!r}: {error}", stacklevel=3)
    if "_class_path" in plain:
        plain["_instantiator"] = INSTANTIATOR
    else:
        plain = {name: value for name, value in plain.items() if not isinstance(value, dict)}
    module.hparams.clear()
    module.hparams.update(plain)
    module._hparams_initial = dict(plain)  # type: ignore[union-attr]  # else a copy of the network


def description(value: Any) -> Any:
    """Return a value as YAML would hold it; for an object its class path and arguments.

    Raises:
        NotKeptError: If an object does not keep what it was built with.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [description(item) for item in value]
    if isinstance(value, dict):
        return {str(key): description(item) for key, item in value.items()}
    if isinstance(value, type):
        return {"class_path": import_path(value)}
    if isinstance(value, functools.partial):  # that of jsonargparse has the class among its args
        classes = [part for part in (value.func, *value.args) if isinstance(part, type)]
        if len(classes) == 1:
            return {"class_path": import_path(classes[0]), "init_args": description(value.keywords)}
    if is_dataclass(value):
        return description(asdict(value))  # type: ignore[arg-type]
    if inspect.isroutine(value) or inspect.ismodule(value) or isinstance(value, functools.partial):
        raise NotKeptError(
            f"{value!r} cannot be described; functools.partial(torch.optim.SGD, lr=0.1) could be"
        )
    try:
        arguments = arguments_of(value)
        check_built_alike(value, arguments)
    except NotKeptError:
        raise
    except Exception as error:  # of a class that is not ours, in any way
        raise NotKeptError(f"{type(value).__name__} cannot be built again: {error}") from error
    return {"class_path": import_path(type(value)), "init_args": arguments}


def arguments_of(value: Any) -> dict[str, Any]:
    """Return the arguments of `__init__` that an object keeps as attributes.

    Raises:
        NotKeptError: If it does not keep one of them.
    """
    cls = type(value)
    found = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise NotKeptError(f"{cls.__name__} takes *{name}; name its arguments one by one")
        kept = getattr(value, name, parameter.empty)
        is_plain = kept is None or isinstance(kept, bool | int | float | str | list | tuple)
        is_object = parameter.annotation not in (bool, int, float, str)
        if kept is parameter.empty or not (is_plain or is_object):
            raise NotKeptError(
                f"{cls.__name__} does not keep its argument {name!r} as an attribute; add "
                f"`self.{name} = {name}` to its __init__"
            )
        found[name] = description(kept)
    return found


def check_built_alike(value: Any, arguments: dict[str, Any]) -> None:
    """Build a network once more, without memory, to see that an attribute is what was given.

    Raises:
        NotKeptError: If the other one keeps other arguments, or has other weights.
    """
    if not isinstance(value, nn.Module) or any(isinstance(a, dict) for a in arguments.values()):
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        again = type(value)(**arguments)
    sizes, sizes_again = (
        {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
        for network in (value, again)
    )
    if arguments_of(again) != arguments or sizes != sizes_again:
        raise NotKeptError(
            f"{type(value).__name__}(**{arguments}) is another network than this one: an attribute "
            "has the name of an argument and another value; or layers were changed afterwards"
        )


def import_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
