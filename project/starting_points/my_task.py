"""A task, from batch to loss to metrics: say here in a line what is learnt, and how it is measured.

Shape letters: B batch, C channels, H height, W width, n images of a split.
"""

import math
import operator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from project.checkpoints.hyper_parameters import save_plain_hyperparameters
from project.data.loader import IGNORED, gather
from project.intervals import mean_interval
from project.optimization.optimizers import (
    OptimizerFactory,
    SchedulerFactory,
    optimizer_and_schedule,
)
from project.tasks.sizes import check_sizes


class MyTask(LightningModule):
    """Fit a network to take noise out of images: a denoising autoencoder, without labels.

    Source: Vincent et al. 2008, "Extracting and composing robust features with denoising
    autoencoders".

    Logs:
        train/squared_error: Of the batch, per pixel, in variances of the training pixels.
        {val,test}/squared_error: Of all images of the split.
        {val,test}/gain_db: How much less that is than the noise put in, in decibels.

    Args:
        network: Maps images (B, C, H, W) to as many numbers: `num_classes` is C H W.
        optimizer: Any torch optimizer, or `MuonAdamW`; by default AdamW with torch's numbers.
        scheduler: Any torch scheduler, counted in optimizer steps, or `WarmupDecay`.
        noise: Standard deviation, above 0; that of the training pixels is 1.

    Raises:
        ValueError: If `noise` is not above 0.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        noise: float = 0.5,
    ) -> None:
        super().__init__()
        if noise <= 0:
            raise ValueError(f"noise {noise} must be above 0: there would be nothing to take out")
        save_plain_hyperparameters(self)  # so that a checkpoint is loaded without arguments
        self.network, self.optimizer, self.scheduler = network, optimizer, scheduler
        self.noise = noise
        self.evaluated: list[Tensor] = []  # squared error of each image, (B,)

    def check_data(self, data: Any) -> None:
        """Stop before there is a run when the network does not suit the data.

        Raises:
            ValueError: With the value that it has, and the flag to set.
        """
        check_sizes(self.network, data, ("in_channels", "image_size"), operator.eq)
        pixels, has = data.in_channels * data.image_size**2, self.network.num_classes
        if has != pixels:
            raise ValueError(
                f"the network gives {has} numbers, and an image of the data has {pixels}; "
                f"set --model.network.num_classes {pixels}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) with less noise."""
        return self.network(images).view_as(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, _ = batch
        # Torch's generator is seeded before each step: a resumed run draws the same noise.
        noisy = images + self.noise * torch.randn_like(images)
        loss = (self(noisy) - images).square().mean()
        self.log("train/squared_error", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.finish_evaluation("val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.finish_evaluation("test")

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self.network, self.optimizer, self.scheduler, self.trainer)

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        draws = torch.Generator(images.device).manual_seed(batch_idx)  # the same in every epoch
        noise = torch.randn(images.shape, generator=draws, device=images.device)
        errors = (self(images + self.noise * noise) - images).square().mean(dim=(1, 2, 3))  # (B,)
        # An image that only fills up a batch, on several processes, is not counted.
        self.evaluated.append(errors.masked_fill(labels == IGNORED, torch.nan))

    def finish_evaluation(self, split: str) -> None:
        errors = gather(self, self.evaluated).double()  # (n,)
        self.evaluated = []
        errors = errors[~errors.isnan()]
        interval = mean_interval(errors.tolist(), [1] * len(errors))
        ends = interval and [self.gain_db(end) for end in reversed(interval)]
        error = errors.mean().item()
        # With these the table at the end has intervals, and `compare` tests image by image.
        self.measured: dict[str, Any] = {
            "squared_error": {"value": error, "interval_95": interval},
            "gain_db": {"value": self.gain_db(error), "interval_95": ends},
        }
        self.outcomes = {"losses": errors}
        metrics = {f"{split}/{name}": figure["value"] for name, figure in self.measured.items()}
        self.log_dict(metrics, prog_bar=True)

    def gain_db(self, squared_error: float) -> float:
        return 10 * math.log10(self.noise**2 / max(squared_error, 1e-12))
