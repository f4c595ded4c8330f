"""How much electricity training takes, by codecarbon's offline tracker: no network is ever asked.

Counted are the processors and the memory of the whole machine, with whatever else runs on it, and
the GPUs of the run. Counters of the hardware (RAPL, NVML) measure; where there are none, codecarbon
models: processors by their load and their power at full load, memory by DIMMs that it guesses from
its size. `energy` in `run.json` says of each which it was.
"""

import csv
import logging
import os
import threading
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from project.costs.grid import data_file, grid_of
from project.distributed.processes import of_all_processes
from project.messages import warn

READ_SECONDS = 15.0  # a counter of RAPL runs over after minutes
WAIT_SECONDS = 1.0  # at the end of a fit, for a meter that has not begun
PARTS = ("cpu", "gpu", "ram")
SETTINGS: dict[str, Any] = {  # all that a user's .codecarbon.config could turn to a network or file
    "output_methods": [],
    "output_handlers": [],
    "emissions_endpoint": None,
    "electricitymaps_api_token": "",
    "country_iso_code": None,  # grams are counted here, with the year and source of their factor
    "country_2letter_iso_code": None,
    "region": None,
    "cloud_provider": None,
    "cloud_region": None,
    "force_carbon_intensity_g_co2e_kwh": None,
    "tracking_mode": "machine",
    "allow_multiple_runs": True,
    "force_mode_cpu_load": False,
    "rapl_include_dram": False,
    "rapl_prefer_psys": False,
    "pue": 1.0,
    "wue": 0.0,
    "output_dir": ".",
    "log_level": "critical",
    "measure_power_secs": 86_400.0,  # read here, under a lock
}
# Of the tracker. Its `flush` and `stop` would import requests, to ask a network where it is.
PRIVATE = (
    "_hardware",
    "_start_time",
    "_last_measured_time",
    "_force_cpu_power",
    "_measure_power_and_energy_if_stale",
    *(f"_total_{part}_energy" for part in PARTS),
    "_scheduler",
    "_scheduler_monitor_power",
)


