"""How fast a run trains, where the time of a batch goes, and how much of a device that uses.

A GPU works behind the host, which runs ahead: the two are brought together where a figure is taken,
at logging steps and where training pauses, and nowhere else.
"""

import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from torch import Tensor, nn

from project.costs.flops import peak_flops, training_flops, without_numbers
from project.tracking.metrics_file import MetricsFile

ACTIONS = {  # of Lightning, and the part of a batch's time that they are
    "[_TrainingEpochLoop].train_dataloader_next": "data",
    "run_training_batch": "step",
    "[Callback]FiniteLoss.on_train_batch_end": "step",  # waits there for a GPU's forward pass
    "save_checkpoint": "checkpoint",
}
NOTHING = nullcontext()


class Stopwatch(Profiler):
    """Adds up the seconds of fetching batches, of training steps, and of checkpoints.

    A profiler of Lightning's, which tells it where each begins and ends, whatever the loader.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended = dict.fromkeys(ACTIONS.values(), 0.0)
        self.started: dict[str, float] = {}

    def profile(self, action_name: str) -> Any:
        """As `Profiler.profile`; most of the hundred actions of a step are none of ours."""
        return super().profile(action_name) if action_name in ACTIONS else NOTHING

    def start(self, action_name: str) -> None:
        if action_name in ACTIONS:
            self.started[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if (began := self.started.pop(action_name, None)) is not None:
            self.ended[ACTIONS[action_name]] += time.perf_counter() - began

    def seconds(self, part: str) -> float:
        """Return what a part has taken, with what is under way."""
        now = time.perf_counter()
        under_way = (now - t for action, t in self.started.items() if ACTIONS[action] == part)
        return self.ended[part] + sum(under_way)


class Throughput(Callback):
    """Measures training, without validations, checkpoints and set-up.

    Rates leave out the first batch after a start, in which kernels are chosen and compiled. The
    fetch of a batch right after a validation within an epoch is not counted either.

    Logs, every `log_every_n_steps`, to every logger but `metrics.csv`, which is the same for each
    repetition of a run:
        speed/images_per_second, or tokens_per_second by the task's `unit`: Over all processes.
        speed/batch_ms: Time of a batch on each process; of it, data_ms waiting for the batch,
            step_ms in forward, backward and optimizer, rest_ms in Lightning and callbacks.
        speed/mfu: Share of the devices' dense bfloat16 peak that the network's own operations
            make (Chowdhery et al. 2022, arXiv:2204.02311), where both are known.

    A resumed run goes on from the figures of its checkpoint; what was lost with the steps after
    it is not counted.

    Args:
        stopwatch: The Trainer's profiler; None where it has another one: then the parts of a
            batch's time are not known, and checkpoints count as training.
        device_peak: Of one device, FLOP/s; by default from the table in `flops.py`.
    """

    def __init__(
        self, stopwatch: Stopwatch | None = None, device_peak: float | None = None
    ) -> None:
        self.stopwatch = stopwatch
        self.device_peak = device_peak
        self.num_devices = 1
        self.unit = "images"
        self.flops_per_unit: float | None = None
        self.shapes: Any = None  # the network, until its operations are counted
        self.totals = dict.fromkeys(("units", "batches", "seconds", "data", "step", "warm_up"), 0.0)
        self.is_warm = False
        self.running_since: dict[str, float] | None = None  # while training steps are being taken
        self.logged = dict(self.totals)  # totals at the last logging step
        self.logged_step = -1
        self.latest: dict[str, float] = {}  # what was logged then
        self.has_ended = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        network = getattr(pl_module, "network", None)
        if stage == "fit" and isinstance(network, nn.Module):  # before a strategy shards it
            with suppress(Exception):  # what cannot be copied, such as torch's profiler in it
                self.shapes = without_numbers(network)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.has_ended = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.unit = getattr(pl_module, "unit", "images")
        self.num_devices = trainer.world_size
        device = trainer.strategy.root_device
        if device.type == "cuda" and self.device_peak is None:
            self.device_peak = peak_flops(torch.cuda.get_device_name(device))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.logged_step = trainer.global_step  # a sharded run is set back after `on_fit_start`

    def state_dict(self) -> dict[str, Any]:
        return {"totals": self.until_now(), "flops_per_unit": self.flops_per_unit}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.has_ended:
            return  # Lightning also hands over that of the best checkpoint, to be measured
        self.totals, self.flops_per_unit = state_dict["totals"], state_dict["flops_per_unit"]
        self.logged = dict(self.totals)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.go_on()

    def on_train_batch_start(self, *_: Any) -> None:
        self.go_on()  # after a validation within the epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.is_warm:
            self.wait_for_gpu()
            self.totals["warm_up"] += self.until_now()["seconds"] - self.totals["seconds"]
            self.count_flops(batch)  # draws nothing that counts: each step is seeded anew
            self.running_since, self.is_warm = self.clocks(), True
            return
        self.totals["batches"] += 1
        if (inputs := inputs_of(batch)) is not None:
            units = inputs.numel() if self.unit == "tokens" else len(inputs)
            self.totals["units"] += units * trainer.world_size
        every, step = trainer.log_every_n_steps, trainer.global_step  # type: ignore[attr-defined]
        if every and step % every == 0 and step != self.logged_step and trainer.is_global_zero:
            self.log_rates(trainer, step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pause()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pause()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pause()  # a run may end inside an epoch

    def count_flops(self, batch: Any) -> None:
        """Count the operations of the network on a batch like this, once."""
        shapes, self.shapes = self.shapes, None
        inputs = inputs_of(batch)
        if shapes is None or inputs is None or self.flops_per_unit is not None:
            return
        if (flops := training_flops(shapes, inputs)) is not None:
            units_per_row = inputs[0].numel() if self.unit == "tokens" else 1
            self.flops_per_unit = flops / units_per_row

    def log_rates(self, trainer: Trainer, step: int) -> None:
        self.wait_for_gpu()
        now = self.until_now()
        self.latest = self.rates({name: now[name] - self.logged[name] for name in now})
        self.logged, self.logged_step = now, step
        for logger in trainer.loggers:
            if not isinstance(logger, MetricsFile):
                named = {f"speed/{name}": value for name, value in self.latest.items()}
                logger.log_metrics(named, step - 1)  # Lightning counts logged steps from 0

    def rates(self, counted: Mapping[str, float]) -> dict[str, float]:
        """Return what the docstring names, of a stretch of training."""
        if counted["seconds"] <= 0 or counted["batches"] == 0:
            return {}
        found = {f"{self.unit}_per_second": counted["units"] / counted["seconds"]}
        milliseconds = {name: 1000 * counted[name] / counted["batches"] for name in counted}
        found["batch_ms"] = milliseconds["seconds"]
        if self.stopwatch is not None:
            known = milliseconds["data"] + milliseconds["step"]
            found["data_ms"], found["step_ms"] = milliseconds["data"], milliseconds["step"]
            found["rest_ms"] = max(0.0, milliseconds["seconds"] - known)
        if self.flops_per_unit and self.device_peak:
            peak = self.device_peak * self.num_devices
            found["mfu"] = found[f"{self.unit}_per_second"] * self.flops_per_unit / peak
        return found

    def record(self) -> dict[str, Any]:
        """Return what `run.json` holds of the whole training so far."""
        totals = self.until_now()
        found: dict[str, Any] = {}
        if seconds := totals["seconds"] + totals["warm_up"]:
            found["training_seconds"] = round(seconds, 2)
            found["warm_up_seconds"] = round(totals["warm_up"], 4)
        if rates := self.rates(totals):
            speed = f"{self.unit}_per_second"
            found[speed] = round(rates.pop(speed), 1)
            found["speed"] = {name: round(value, 4) for name, value in rates.items()}
        if self.flops_per_unit:
            found[f"flops_per_{self.unit.removesuffix('s')}"] = round(self.flops_per_unit)
        return found

    def shown(self) -> str:
        """Return the newest figures for a person, in a few words; nothing before the first."""
        if not self.latest:
            return ""
        mfu = f", {100 * self.latest['mfu']:.0f} % MFU" if "mfu" in self.latest else ""
        return f"{self.latest[f'{self.unit}_per_second']:,.0f} {self.unit}/s{mfu}"

    def go_on(self) -> None:
        if self.running_since is None:
            self.running_since = self.clocks()

    def pause(self) -> None:
        if self.running_since is not None:
            self.wait_for_gpu()
            self.totals, self.running_since = self.until_now(), None

    def wait_for_gpu(self) -> None:
        """Let the device catch up: what it has left to do is part of the steps."""
        if torch.cuda.is_initialized():
            began = time.perf_counter()
            torch.cuda.synchronize()
            if self.stopwatch is not None:
                self.stopwatch.ended["step"] += time.perf_counter() - began

    def until_now(self) -> dict[str, float]:
        """Return the totals with the stretch that is under way."""
        if self.running_since is None:
            return dict(self.totals)
        now, began = self.clocks(), self.running_since
        return self.totals | {name: self.totals[name] + now[name] - began[name] for name in now}

    def clocks(self) -> dict[str, float]:
        """Return seconds of training, of fetching and of steps, each from a start of its own."""
        now = time.perf_counter()
        if self.stopwatch is None:
            return {"seconds": now, "data": 0.0, "step": 0.0}
        data, step, checkpoint = map(self.stopwatch.seconds, ("data", "step", "checkpoint"))
        return {"seconds": now - checkpoint, "data": data, "step": step}


def inputs_of(batch: Any) -> Tensor | None:
    """Return what a network reads of a batch: its first tensor, (B, ...)."""
    first = batch[0] if isinstance(batch, tuple | list) and batch else None
    return first if isinstance(first, Tensor) else None
