"""Averaged weights, exactly the same after a resume."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMA
from torch import Tensor, nn


class EMAWeightAveraging(LightningEMA):
    """Lightning's exponential moving average of the weights, which leaves constants alone.

    Lightning's (2.6.6) averages every buffer. One that is not saved, such as GPT's table of angles,
    is a constant: averaged with itself it drifts by roundings that no checkpoint holds.

    Args:
        decay: Share of the average that a step keeps, in [0, 1).
        kwargs: As of Lightning's `EMAWeightAveraging`.
    """

    def __init__(self, decay: float = 0.999, **kwargs: Any) -> None:
        super().__init__(decay=decay, **kwargs)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        if self._average_model is not None:
            averaged = constants(self._average_model.module)
            for mine, its in zip(constants(pl_module), averaged, strict=True):
                its.copy_(mine)


def constants(module: nn.Module) -> Iterator[Tensor]:
    """Yield the buffers that are not saved."""
    for part in module.modules():
        for name in sorted(part._non_persistent_buffers_set):
            buffer = getattr(part, name)
            if buffer is not None:
                yield buffer
