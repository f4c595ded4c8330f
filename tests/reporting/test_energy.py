"""Energy is counted right, asks no network, adds up over sessions, and never touches a run."""

import json
import os
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from project.configuration import PACKAGE, Energy
from project.costs import energy
from project.costs.energy import EnergyMeter, Meter, added
from project.costs.grid import check_energy, grid_of
from project.messages import UsageError
from project.reporting import energy as report
from project.reporting.subject import Subject, open_subject
from project.training.closing_table import closing_table
from project.training.command import command

SHORT = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--model.network.width=8",
         "--trainer.limit_train_batches=4", "--trainer.enable_progress_bar=false"]  # fmt: skip
USED = {
    "seconds": 10.0,
    "cpu": {"kwh": 3.0, "basis": "modelled", "by": "load"},
    "ram": {"kwh": 1.0, "basis": "modelled", "by": "20 W"},
}


@pytest.fixture
def metered(monkeypatch) -> list[Any]:
    """Meters that count 4 kWh in 10 s, at once; the list of those that were started."""
    started: list[Any] = []

    class Constant(Meter):
        def start(self, wait: bool = False) -> None:
            started.append(self)

        def read(self) -> dict[str, Any]:
            return dict(USED)

        def stop(self) -> str:
            return ""

    monkeypatch.setattr(energy, "Meter", Constant)
    return started


def run_and_record() -> tuple[Path, dict[str, Any]]:
    (path,) = Path("runs").glob("*/run.json")
    return path.parent, json.loads(path.read_text())


HOSTILE = """\
[codecarbon]
output_methods = api,csv,prometheus,boamps
save_to_api = true
api_endpoint = http://127.0.0.1:9
emissions_endpoint = http://127.0.0.1:9
electricitymaps_api_token = secret
co2_signal_api_token = secret
cloud_provider = gcp
cloud_region = europe-west1
pue = 3
force_carbon_intensity_g_co2e_kwh = 1
log_level = debug
"""
WATCHED = """\
import os, sys, threading
asked = []
def watch(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        asked.append((event, str(arguments)))
        raise OSError("no network in this test")
sys.addaudithook(watch)
from project.training.command import command
assert "codecarbon" not in sys.modules
code = command(sys.argv[1:])
print("ASKED", asked)
print("HEAVY", sorted({"pandas", "requests"} & set(sys.modules)))
print("IS THERE", "codecarbon" in sys.modules)
print("LEFT", [t.name for t in threading.enumerate() if t.name == "energy"])
sys.exit(code)
"""


def test_a_whole_run_asks_no_network_writes_no_file_and_says_nothing(tmp_path) -> None:
    """Whatever a user's own configuration of codecarbon says."""
    for folder in (home := tmp_path / "home", here := tmp_path / "here"):
        folder.mkdir()
        (folder / ".codecarbon.config").write_text(HOSTILE)
    variables = {"HOME": str(home), "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1",
                 "CODECARBON_OUTPUT_METHODS": "api", "CODECARBON_LOG_LEVEL": "debug"}  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", WATCHED, *SHORT, "--trainer.limit_train_batches=30"],
        cwd=here, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "ASKED []" in ran.stdout, ran.stdout
    assert "HEAVY []" in ran.stdout, ran.stdout
    assert "IS THERE True" in ran.stdout
    assert "LEFT []" in ran.stdout
    assert "carbon" not in ran.stderr
    assert {path.name for path in here.iterdir()} == {".codecarbon.config", "runs"}
    assert {path.name for path in home.iterdir()} <= {".codecarbon.config", ".cache", ".config"}
    (path,) = here.glob("runs/*/run.json")
    record = json.loads(path.read_text())
    assert record["energy"]["pue"] == 1
    assert record["energy"]["grid"]["grams_per_kwh"] == 475
    names = {file.name for file in path.parent.iterdir()}
    assert not [name for name in names if "emission" in name or "energy" in name]
    assert "energy" not in (path.parent / "metrics.csv").read_text()


