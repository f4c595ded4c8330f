"""The benchmark measures what it says, says it in one form, and its verdict follows its rule."""

import json
import math
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch
import yaml
from torch import Tensor, nn

from project import benchmark
from project.benchmarks import (
    bottleneck,
    data_path,
    growth,
    hand_written,
    processes,
    startup,
    switches,
    training_step,
)
from project.benchmarks.bottleneck import Measured, verdict
from project.benchmarks.measuring import Figures, device, document, interleaved, ratios, table
from project.configuration import CONFIGS, PACKAGE
from project.costs.flops import training_flops
from project.messages import RunError, UsageError

TINY = {
    "data": lambda: data_path.data(rounds=1, seconds=0.001, count=600),
    "switches": lambda: switches.switches(rounds=1, steps=1, compiled=False),
    "growth": lambda: growth.growth(
        1, images=(200, 400), tokens=(20_000, 40_000), contexts=(16, 32)
    ),
    "bottleneck": lambda: bottleneck.bottleneck(rounds=1),
    "processes": lambda: processes.processes(rounds=1, steps=1, most=1),
    "trainer": lambda: training_step.trainer(1, 0.1, dict([*training_step.CASES.items()][:1])),
}
LONG = {
    "trainer": lambda: training_step.trainer(rounds=1, share=0.1),
    "startup": lambda: startup.startup(rounds=1),
    "processes": lambda: processes.processes(rounds=1, steps=1, most=2),
    "switches": lambda: switches.switches(rounds=1, steps=1),
}
DDP = str(CONFIGS / "trainer/ddp_cpu.yaml")


def check(figures: list[Figures]) -> None:
    assert figures
    for part in figures:
        assert part.samples
        for values in (*part.samples.values(), *part.ratios.values()):
            assert all(math.isfinite(value) and value > 0 for value in values)
        assert json.loads(json.dumps(document(part)))["samples"] == part.samples
        assert all(name in table(part) for name in (*part.samples, *part.ratios, *part.notes))


