"""Learning rate over a run."""

import math
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupDecay(LRScheduler):
    """Rise linearly to the optimizer's `lr`, then fall to `final` of it by the last step.

    The task fills in `total_steps`, the optimizer steps of the whole run, when it is left out.
    Every parameter group keeps its share: the schedule multiplies each group's own `lr`.

    Args:
        optimizer: Its `lr` is the peak.
        warmup: Share of the run spent rising, in [0, 1).
        decay: `linear`, or `cosine` (Loshchilov & Hutter 2016, arXiv:1608.03983).
        final: Share of the peak left at the last step, in [0, 1].
        total_steps: Optimizer steps of the run; by default filled in by the task.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.05,
        decay: Literal["linear", "cosine"] = "cosine",
        final: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup {warmup} is a share of the run and must lie in [0, 1)")
        self.warmup = warmup
        self.decay = decay
        self.final = final
        self.total_steps = total_steps
        super().__init__(optimizer)

    def set_total_steps(self, total_steps: int) -> None:
        """Give the length of the run, before its first step."""
        self.total_steps = total_steps
        self.set_rates()

    def state_dict(self) -> dict[str, Any]:
        # The length is the run's and not the schedule's: a resumed run may be a longer one.
        return {k: v for k, v in super().state_dict().items() if k != "total_steps"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.set_rates()

    def set_rates(self) -> None:
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def get_lr(self) -> list[float | Tensor]:
        return [lr * self.multiplier(self.last_epoch) for lr in self.base_lrs]

    def multiplier(self, step: int) -> float:
        """Return the share of the peak for `step` in [0, total_steps): above 0 from the first."""
        if self.total_steps is None:
            return 1.0
        warmup_steps = self.warmup * self.total_steps
        if step + 1 < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / (self.total_steps - warmup_steps)
        done = min(max(done, 0.0), 1.0)
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final + (1 - self.final) * left