class EnergyMeter(Callback):
    """Measures the energy of fitting: training steps, validations and checkpoints.

    A resumed run adds up its sessions. What a session used after the checkpoint that it is resumed
    from is lost, as are the first tenths of a second, in which codecarbon is imported beside the
    first steps. Of several processes one a node measures, the first; the nodes are added up.

    Args:
        settings: What `Energy` takes.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.meter: Meter | None = None
        self.before: dict[str, Any] = {}  # of earlier sessions
        self.others: dict[str, Any] = {}  # of other nodes

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.settings.measure and trainer.local_rank == 0:
            gpus = gpus_of(trainer.strategy.root_device, trainer.device_ids)
            self.meter = Meter(gpus, self.settings.cpu_watts, self.settings.ram_watts)
            self.meter.start()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "resume" in checkpoint:  # by `ResumePoint`, on all processes
            self.ask_other_nodes(trainer)
            checkpoint["resume"]["energy"] = self.total()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "resume" in checkpoint:  # and not in the best one; the first process alone records it
            self.before = checkpoint["resume"].get("energy", {})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop()
        self.ask_other_nodes(trainer)

    def on_exception(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        if self.meter is not None and (problem := self.meter.stop()):
            part = " to the end" if self.meter.used else ""
            warn(f"energy is not measured{part}: {problem}; --energy.measure false does not try")

    def ask_other_nodes(self, trainer: Trainer) -> None:
        if trainer.num_nodes > 1:
            self.others = {}
            for used in of_all_processes(trainer, self.session())[1:]:
                self.others = added(self.others, used)

    def session(self) -> dict[str, Any]:
        """Return what this node has used since the start, with its CO2e."""
        used = {} if self.meter is None else self.meter.read()
        if not used:
            return {}
        used["gco2e"] = kwh_of(used) * self.grid["grams_per_kwh"]
        return used | {"grid": self.grid}

    @cached_property
    def grid(self) -> dict[str, Any]:
        return grid_of(self.settings.country, self.settings.grams_per_kwh)

    def total(self) -> dict[str, Any]:
        return added(added(self.before, self.session()), self.others)

    def record(self) -> dict[str, Any]:
        """Return what `run.json` holds; nothing before something was measured."""
        total = self.total()
        return {"energy_kwh": kwh_of(total), "energy": total} if total else {}


class Meter:
    """Counts the energy of this machine from `start` to `stop`.

    `start` comes back at once: a thread imports codecarbon and begins to count.

    Args:
        gpus: Indices or UUIDs of those to count; of none, none is.
        cpu_watts: Of all processors at full load, where no counter measures them.
        ram_watts: Of the memory.
    """

    def __init__(
        self,
        gpus: list[Any],
        cpu_watts: float | None = None,
        ram_watts: float | None = None,
    ) -> None:
        self.settings = SETTINGS | {"gpu_ids": gpus, "force_ram_power": ram_watts}
        self.cpu_watts = cpu_watts
        self.parts = PARTS if gpus else ("cpu", "ram")
        self.tracker: Any = None
        self.used: dict[str, Any] = {}  # at the last reading
        self.problem = ""
        self.lock = threading.Lock()
        self.begun, self.ended = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, name="energy", daemon=True)

    def start(self, wait: bool = False) -> None:
        """Begin; with `wait`, come back when counting has begun or failed."""
        self.thread.start()
        if wait:
            self.begun.wait()

    def stop(self) -> str:
        """Read for the last time; return what went wrong, or nothing."""
        self.ended.set()
        self.thread.join(WAIT_SECONDS)
        self.read()
        tracker, self.tracker = self.tracker, None
        if tracker is not None:
            halt(tracker)
        return self.problem

    def read(self) -> dict[str, Any]:
        """Return the seconds and, of each part, kWh and how they are known; {} before it began.

        While it is being read, as when a signal's handler asks, that of the reading before.
        """
        if self.lock.acquire(blocking=False):
            try:
                if self.tracker is not None and not self.problem:
                    self.used = reading(self.tracker, self.parts)
            except Exception as error:  # whatever a counter of some hardware does
                self.problem = in_a_line(error)
            finally:
                self.lock.release()
        return dict(self.used)

    def run(self) -> None:
        try:
            tracker = started_tracker(self.settings, self.cpu_watts)
        except Exception as error:  # none may end a run
            self.problem = in_a_line(error)
            self.begun.set()
            return
        if self.ended.is_set():  # the fit was shorter than the start
            halt(tracker)
            return
        self.tracker = tracker
        self.begun.set()
        while not self.ended.wait(READ_SECONDS):
            self.read()


def started_tracker(settings: dict[str, Any], cpu_watts: float | None) -> Any:
    """Return a tracker of codecarbon that counts.

    Raises:
        RuntimeError: If this codecarbon has other fields, or could not start.
    """
    logging.getLogger("codecarbon").disabled = True
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.core import cpu

    has_counter = cpu.is_rapl_available()
    with suppress(Exception):  # then codecarbon finds it out by itself
        save_codecarbon_two_seconds(has_counter)
    tracker = OfflineEmissionsTracker(
        **settings, force_cpu_power=None if has_counter else cpu_watts
    )
    tracker.start()  # an error in it is logged, and not raised
    lacking = [name for name in PRIVATE if not hasattr(tracker, name)]
    if lacking or tracker._start_time is None:
        reason = f"has no {', '.join(lacking)}" if lacking else "could not start its tracker"
        raise RuntimeError(f"codecarbon {version('codecarbon')} {reason}")
    return tracker


def save_codecarbon_two_seconds(has_counter: bool) -> None:
    """Tell codecarbon what processor this is, and its power.

    To find out, it starts another Python (py-cpuinfo, a second) and imports pandas.
    """
    import cpuinfo
    from codecarbon.core import hardware_cache, util

    cache: Any = hardware_cache

    name = processor_name()
    ask = cpuinfo.get_cpu_info
    cpuinfo.get_cpu_info = lambda: {"brand_raw": name}
    try:
        util.detect_cpu_model()  # which remembers
    finally:
        cpuinfo.get_cpu_info = ask
    if not has_counter:
        cache._tdp = SimpleNamespace(model=name, tdp=full_load_watts(name))


def processor_name() -> str:
    """Return the name that Linux and py-cpuinfo have for the processor.

    Raises:
        LookupError: Where the system does not say it.
    """
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    raise LookupError("no model name in /proc/cpuinfo")


def full_load_watts(processor: str) -> float:
    """Return the power of one processor at full load, as codecarbon would, W.

    From its table (TDP); of one that it does not know, 4 W a thread.
    """
    from codecarbon.core import cpu, util

    watts: dict[str, str] = {}  # some are no numbers
    with open(data_file("hardware/cpu_power.csv"), encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            watts.setdefault(row["Name"], row["TDP"])
    match: Any = cpu.TDP._get_matching_cpu
    known = match(None, processor, {"Name": list(watts)})
    return float(watts[known]) if known else util.count_cpus() * cpu.DEFAULT_POWER_PER_CORE


def reading(tracker: Any, parts: tuple[str, ...]) -> dict[str, Any]:
    tracker._measure_power_and_energy_if_stale()
    used: dict[str, Any] = {"seconds": tracker._last_measured_time - tracker._start_time}
    for part, (basis, by) in basis_of(tracker).items():
        if part in parts:
            kwh = float(getattr(tracker, f"_total_{part}_energy").kWh)
            used[part] = {"kwh": kwh, "basis": basis, "by": by}
    found = tracker.get_detected_hardware()
    used["hardware"] = {"cpu": found["cpu_model"], "ram_gib": found["ram_total_size"]}
    if "gpu" in used:
        used["hardware"]["gpu"] = found["gpu_model"]
    return used | {"pue": SETTINGS["pue"], "codecarbon": version("codecarbon")}


def kwh_of(used: dict[str, Any]) -> float:
    return sum(used[part]["kwh"] for part in PARTS if part in used)


def basis_of(tracker: Any) -> dict[str, tuple[str, str]]:
    """Return {part: (measured or modelled, by what)}."""
    found = {}
    is_given = tracker._force_cpu_power is not None
    source = "as given" if is_given else "of codecarbon's table, or 4 W a thread"
    for item in tracker._hardware:
        match type(item).__name__:
            case "CPU" if item._mode == "cpu_load":
                found["cpu"] = ("modelled", f"its load; full load {item._tdp:g} W, {source}")
            case "CPU" if item._mode == "constant":
                found["cpu"] = ("modelled", f"half of {item._tdp:g} W")
            case "CPU":
                counter = {"intel_rapl": "RAPL counter"}.get(item._mode, item._mode)
                found["cpu"] = ("measured", counter)
            case "GPU":
                counted = all(device._has_counter for device in item.devices.devices)
                how = "energy counter" if counted else "power, once a second"
                found["gpu"] = ("measured", f"NVML, {how}")
            case "RAM":
                watts, size = item.total_power().W, item.machine_memory_GB
                given = item._force_ram_power is not None
                how = "as given" if given else f"guessed from its {size:.0f} GiB"
                found["ram"] = ("modelled", f"{watts:g} W, {how}")
            case other:  # Apple's chip, the Raspberry Pi
                found[item.chip_part.lower()] = ("measured", other)
    return found


def halt(tracker: Any) -> None:
    """Stop the timers of a tracker."""
    for timer in (tracker._scheduler, tracker._scheduler_monitor_power):
        timer.stop()


def gpus_of(device: torch.device, indices: list[int]) -> list[Any]:
    """Return GPUs as NVML knows them, by index or UUID; torch counts those that are visible."""
    if device.type != "cuda":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [visible.split(",")[i] for i in indices] if visible else list(indices)


def added(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Return the sum of what two sessions or nodes used; how it is known is that of the second."""
    if not a or not b:
        return a or b
    total = a | b | {name: a[name] + b[name] for name in ("seconds", "gco2e")}
    for part in (part for part in PARTS if part in a and part in b):
        same = a[part]["basis"] == b[part]["basis"]
        total[part] = b[part] | {
            "kwh": a[part]["kwh"] + b[part]["kwh"],
            "basis": b[part]["basis"] if same else "partly modelled",
        }
    return total


def in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
