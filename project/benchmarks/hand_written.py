"""A training step as one writes it without Lightning, of what `project.train` was asked for.

Shape letters: B batch, T time, K classes, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from project.benchmarks.measuring import device
from project.command_line import quieten_lightning
from project.configuration import ProjectCLI
from project.data.image_sets import LabelledImages
from project.data.images import ImageData
from project.data.text import TextData
from project.messages import UsageError
from project.optimization.optimizers import parameter_groups

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


def configured(arguments: list[str]) -> ProjectCLI:
    """Return what arguments of `project.train` describe, on one device, with the data opened.

    Raises:
        UsageError: If the hand-written step could not do the same.
    """
    quieten_lightning()
    cli = ProjectCLI([*arguments, "--wandb.mode", "disabled"])
    if not hasattr(cli.model, "network") or not isinstance(cli.datamodule, ImageData | TextData):
        raise UsageError(
            f"the benchmark knows the batches of ImageData and TextData, not of "
            f"{type(cli.datamodule).__name__} with {type(cli.model).__name__}"
        )
    if (precision := cli.config.trainer.precision) not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UsageError(f"trainer.precision {precision} is not measured; choose of {known}")
    on_one_device(cli.config_init.trainer)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    return cli


def on_one_device(settings: Any) -> None:
    """Set what is `auto` of a Trainer: Lightning's may be a device that nothing else here uses.

    Raises:
        UsageError: If that leaves more than one process, or another kind of device.
    """
    meant = {"auto": device().type, "gpu": "cuda"}
    settings.accelerator = meant.get(settings.accelerator, settings.accelerator)
    if settings.accelerator not in ("cpu", device().type):
        raise UsageError(
            f"trainer.accelerator {settings.accelerator} is not measured here; choose of "
            f"{', '.join(sorted({'cpu', device().type}))}"
        )
    if settings.devices == "auto":
        settings.devices = 1
    if (str(settings.devices), settings.num_nodes) != ("1", 1):
        raise UsageError(
            f"trainer.devices {settings.devices} on {settings.num_nodes} nodes: one process is "
            "measured; set --trainer.devices 1 --trainer.num_nodes 1"
        )


def device_of(cli: ProjectCLI) -> torch.device:
    return torch.device(cli.config_init.trainer.accelerator)


def hand_written(cli: ProjectCLI) -> Callable[[Tensor, Tensor], None]:
    """Return one step, of (inputs, targets), as one writes it without Lightning."""
    settings = cli.config.trainer
    dtype = torch.bfloat16 if settings.precision == "bf16-true" else None
    network = cli.model.network.to(device_of(cli), dtype).train()
    speed = cli.config.speed
    torch.set_float32_matmul_precision(speed.matmul)
    if speed.threads:
        torch.set_num_threads(speed.threads)
    if speed.compile:
        network.compile()
    optimizer = (cli.model.optimizer or torch.optim.AdamW)(parameter_groups(network))
    return plain_step(network, optimizer, settings.precision, settings.gradient_clip_val)


def plain_step(
    network: nn.Module, optimizer: Optimizer, precision: str = "32-true", clip: float | None = None
) -> Callable[[Tensor, Tensor], None]:
    """Return a function that takes one step on (inputs, targets) by cross-entropy.

    Args:
        network: Is on the device that computes, and has the type of its inputs.
        precision: `bf16-mixed` computes in bfloat16 where that is safe, any other in the
            network's type.
        clip: Largest norm of the gradient.
    """
    parameters = list(network.parameters())
    place, dtype = parameters[0].device, parameters[0].dtype

    def step(inputs: Tensor, targets: Tensor) -> None:
        inputs, targets = inputs.to(place), targets.to(place)
        if inputs.is_floating_point():
            inputs = inputs.to(dtype)
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = network(inputs)  # (B, K) or (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()

    return step


def endless(data: Any, place: torch.device) -> Iterator[Any]:
    """Yield the batches of one epoch over and over, from images on the device."""
    for split in data.splits.values():
        if isinstance(split, LabelledImages):
            split.images, split.labels = split.images.to(place), split.labels.to(place)
    while True:
        yield from data.train_dataloader()
