"""Image classification: how any network that returns logits is trained and measured.

Shape letters: B batch, C channels, H height, W width, K classes.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from project.checkpoints.hyper_parameters import save_plain_hyperparameters
from project.data.loader import IGNORED, gather
from project.optimization.optimizers import (
    OptimizerFactory,
    SchedulerFactory,
    clip_gradients,
    optimizer_and_schedule,
    scale_gradients,
)
from project.tasks.attacks import ProjectedGradientDescent, is_right
from project.tasks.results import image_results, share_right
from project.tasks.sizes import check_sizes


class ImageClassification(LightningModule):
    """Fit a network to labelled images with cross-entropy.

    A batch is `(images, labels)`: images float (B, C, H, W) as the network expects them, labels
    int64 (B,) in [0, K), or -100 where an image is not to be counted.

    Logs:
        train/loss: Of the batch, with label smoothing, in nats; every `log_every_n_steps`.
        train/learning_rate: Of the first parameter group, beside it.
        train/accuracy: Share of the epoch's images (augmented, attacked, with dropout) predicted
            right.
        {val,test}/loss: Negative log-likelihood without label smoothing, nats per image.
        {val,test}/accuracy: Share of images predicted right, from exact counts over all batches
            and processes.
        {val,test}/robust_accuracy: Share still right after the attack, in the precision of the
            weights, without autocast; where there is an attack. The draws are the same in every
            evaluation.

    Args:
        network: Maps images (B, C, H, W) to logits (B, K).
        optimizer: Any torch optimizer, or `MuonAdamW`; by default AdamW with torch's numbers.
        scheduler: Any torch scheduler, counted in optimizer steps, or `WarmupDecay`.
        label_smoothing: Share of the target spread over all classes in training, in [0, 1].
        attack: Adversarial training: images are attacked before each step, in evaluation mode,
            and the step is on the attacked ones alone. Null for plain training.

    Attributes:
        confusion: Counts int64 (K, K) of the last evaluation, row true class, column predicted.
        measured: Accuracy and loss with intervals and counts, of the last evaluation.
        outcomes: Its labels, predictions, confidences and losses, in the order of the data, (n,).
    """

    unit = "images"  # of the throughput

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        label_smoothing: float = 0.0,
        attack: ProjectedGradientDescent | None = None,
    ) -> None:
        super().__init__()
        save_plain_hyperparameters(self)
        self.network = network
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.label_smoothing = label_smoothing
        self.attack = attack
        self.measured: dict[str, Any] = {}
        self.outcomes: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            self.check_data(data)
        if self.attack is not None and stage != "predict":
            self.pixel_limits = pixel_limits(data)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def on_train_epoch_start(self) -> None:
        self.load_epoch_state({})

    def epoch_state(self) -> dict[str, Any]:
        """Return what this process has added up in this epoch; goes into the resume point."""
        return {"train_counts": self.train_counts}

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        """Go on from what `epoch_state` returned; from nothing at the start of an epoch."""
        nothing = torch.zeros(2, dtype=torch.int64, device=self.device)  # right, all
        self.train_counts = state.get("train_counts", nothing)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.attack is not None:
            images = self.attacked(images, labels)
        logits = self(images)  # (B, K)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.train_counts[0] += (logits.argmax(dim=1) == labels).sum()
        self.train_counts[1] += len(labels)
        # Lightning keeps nothing of the steps between, and a call costs as much as a small step.
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def attacked(
        self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return normalised images (B, C, H, W), each changed so as to be mistaken."""
        assert self.attack is not None
        low, high = self.pixel_limits = self.pixel_limits.to(images)  # copied once
        return self.attack(self.network, images, labels, low, high, generator)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Make the gradient that of the mean over the batches since the last step.

        Lightning divides by `accumulate_grad_batches`, also in the last accumulation of an epoch,
        which may be a short one.
        """
        steps = self.trainer.accumulate_grad_batches
        taken = self.trainer.fit_loop.epoch_loop.batch_idx % steps + 1
        if taken < steps:
            scale_gradients(self.network, steps / taken)

    configure_gradient_clipping = clip_gradients

    def on_train_epoch_end(self) -> None:
        right, count = self.trainer.strategy.reduce(self.train_counts, reduce_op="sum")
        self.log("train/accuracy", right / count)

    def on_validation_epoch_start(self) -> None:
        self.start_evaluation()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.finish_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self.start_evaluation()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.finish_evaluation("test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, _ = batch
        return self(images).softmax(dim=1)  # (B, K)

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self.network, self.optimizer, self.scheduler, self.trainer)

    def check_data(self, data: Any) -> None:
        """Stop before training when the network was built for text, or other images.

        Compares `in_channels`, `image_size` and `num_classes` where both sides have them.

        Raises:
            ValueError: With every value, what the data have, and the flags to set.
        """
        if hasattr(self.network, "vocab_size"):
            raise ValueError(
                f"{type(self.network).__name__} reads text; set --model.network to one for images: "
                "MLP, CNN, RNN, ViT; or begin from a config of a text, such as docs_transformer"
            )
        names = ("in_channels", "image_size", "num_classes")
        check_sizes(self.network, data, names, operator.eq)

    def start_evaluation(self) -> None:
        self.evaluated: list[tuple[Tensor, ...]] = []  # labels, logits' verdicts and losses, (B,)
        self.num_logits = 0

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Keep what becomes of each image; those with label -100 are dropped later."""
        images, labels = batch
        logits = self(images).float()  # (B, K)
        confidence, predicted = logits.softmax(dim=1).max(dim=1)  # (B,)
        losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
        robust = self.is_robust(images, labels, batch_idx)
        self.evaluated.append((labels, predicted, confidence, losses, robust))
        self.num_logits = logits.shape[1]

    def is_robust(self, images: Tensor, labels: Tensor, batch_idx: int) -> Tensor:
        """Return whether each image is still right after the attack, bool (B,); no without one."""
        if self.attack is None:
            return torch.zeros_like(labels, dtype=torch.bool)
        # Lightning evaluates in inference mode, whose tensors take no gradient: hence the clones.
        with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            images, labels = images.clone(), labels.clone()
            draws = torch.Generator().manual_seed(batch_idx)
            return is_right(self.network, self.attacked(images, labels, draws), labels)

    def finish_evaluation(self, split: str) -> None:
        """Put together what the processes have and log it under `split`."""
        labels, predicted, confidence, losses, robust = (
            gather(self, list(parts)) for parts in zip(*self.evaluated, strict=True)
        )
        counted = labels != IGNORED
        self.outcomes = {
            "labels": labels[counted],
            "predicted": predicted[counted],
            "confidence": confidence[counted],
            "losses": losses[counted],
        }
        cells = self.outcomes["labels"] * self.num_logits + self.outcomes["predicted"]
        confusion = torch.bincount(cells, minlength=self.num_logits**2)
        self.confusion = confusion.view(self.num_logits, self.num_logits)
        self.measured = image_results(self.confusion, self.outcomes["losses"])
        names = ["accuracy", "loss"]
        if self.attack is not None:
            right, count = int(robust[counted].sum()), int(counted.sum())
            self.measured["robust_accuracy"] = share_right(right, count)
            names.append("robust_accuracy")
        metrics = {f"{split}/{name}": self.measured[name]["value"] for name in names}
        self.log_dict(metrics, prog_bar=True)


def pixel_limits(data: Any) -> Tensor:
    """Return what black and white are after normalisation, float32 (2, C, 1, 1).

    Raises:
        ValueError: If the data do not say how they normalise.
    """
    if not hasattr(data, "scale_and_offset"):
        raise ValueError(
            "the size of an attack is in pixels of [0, 1], and the data do not say how they were "
            "normalised: give the data module `scale_and_offset`, float (2, C, 1, 1) for pixels in "
            "[0, 255], as ImageData has, or leave out --model.attack"
        )
    scale, offset = data.scale_and_offset
    return torch.stack([offset, 255 * scale + offset])