def test_watts_times_seconds_are_kilowatt_hours() -> None:
    """3.6 MW of memory are 1 kWh a second, as far as the meter counts, and no other second."""
    meter = Meter([], cpu_watts=0.0, ram_watts=3.6e6)
    meter.start(wait=True)
    began = time.perf_counter()
    readings = [meter.read()]
    for _ in range(3):
        time.sleep(0.2)
        readings.append(meter.read())
    assert meter.stop() == ""
    passed = time.perf_counter() - began
    for earlier, later in pairwise(readings):
        assert later["ram"]["kwh"] - earlier["ram"]["kwh"] == pytest.approx(0.2, abs=0.1)
    last = meter.used
    assert last["ram"]["kwh"] == pytest.approx(last["seconds"], rel=0.05)
    assert passed - 0.1 < last["seconds"] < passed + 0.3
    assert last["ram"] | {"kwh": 0} == {
        "kwh": 0, "basis": "modelled", "by": "3.6e+06 W, as given"
    }  # fmt: skip
    assert set(last) & set(energy.PARTS) == {"cpu", "ram"}  # no GPU was asked for
    assert last["hardware"]["cpu"]
    assert meter.read() == last  # nothing is counted after the end


def test_the_processors_of_a_known_load_take_their_watts() -> None:
    meter = Meter([], cpu_watts=3.6e6, ram_watts=0.0)
    meter.start(wait=True)
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until:
        pass
    meter.stop()
    used = meter.used
    if used["cpu"]["basis"] == "modelled":
        assert 0.09 * used["seconds"] < used["cpu"]["kwh"] < 1.01 * used["seconds"]
        assert "full load 3.6e+06 W, as given" in used["cpu"]["by"]


def test_a_start_comes_back_at_once_and_a_late_meter_is_not_waited_for(monkeypatch) -> None:
    halted = []
    monkeypatch.setattr(energy, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(energy, "started_tracker", lambda *_: time.sleep(0.5))
    monkeypatch.setattr(energy, "halt", halted.append)
    began = time.perf_counter()
    meter = Meter([])
    meter.start()
    assert meter.stop() == ""
    assert time.perf_counter() - began < 0.3
    assert meter.read() == {}
    meter.thread.join()
    assert halted == [None]  # its timers do not outlive the run


def test_a_handler_of_a_signal_never_waits_for_the_reading_it_interrupts(monkeypatch) -> None:
    meter = Meter([])
    meter.tracker, meter.used = object(), USED

    def interrupted(*_: Any) -> dict[str, Any]:
        assert meter.read() == USED  # as the handler of a second Ctrl-C does
        return USED | {"seconds": 11.0}

    monkeypatch.setattr(energy, "reading", interrupted)
    began = time.perf_counter()
    assert meter.read()["seconds"] == 11
    assert time.perf_counter() - began < 0.5
    assert meter.problem == ""


def test_no_random_number_is_drawn() -> None:
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    meter = Meter([])
    meter.start(wait=True)
    meter.stop()
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_tracker_that_fails_is_one_warning_and_no_lost_run(monkeypatch, capsys) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError("the counter\nis locked")

    monkeypatch.setattr(energy, "started_tracker", fail)
    assert command(SHORT) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "energy" in line]
    assert warnings == [
        "warning: energy is not measured: PermissionError: the counter is locked; "
        "--energy.measure false does not try"
    ]
    _, record = run_and_record()
    assert record["status"] == "finished"
    assert not {"energy", "energy_kwh"} & record.keys()


def test_a_counter_that_breaks_keeps_what_was_read_before(monkeypatch) -> None:
    meter = Meter([], ram_watts=3.6e6)
    meter.start(wait=True)
    time.sleep(0.1)
    before = meter.read()
    monkeypatch.setattr(energy, "reading", lambda *_: 1 / 0)
    assert meter.read() == before
    assert meter.stop() == "ZeroDivisionError: division by zero"
    assert meter.used == before
    assert before["ram"]["kwh"] > 0.05


