"""Switches of `--speed` change the time a run takes, and not what it is."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from conftest import logged, only_run, record_of
from torch import nn

from project.checkpoints.checkpoint_file import read
from project.configuration import CONFIGS, ProjectCLI
from project.training.command import command

SHORT = [
    "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=6", "--trainer.enable_progress_bar=false",
    "--model.network=ViT", "--model.network.depth=1", "--model.network.patch_size=4",
]  # fmt: skip
PROFILES = sorted((CONFIGS / "trainer").glob("*.yaml"))


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "runs").iterdir(), key=lambda path: path.stat().st_ctime_ns)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read(run / "checkpoints" / "last.ckpt")["state_dict"]


@pytest.fixture
def traced(monkeypatch) -> list[str]:
    """Compiled by a backend that runs what was traced as it is; the list says what was."""
    found: list[str] = []
    compile_in_place = nn.Module.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        found.append(" ".join(str(node.target) for node in graph.graph.nodes))
        return graph.forward

    def in_place(module: nn.Module) -> None:
        compile_in_place(module, backend=backend, fullgraph=True)

    monkeypatch.setattr(nn.Module, "compile", in_place)
    torch._dynamo.reset()
    return found


def test_a_compiled_run_keeps_ordinary_checkpoints_and_goes_on_without(
    traced, tmp_path, capsys
) -> None:
    assert command(SHORT) == 0
    assert traced == []
    assert command([*SHORT, "--speed.compile=true"]) == 0
    assert any("scaled_dot_product_attention" in graph for graph in traced)
    plain, compiled = map(weights, runs(tmp_path))
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-6) for name in plain)

    capsys.readouterr()
    longer = ["--resume", str(runs(tmp_path)[1]), "--trainer.max_epochs=2"]
    assert command([*longer, "--speed.compile=false"]) == 0
    text = capsys.readouterr().err
    assert "speed.compile was True and is False: the last bits of numbers may differ" in text


@pytest.mark.slow
def test_the_inductor_compiles_what_is_trained(tmp_path) -> None:
    assert command([*SHORT, "--speed.compile=true"]) == 0
    assert command(SHORT) == 0
    compiled, plain = map(weights, runs(tmp_path))
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-4) for name in plain)


def test_a_fused_optimizer_may_clip_in_bfloat16(tmp_path) -> None:
    """Lightning alone refuses it; and a limit that is always reached shows that it is clipped."""
    clipped = [
        "--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=0.01",
        "--model.optimizer=SGD", "--model.optimizer.lr=1", "--model.scheduler=null",
    ]  # fmt: skip
    for fused in ("true", "false"):
        assert command([*SHORT, *clipped, f"--model.optimizer.fused={fused}"]) == 0
    assert command([*SHORT, *clipped, "--trainer.gradient_clip_algorithm=value"]) == 0
    fused, plain, by_value = map(weights, runs(tmp_path))
    assert all(torch.allclose(fused[name], plain[name], atol=1e-5) for name in plain)
    assert not torch.allclose(by_value["network.head.weight"], plain["network.head.weight"])
    moved = (
        sum(w.norm() ** 2 for name, w in plain.items() if name.startswith("network.head")) ** 0.5
    )
    assert 0 < moved <= 6 * 0.01 + 1e-6  # it begins at 0: six steps of length 0.01 at most


def test_threads_are_set_recorded_and_given_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    assert command([*SHORT, f"--speed.threads={other}"]) == 0
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (before, "1")
    record = record_of(only_run(tmp_path / "runs"))
    assert record["hardware"]["torch_threads"] == other


@pytest.mark.parametrize("threads", [-1, 0, 10_000])
def test_threads_that_cannot_be_are_refused(threads, tmp_path, capsys) -> None:
    assert command([*SHORT, f"--speed.threads={threads}"]) == 2
    assert f"speed.threads {threads} must be 1 to" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_nodes_that_nothing_starts_are_not_waited_for(tmp_path, capsys) -> None:
    assert command([*SHORT, "--trainer.num_nodes=2", "--trainer.strategy=ddp"]) == 2
    assert "num_nodes 2: no other node would ever come" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("experiment", ["default", "gpt2_124m"])
def test_a_profile_stacks_on_any_experiment(profile: Path, experiment: str) -> None:
    base = yaml.safe_load((CONFIGS / f"{experiment}.yaml").read_text())
    files = ["--config", str(CONFIGS / f"{experiment}.yaml"), "--config", str(profile)]
    cli = ProjectCLI([*files, "--data.corpus.path=."] if experiment == "gpt2_124m" else files)
    profile_settings = yaml.safe_load(profile.read_text())
    assert set(profile_settings) <= {"trainer", "speed", "best"}
    settings = {**base["trainer"], **profile_settings["trainer"]}
    for key, value in settings.items():
        if not isinstance(value, dict | list | None):
            assert cli.config.trainer[key] == value, key
    for key, value in profile_settings.get("speed", {}).items():
        assert cli.config.speed[key] == value


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_a_profile_names_its_command(profile: Path) -> None:
    header = [line for line in profile.read_text().splitlines() if line.startswith("#")]
    assert any("project.train" in line and f"configs/trainer/{profile.name}" in line
               for line in header)  # fmt: skip


def test_overfit_learns_a_batch_by_heart(tmp_path) -> None:
    profile = str(CONFIGS / "trainer" / "overfit.yaml")
    assert command(["--config", profile, "--trainer.max_epochs=60", "--trainer.accelerator=cpu",
                    "--trainer.check_val_every_n_epoch=60"]) == 0  # fmt: skip
    losses = logged(only_run(tmp_path / "runs"), "train/loss")
    assert losses[-1] < 0.01  # of ln 10 = 2.3 at the start


def test_profile_says_which_operations_take_the_time(tmp_path) -> None:
    profile = str(CONFIGS / "trainer" / "profile.yaml")
    assert command(["--config", profile, "--trainer.accelerator=cpu"]) == 0
    run = only_run(tmp_path / "runs")
    assert "convolution_backward" in (run / "operations.txt").read_text()
    events = json.loads((run / "operations.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "Optimizer.step#AdamW.step" for event in events) == 10


def test_profile_adds_to_the_callbacks_of_an_experiment() -> None:
    files = [str(CONFIGS / "mnist_best.yaml"), str(CONFIGS / "trainer" / "profile.yaml")]
    cli = ProjectCLI(["--config", files[0], "--config", files[1]])
    names = [callback.class_path.split(".")[-1] for callback in cli.config.trainer.callbacks]
    assert names == ["EMAWeightAveraging", "OperationProfile"]


def test_debug_keeps_nothing(tmp_path) -> None:
    profile = str(CONFIGS / "trainer" / "debug.yaml")
    assert command(["--config", profile]) == 0
    assert not (tmp_path / "runs").exists()