@pytest.mark.parametrize("name", TINY)
def test_every_section_gives_figures(name: str) -> None:
    check(TINY[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_every_section_gives_figures_also_those_that_take_long(name: str) -> None:
    check(LONG[name]())


def test_every_section_is_found_by_its_name() -> None:
    assert {*TINY, *LONG} == {*benchmark.SECTIONS}
    for name, module in benchmark.SECTIONS.items():
        assert callable(getattr(sys.modules[f"project.benchmarks.{module}"], name))
        assert f"\n  {name} " in benchmark.HELP


def test_json_holds_what_the_table_shows(monkeypatch, capsys, tmp_path) -> None:
    samples = {"a": [2.0, 4.0, 3.0], "b": [1.0, 1.0, 2.0]}
    figures = Figures("things", "seconds", samples, ratios(samples, {"a / b": ("a", "b")}), ["so"])
    monkeypatch.setattr(startup, "startup", lambda: [figures])
    assert benchmark.main(["startup", "--json", str(tmp_path / "speed.json")]) == 0
    (written,) = json.loads((tmp_path / "speed.json").read_text())["sections"]["startup"]
    assert written["samples"] == samples
    assert written["medians"] == {"a": 3.0, "b": 1.0}
    assert written["ratios"] == {"a / b": [2.0, 4.0, 1.5]}  # within a round, and not of medians
    assert written["median_ratios"] == {"a / b": 2.0}
    assert "things: seconds" in (shown := capsys.readouterr().out)
    assert "so" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trainr"], "no section 'trainr'; did you mean trainer?"),
        (["everything"], "choose of data, trainer"),
        (["data", "--config", "x.yaml"], "--config is for project.train"),
        (["data", "--json"], "--json needs a file"),
        (["data", "--json", "no/such/folder.json"], "No such file or directory"),
        (["data", "--json", "."], "is not a file"),
        (["bottleneck", "--data.batch_siz", "3"], "did you mean batch_size?"),
        (["bottleneck", "--config", DDP], "trainer.devices 2 on 1 nodes: one process is measured"),
        (["bottleneck", "--trainer.num_nodes", "2"], "on 2 nodes: one process is measured"),
        (["bottleneck", "--trainer.accelerator", "tpu"], "choose of cpu"),
        (["bottleneck", "--trainer.precision", "16-mixed"], "choose of 32-true, bf16-mixed"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_a_line(arguments, said, capsys) -> None:
    assert benchmark.main(arguments) in (1, 2)
    shown = capsys.readouterr()
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_json_is_written_after_each_section_and_not_before(monkeypatch, tmp_path, capsys) -> None:
    def fails() -> list[Figures]:
        raise RunError("no core was left")

    path = tmp_path / "speed.json"
    monkeypatch.setattr(processes, "processes", fails)
    assert benchmark.main(["processes", "--json", str(path)]) == 1
    assert not path.exists()
    monkeypatch.setattr(startup, "startup", lambda: [Figures("things", "seconds", {"a": [1.0]})])
    assert benchmark.main(["startup", "processes", "--json", str(path)]) == 1
    assert [*json.loads(path.read_text())["sections"]] == ["startup"]
    assert "no core was left" in capsys.readouterr().err


def test_the_devices_of_a_machine_become_one() -> None:
    arguments = ["--config", str(CONFIGS / "trainer/torchrun.yaml")]
    cli = hand_written.configured([*arguments, "--trainer.strategy", "auto"])
    assert cli.config_init.trainer.devices == 1
    assert hand_written.device_of(cli) == device()


def test_on_a_machine_with_a_gpu_the_cpu_can_be_measured(monkeypatch) -> None:
    monkeypatch.setattr(hand_written, "device", lambda: torch.device("cuda"))
    cli = hand_written.configured(["--trainer.accelerator", "cpu"])
    images, *_ = next(hand_written.endless(cli.datamodule, hand_written.device_of(cli)))
    hand_written.hand_written(cli)
    assert {x.device.type for x in (images, *cli.model.network.parameters())} == {"cpu"}
    on_gpu = hand_written.configured([])
    assert hand_written.device_of(on_gpu).type == on_gpu.config_init.trainer.accelerator == "cuda"


def test_data_that_the_benchmark_does_not_know_are_refused() -> None:
    demos = "lightning.pytorch.demos.boring_classes"
    arguments = ["--model", f"{demos}.BoringModel", "--data", f"{demos}.BoringDataModule"]
    with pytest.raises(UsageError, match="not of BoringDataModule with BoringModel"):
        hand_written.configured(arguments)


def test_a_step_in_bfloat16_has_weights_in_bfloat16() -> None:
    cli = hand_written.configured(["--trainer.precision", "bf16-true"])
    place = hand_written.device_of(cli)
    step = hand_written.hand_written(cli)
    step(*next(hand_written.endless(cli.datamodule, place))[:2])
    assert {p.dtype for p in cli.model.network.parameters()} == {torch.bfloat16}


def test_a_process_that_fails_or_takes_too_long_ends_the_others(monkeypatch) -> None:
    script = "import sys, time; sys.exit('no room') if sys.argv[3] == '1' else time.sleep(60)"
    start = subprocess.Popen

    def started(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return start([command[0], "-c", script, *command[3:]], **options)

    monkeypatch.setattr(subprocess, "Popen", started)
    began = time.monotonic()
    with pytest.raises(RunError, match="process 1 of 2 failed: no room"):
        processes.together(2, rounds=1, steps=1)
    monkeypatch.setattr(processes, "TIMEOUT_SECONDS", 0.1)
    with pytest.raises(RunError, match=r"1 processes were not done in 0\.1 s"):
        processes.together(1, rounds=1, steps=1)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("main", ["lambda _: 2", "lambda _: 1 / 0"])
@pytest.mark.parametrize("name", list(startup.SCRIPTS)[1:])
def test_a_start_that_fails_is_no_measurement(main: str, name: str) -> None:
    broken = f"import project.train\nproject.train.main = {main}\n"
    with pytest.raises(RunError, match="a start failed"):
        startup.seconds_of(broken + startup.SCRIPTS[name])


def test_rounds_are_taken_in_turn() -> None:
    taken: list[str] = []
    samples = interleaved(
        2, {name: lambda name=name: float(taken.append(name) is None) for name in "ab"}
    )
    assert taken == ["a", "b", "a", "b"]
    assert samples == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


MATMUL = {"32-true": 1e11, "bf16-mixed": 4e11}
CASES = {  # loader, bare, doubled, trainer, operations
    "data": (0.060, 0.020, 0.040, 0.090, 1e9),
    "overhead": (0.001, 0.010, 0.011, 0.013, 1e8),
    "compute": (0.001, 0.100, 0.195, 0.110, 6e9),
    "memory": (0.001, 0.100, 0.195, 0.110, 1e8),
}


def timed(
    loader: float, bare: float, doubled: float, trainer: float, operations: float | None, **others
) -> Measured:
    return Measured(
        loader=loader,
        bare=bare,
        doubled=doubled,
        trainer=trainer,
        operations=operations,
        matmul=MATMUL,
        copying=1e10,
        **others,
    )


@pytest.mark.parametrize("bound", CASES)
def test_the_largest_part_of_a_step_bounds_it(bound: str) -> None:
    *seconds, operations = CASES[bound]
    measured = timed(*seconds, operations, batch_size=64)
    found, sentences = verdict(measured)
    assert found == bound
    assert sentences[0].startswith("bound by ")
    assert "try --" in sentences[1]


def test_a_loader_with_workers_counts_where_the_network_waits_for_it() -> None:
    hidden = timed(0.060, 0.070, 0.140, 0.075, 6e9, num_workers=2)
    assert verdict(hidden)[0] != "data"
    waited_for = timed(0.200, 0.070, 0.140, 0.210, 6e9, num_workers=2)
    assert verdict(waited_for)[0] == "data"


def test_time_outside_the_network_is_overhead_and_uncounted_operations_are_said() -> None:
    busy = timed(0.001, 0.010, 0.020, 0.040, 6e8)
    assert verdict(busy)[0] == "overhead"
    unknown = timed(0.001, 0.100, 0.200, 0.102, None)
    assert "could not be counted" in verdict(unknown)[1][0]


class ElementWise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(8):
            x = x * self.gain + 1
        return x.unflatten(1, (10, -1)).mean(dim=2)


REAL = {
    "data": (lambda: nn.Linear(8, 10), (16, 8), 0.05),
    "overhead": (lambda: nn.Sequential(*(nn.Linear(10, 10) for _ in range(8))), (4, 10), 0.0),
    "compute": (lambda: nn.Sequential(*(nn.Linear(512, 512) for _ in range(3))), (2048, 512), 0.0),
    "memory": (ElementWise, (64, 20_000), 0.0),
}


@pytest.mark.parametrize("bound", REAL)
def test_the_verdict_on_what_is_made_to_be_so(bound: str) -> None:
    build, shape, loading = REAL[bound]
    network = build()
    step = hand_written.plain_step(network, torch.optim.SGD(network.parameters(), lr=0.0))
    inputs, targets = torch.rand(shape), torch.arange(shape[0]) % 10
    sizes = {"bare": (inputs, targets), "doubled": (inputs.repeat(2, 1), targets.repeat(2))}

    def seconds(name: str) -> float:
        started = time.perf_counter()
        step(*sizes[name])
        return time.perf_counter() - started

    # The quickest of many, since tests share their machine.
    times = interleaved(9, {name: partial(seconds, name) for name in sizes})
    bare, doubled = (min(values) for values in times.values())
    rates = interleaved(3, bottleneck.rates(torch.device("cpu")))
    best = {name: 1e9 * max(values) for name, values in rates.items()}
    measured = Measured(
        loader=loading,
        bare=bare,
        doubled=doubled,
        trainer=loading + bare,
        operations=shape[0] * training_flops(network, inputs),
        matmul={"32-true": best[bottleneck.FP32], "bf16-mixed": best[bottleneck.BF16]},
        copying=best[bottleneck.COPY],
    )
    assert verdict(measured)[0] == bound, measured


@pytest.mark.parametrize("name", gpu.TRAININGS)
def test_the_script_for_a_gpu_builds_what_it_trains(name: str) -> None:
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    task, data = (gpu.built(config[part]) for part in ("model", "data"))
    assert task.scheduler.func.__name__ == "WarmupDecay"
    callbacks = [gpu.built(callback) for callback in config["trainer"].get("callbacks", [])]
    built = [type(part).__name__ for part in (task, data, *callbacks)]
    named = [config["model"], config["data"], *config["trainer"].get("callbacks", [])]
    assert built == [part["class_path"].rpartition(".")[2] for part in named]


HEAVY = ["wandb", "captum", "sklearn", "matplotlib", "torchvision", "optuna", "tensorboard"]
HEAVY += ["tokenizers", "scipy", "pandas"]


def test_a_start_imports_nothing_heavy_beyond_what_lightning_does() -> None:
    """Lightning brings matplotlib, scipy and torchvision where they are installed (2.6.6)."""
    script = (
        "import os, sys, lightning.pytorch\n"
        "before = {name.split('.')[0] for name in sys.modules}\n"
        "def heavy(): \n"
        "    now = {name.split('.')[0] for name in sys.modules} - before\n"
        f"    print(sorted(now & {{*{HEAVY}}}), file=sys.stderr, flush=True)\n"
        "import project.train as train\n"
        "try: train.main(['--print_config'])\n"
        "except SystemExit: pass\n"
        "heavy()\n"
        "from project.tasks.image_classification import ImageClassification as Task\n"
        "Task.training_step = lambda *batch: [heavy(), os._exit(0)]\n"
        "train.main([])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    found = [line for line in ran.stderr.splitlines() if line.startswith("[")]
    assert found == ["[]", "['tensorboard']"], ran.stderr
    assert Path("runs").is_dir()  # the run had begun