def test_sessions_are_added_up_also_by_one_that_does_not_measure(metered, capsys) -> None:
    assert command([*SHORT, "--energy.grams_per_kwh=100"]) == 0
    directory, record = run_and_record()
    assert record["energy_kwh"] == 4
    assert record["energy"]["gco2e"] == 400
    shown = capsys.readouterr().out
    assert "4e+03 Wh, modelled; 400 g CO2e" in shown
    assert command(["--resume", str(directory), "--trainer.max_epochs=2"]) == 0
    _, record = run_and_record()
    assert record["energy_kwh"] == 8
    assert record["energy"]["seconds"] == 20
    assert record["energy"]["cpu"] == {"kwh": 6, "basis": "modelled", "by": "load"}
    typed = ["--trainer.max_epochs=3", "--energy.measure=false", "--energy.grams_per_kwh=1"]
    assert command(["--resume", str(directory), *typed]) == 0  # and it is no other run
    _, record = run_and_record()
    assert (record["energy_kwh"], record["energy"]["gco2e"]) == (8, 800)
    assert len(metered) == 2
    assert "energy" not in (directory / "metrics.csv").read_text()


def test_one_process_a_node_measures_and_nodes_are_added_up(metered, monkeypatch) -> None:
    """Four processes on two nodes; what came before is counted once."""
    meters, checkpoint = [EnergyMeter(Energy()) for _ in range(4)], {"resume": {"energy": {}}}
    trainers = [
        SimpleNamespace(
            local_rank=rank % 2, is_global_zero=rank == 0, num_nodes=2, world_size=4,
            device_ids=[0], strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        for rank in range(4)
    ]  # fmt: skip
    checkpoint["resume"]["energy"] = USED | {"gco2e": 1900.0}
    monkeypatch.setattr(energy, "of_all_processes", lambda *_: [m.session() for m in meters])
    for meter, trainer in zip(meters, trainers, strict=True):
        meter.on_load_checkpoint(trainer, None, checkpoint)
        meter.on_fit_start(trainer, None)
    assert len(metered) == 2
    for meter, trainer in zip(meters, trainers, strict=True):
        saved: dict[str, Any] = {"resume": {}}
        meter.on_save_checkpoint(trainer, None, saved)
        if trainer.is_global_zero:
            assert saved["resume"]["energy"]["seconds"] == 30
        meter.on_fit_end(trainer, None)
    assert meters[0].record()["energy_kwh"] == 12
    assert meters[0].record()["energy"]["gco2e"] == 12 * 475
    best: dict[str, Any] = {}
    meters[0].on_save_checkpoint(trainers[0], None, best)  # not all processes may be in it
    assert best == {}


def test_measured_and_modelled_are_not_mixed_up() -> None:
    now = USED | {"gco2e": 1.0, "cpu": {"kwh": 5.0, "basis": "measured", "by": "RAPL counter"}}
    total = added(USED | {"gco2e": 2.0}, now)
    assert total["cpu"] == {"kwh": 8, "basis": "partly modelled", "by": "RAPL counter"}
    assert total["ram"]["basis"] == "modelled"
    assert (total["seconds"], total["gco2e"]) == (20, 3)
    assert added({}, now) == added(now, {}) == now
    gpu = added(USED | {"gco2e": 2.0}, now | {"gpu": {"kwh": 7.0, "basis": "measured", "by": "-"}})
    assert gpu["gpu"]["kwh"] == 7


def hardware(kind: str, **fields: Any) -> Any:
    part = type(kind, (SimpleNamespace,), {})
    return part(**fields)


def test_what_measured_and_what_was_modelled_by_what() -> None:
    power = SimpleNamespace(W=20.0)
    ram = hardware("RAM", total_power=lambda: power, machine_memory_GB=23.5, _force_ram_power=None)
    devices = [SimpleNamespace(_has_counter=True), SimpleNamespace(_has_counter=False)]
    for parts, part, says in [
        ([hardware("CPU", _mode="intel_rapl")], "cpu", ("measured", "RAPL counter")),
        ([hardware("CPU", _mode="windows_emi")], "cpu", ("measured", "windows_emi")),
        ([hardware("CPU", _mode="constant", _tdp=85)], "cpu", ("modelled", "half of 85 W")),
        ([ram], "ram", ("modelled", "20 W, guessed from its 24 GiB")),
        ([hardware("AppleSiliconChip", chip_part="GPU")], "gpu", ("measured", "AppleSiliconChip")),
        ([hardware("GPU", devices=SimpleNamespace(devices=devices[:1]))], "gpu",
         ("measured", "NVML, energy counter")),
        ([hardware("GPU", devices=SimpleNamespace(devices=devices))], "gpu",
         ("measured", "NVML, power, once a second")),
    ]:  # fmt: skip
        tracker = SimpleNamespace(_hardware=parts, _force_cpu_power=None)
        assert energy.basis_of(tracker)[part] == says


@pytest.mark.parametrize(
    "name",
    ["Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz", "AMD EPYC 7763 64-Core Processor",
     "AMD Ryzen 9 5950X 16-Core Processor", "AMD EPYC", "no such processor"],
)  # fmt: skip
def test_the_power_of_a_processor_is_that_of_codecarbon(name) -> None:
    from codecarbon.core import cpu, util

    own = object.__new__(cpu.TDP)._get_cpu_power_from_registry(name)  # imports pandas
    assert energy.full_load_watts(name) == (own or 4 * util.count_cpus())


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux alone has /proc/cpuinfo")
def test_the_name_of_the_processor_is_that_of_codecarbon() -> None:
    import cpuinfo

    try:
        mine = energy.processor_name()
    except LookupError:  # ARM: codecarbon finds it by itself
        return
    assert mine == cpuinfo.get_cpu_info()["brand_raw"]


def test_gpus_of_others_are_not_counted() -> None:
    assert Meter([]).parts == ("cpu", "ram")
    assert Meter(["4"]).parts == energy.PARTS
    assert Meter(["4"]).settings["gpu_ids"] == ["4"]


def test_gpus_are_named_as_the_driver_counts_them(monkeypatch) -> None:
    cuda = torch.device("cuda", 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert energy.gpus_of(cuda, [0, 1]) == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-af")
    assert energy.gpus_of(cuda, [1, 0]) == ["GPU-af", "4"]
    assert energy.gpus_of(torch.device("cpu"), [0]) == []


def test_the_factor_has_its_year_and_source() -> None:
    france, world, own = grid_of("FRA"), grid_of(None), grid_of("FRA", 12)
    assert france["grams_per_kwh"] == pytest.approx(56.04, abs=0.01)
    assert (france["year"], france["country"]) == (2023, "FRA")
    assert (world["grams_per_kwh"], world["year"], world["country"]) == (475, 2018, None)
    assert "2019" in world["source"]
    assert own == {
        "grams_per_kwh": 12, "country": "FRA", "year": None, "source": "energy.grams_per_kwh"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("country=FR", "'FR' is none of the 213 three-letter codes that codecarbon has; did you "
                       "mean FRA (France)?"),
        ("country=usa", "did you mean USA (United States)?"),
        ("country=germany", "did you mean DEU (Germany)?"),
        ("country=XQZ", "three-letter codes that codecarbon has"),
        ("grams_per_kwh=-1", "energy.grams_per_kwh -1.0 must be a number from 0 up"),
        ("cpu_watts=-5", "energy.cpu_watts -5.0 must be a number from 0 up"),
    ],
)  # fmt: skip
def test_what_is_no_country_or_power_is_refused_before_a_run_is_made(typed, says, capsys) -> None:
    assert command([*SHORT, f"--energy.{typed}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not Path("runs").exists()


def test_settings_that_are_in_range_pass() -> None:
    check_energy(Energy(country="DEU", grams_per_kwh=0, cpu_watts=100, ram_watts=5))
    with pytest.raises(UsageError):
        check_energy(Energy(ram_watts=float("inf")))


def test_the_closing_table_keeps_its_width() -> None:
    gpu = {"kwh": 1234.5, "basis": "measured", "by": "NVML, energy counter"}
    parts = USED | {"gpu": gpu, "gco2e": 123456.7}
    record = {
        "metrics": {},
        "parameters": 1,
        "wall_seconds": 1.0,
        "energy": parts,
        "steps": 1,
        "best_checkpoint": "b",
        "experiment": "e",
        "epochs": 1,
        "chosen_by": "val/loss",
    }
    lines = closing_table(record, Path("r")).splitlines()
    (line,) = [line for line in lines if line.startswith("energy")]
    assert line.endswith("1.24e+06 Wh, 100 % measured; 1.23e+05 g CO2e")
    assert len(line) <= 80


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("energy") / "runs"
    typed = ["--trainer.limit_train_batches=20", "--energy.country=SWE", "--energy.ram_watts=7"]
    assert command([*SHORT, *typed, "--runs_dir", str(runs)]) == 0
    (directory,) = runs.iterdir()
    return directory


def open_run(run: Path) -> Subject:
    return open_subject(str(run), [], "cpu", [])


def test_the_section_tells_what_training_and_predictions_take(run, monkeypatch) -> None:
    monkeypatch.setattr(report, "SECONDS", 0.2)
    subject = open_run(run)
    section = report.section(subject)
    assert section.mark == "told"
    recorded = subject.record["energy"]
    wh, joules = section.measure("training_wh"), section.measure("joules_per_1000")
    assert wh.value == pytest.approx(1000 * subject.record["energy_kwh"])
    assert section.measure("training_watts").value > 7  # the memory alone
    assert joules.interval_95[0] < joules.value < joules.interval_95[1]
    speed = section.measure("images_per_second").value
    assert joules.value > 7 * 1000 / speed  # of the memory, while the processors rest
    factor = section.measure("gco2e_per_1000").value / joules.value * 3.6e6
    assert factor == pytest.approx(recorded["grid"]["grams_per_kwh"]) == pytest.approx(40.7, abs=1)
    flops = section.measure("flops_per_prediction").value
    assert 2 * flops < subject.record["flops_per_image"] < 3 * flops
    assert "in SWE of 40.7 g a kWh" in section.verdict
    assert "all modelled" in section.verdict or "measured by counters" in section.verdict

    kept = json.loads(json.dumps(report.energy_record(subject, section), allow_nan=False))
    assert kept["training_kwh"] == subject.record["energy_kwh"]
    assert kept["training_kwh"] == sum(kept[f"training_{p}_kwh"] or 0 for p in energy.PARTS)
    assert kept["training_ram_by"] == "7 W, as given"
    assert kept["training_gpu_kwh"] is None
    assert kept["joules_per_1000"] == joules.value
    steps, batch = subject.record["steps"], subject.data.batch_size
    assert kept["flops_total"] == steps * batch * subject.record["flops_per_image"]
    assert kept["grid"]["year"] == 2023


def test_a_run_without_energy_says_why_and_what_to_do(run, monkeypatch) -> None:
    monkeypatch.setattr(report, "SECONDS", 0.2)
    subject = open_run(run)
    for key in ("energy", "energy_kwh"):
        del subject.record[key]
    section = report.section(subject)
    assert section.measure("training_wh").value is None
    assert "train it again" in section.measure("training_wh").how
    assert section.measure("joules_per_1000").value > 0
    kept = report.energy_record(subject, section)
    assert (kept["training_kwh"], kept["training_not_run"]) == (None, report.NOT_RECORDED)
    subject.closed = "the data could not be opened: gone"
    section = report.section(subject)
    assert section.mark == "not run"
    assert section.measure("joules_per_1000").how == subject.closed


def test_a_repetition_is_charged_with_its_own_energy_alone(monkeypatch) -> None:
    class Counting(Meter):
        def start(self, wait: bool = False) -> None:
            self.total = 100.0

        def read(self) -> dict[str, Any]:
            self.total += 1
            return {"seconds": self.total, "cpu": {"kwh": self.total**2}}

    found = list(report.repetitions(lambda: 5, Counting([]), number=3, seconds=0))
    assert [used["cpu"]["kwh"] for used in found] == [
        102**2 - 101**2, 104**2 - 103**2, 106**2 - 105**2
    ]  # fmt: skip
    assert [used["seconds"] for used in found] == [1, 1, 1]
