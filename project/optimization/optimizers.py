"""From a network and two constructors to the optimizer and schedule that Lightning runs."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.optimization.schedule import WarmupDecay

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters by what an optimizer should do with them.

    Norms, biases and every other vector get no weight decay. Weight matrices of hidden linear,
    convolutional and recurrent layers are tagged `"hidden": True` for `MuonAdamW`; other
    optimizers ignore the tag. An output layer is told by its name, `head`.
    """
    hidden_layers = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)
    hidden: list[Tensor] = []
    other: list[Tensor] = []
    vectors: list[Tensor] = []
    seen: set[Tensor] = set()  # a tied weight belongs to the first module that holds it
    for module_name, module in network.named_modules():
        is_hidden = isinstance(module, hidden_layers) and module_name.split(".")[-1] != "head"
        for parameter in module.parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            if parameter.ndim < 2:
                vectors.append(parameter)
            elif is_hidden:
                hidden.append(parameter)
            else:
                other.append(parameter)
    groups = [
        {"params": hidden, "hidden": True},
        {"params": other, "hidden": False},
        {"params": vectors, "hidden": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def clip_gradients(
    task: LightningModule,
    optimizer: Optimizer,
    gradient_clip_val: float | None = None,
    gradient_clip_algorithm: str | None = None,
) -> None:
    """Do what the Trainer's settings of these names ask: a task's `configure_gradient_clipping`.

    By torch: Lightning (2.6.6) refuses to for a fused optimizer in mixed precision, also in
    bfloat16, in which gradients are not scaled (Lightning#21435). In float16 they are, and it is
    right.
    """
    if getattr(task.trainer.precision_plugin, "scaler", None) is not None:
        task.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
    elif gradient_clip_val and gradient_clip_algorithm == "value":
        nn.utils.clip_grad_value_(task.parameters(), gradient_clip_val)
    elif gradient_clip_val:
        nn.utils.clip_grad_norm_(task.parameters(), gradient_clip_val)


def scale_gradients(network: nn.Module, factor: float | Tensor) -> None:
    """Multiply every gradient, in place."""
    torch._foreach_mul_([p.grad for p in network.parameters() if p.grad is not None], factor)


def optimizer_and_schedule(
    network: nn.Module,
    optimizer_factory: OptimizerFactory | None,
    scheduler_factory: SchedulerFactory | None,
    trainer: Trainer,
) -> Any:
    """Return what `LightningModule.configure_optimizers` returns.

    Schedules advance once an optimizer step; `ReduceLROnPlateau` once an epoch, by the metric
    that it names.

    Args:
        optimizer_factory: By default AdamW with torch's own numbers.
        trainer: Knows the optimizer steps of the run, for a `WarmupDecay` that was not told.

    Raises:
        ValueError: If a `WarmupDecay` has to end but the run does not.
    """
    optimizer = (optimizer_factory or torch.optim.AdamW)(parameter_groups(network))
    if scheduler_factory is None:
        return optimizer
    try:
        scheduler = scheduler_factory(optimizer)
    except ValueError as error:
        if "total_steps" not in str(error):
            raise
        steps = int(trainer.estimated_stepping_batches)  # OneCycleLR, which must know the length
        scheduler = scheduler_factory(optimizer, total_steps=steps)  # type: ignore[call-arg]
    if isinstance(scheduler, ReduceLROnPlateau):
        plateau = {"scheduler": scheduler, "interval": "epoch", "monitor": scheduler.monitor}
        return {"optimizer": optimizer, "lr_scheduler": plateau}
    if isinstance(scheduler, WarmupDecay) and scheduler.total_steps is None:
        total_steps = trainer.estimated_stepping_batches
        if total_steps == math.inf:
            raise ValueError(
                "WarmupDecay needs the length of the run, but trainer.max_epochs and max_steps "
                "are -1; set one of them, or model.scheduler.total_steps"
            )
        scheduler.set_total_steps(int(total_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
