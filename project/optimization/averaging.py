"""Averaged weights, exactly the same after a resume."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMA
from torch import Tensor, nn

from project.distributed.sharded_strategy import ShardedStrategy


class EMAWeightAveraging(LightningEMA):
    """Lightning's exponential moving average of the weights, which leaves constants alone.

    Lightning's (2.6.6) averages everything. A constant that is averaged with itself drifts by
    roundings: a frozen weight is no longer what it was, and one that is not saved, such as GPT's
    table of angles, is another one after a resume.

    Args:
        decay: Share of the average that a step keeps, in [0, 1).
        kwargs: As of Lightning's `EMAWeightAveraging`.
    """

    def __init__(self, decay: float = 0.999, **kwargs: Any) -> None:
        super().__init__(decay=decay, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the task without its factories: jsonargparse's hold all that the command has built.

        Processes that Lightning has started are among that, and cannot be copied.
        """
        attributes = vars(pl_module)
        factories = {name: v for name, v in attributes.items() if isinstance(v, partial)}
        attributes.update(dict.fromkeys(factories))
        super().setup(trainer, pl_module, stage)
        attributes.update(factories)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.strategy, ShardedStrategy) and self._average_model is not None:
            trainer.strategy.share_out(self._average_model.module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        if self._average_model is not None:
            averaged = self._average_model.module.modules()
            for mine, its in zip(pl_module.modules(), averaged, strict=True):
                for name, constant in constants(mine):
                    getattr(its, name).detach().copy_(constant)


def constants(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield, of a module without those in it, what training leaves as it is.

    Frozen parameters, buffers of frozen parts, which are in eval mode, and buffers that are not
    saved.
    """
    for name, parameter in part.named_parameters(recurse=False):
        if not parameter.requires_grad:
            yield name, parameter
    for name, buffer in part.named_buffers(recurse=False):
        if not part.training or name in part._non_persistent_buffers_set:
            yield name, buffer
