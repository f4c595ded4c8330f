"""What is said of a run's speed adds up, and stays out of what each repetition has the same."""

from typing import Any

import pytest
from conftest import only_run, record_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from project.costs.throughput import Stopwatch, Throughput
from project.data.images import ImageData
from project.tasks.image_classification import ImageClassification
from project.training.command import command

SHORT = [
    "--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--model.network.width=8",
    "--trainer.limit_train_batches=10", "--trainer.log_every_n_steps=5",
    "--trainer.enable_progress_bar=false",
    "--energy.measure=false",  # codecarbon is imported beside the first batches
]  # fmt: skip


def test_the_parts_of_a_batch_add_up_and_mfu_follows(tmp_path) -> None:
    assert command([*SHORT, "--speed.device_peak=1e12"]) == 0
    directory = only_run(tmp_path / "runs")
    record = record_of(directory)
    speed = record["speed"]
    parts = speed["data_ms"] + speed["step_ms"] + speed["rest_ms"]
    assert parts == pytest.approx(speed["batch_ms"], rel=1e-3)
    assert min(speed.values()) > 0
    assert record["images_per_second"] == pytest.approx(64_000 / speed["batch_ms"], rel=1e-2)
    per_image = record["flops_per_image"]
    assert speed["mfu"] == pytest.approx(per_image * record["images_per_second"] / 1e12, abs=1e-4)
    assert 0 < record["warm_up_seconds"] < record["training_seconds"] < record["wall_seconds"]

    assert "speed" not in (directory / "metrics.csv").read_text()  # equal in each repetition
    tags = {}
    for path in directory.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(path)).Reload()
        tags |= {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert [entry.step for entry in tags["speed/images_per_second"]] == [4, 9, 14, 19]
    assert [entry.step for entry in tags["train/loss"]] == [4, 9, 14, 19]
    assert {"speed/batch_ms", "speed/data_ms", "speed/step_ms", "speed/mfu"} <= tags.keys()


class Clock:
    """What the measurement reads in these tests: 0.1 ms a look, and what `sleep` adds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("project.costs.throughput.time", self)

    def perf_counter(self) -> float:
        self.now += 1e-4
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("slow", ["data", "step", "rest"])
def test_what_is_slow_is_found(slow, tmp_path, clock, monkeypatch) -> None:
    """50 ms more a batch, in the loader, the network or a callback, and nowhere else."""

    def slowed(function: Any) -> Any:
        def slower(*arguments: Any, **keywords: Any) -> Any:
            clock.sleep(0.05)
            return function(*arguments, **keywords)

        return slower

    if slow == "data":
        loader = ImageData.train_dataloader

        def train_dataloader(self: ImageData) -> Any:
            batches = loader(self)
            batches.make_batch = slowed(batches.make_batch)
            return batches

        monkeypatch.setattr(ImageData, "train_dataloader", train_dataloader)
    elif slow == "step":
        monkeypatch.setattr(
            ImageClassification, "training_step", slowed(ImageClassification.training_step)
        )
    else:
        monkeypatch.setattr(
            "project.training.trainer.ValidateAtLastStep.on_train_batch_end",
            slowed(lambda *_: None),
        )
    assert command([*SHORT, "--trainer.max_epochs=1"]) == 0
    speed = record_of(only_run(tmp_path / "runs"))["speed"]
    assert speed[f"{slow}_ms"] == pytest.approx(50, abs=1)
    assert speed["batch_ms"] == pytest.approx(50, abs=2)


def test_validations_checkpoints_and_the_first_batch_are_left_out(
    tmp_path, clock, monkeypatch
) -> None:
    step, loader = ImageClassification.training_step, ImageData.train_dataloader

    def slow_at_first(self: ImageClassification, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 0:
            clock.sleep(0.5)
        return step(self, batch, batch_idx)

    def slow_first_fetch(self: ImageData) -> Any:
        batches = loader(self)
        make_batch, is_first = batches.make_batch, [True]

        def slow(indices: Any, epoch: int) -> Any:
            if is_first:
                clock.sleep(is_first.pop())
            return make_batch(indices, epoch)

        batches.make_batch = slow
        return batches

    def slow_save(self: Any, trainer: Any, module: Any, checkpoint: Any) -> None:
        clock.sleep(0.1)

    def slow_validation(self: Any, *_: Any) -> None:
        clock.sleep(0.2)

    monkeypatch.setattr(ImageClassification, "training_step", slow_at_first)
    monkeypatch.setattr(ImageData, "train_dataloader", slow_first_fetch)
    monkeypatch.setattr("project.training.trainer.ValidateAtLastStep.on_save_checkpoint", slow_save)
    monkeypatch.setattr(
        "project.training.trainer.ValidateAtLastStep.on_validation_batch_end", slow_validation
    )
    assert command([*SHORT, "--checkpoint_minutes=0"]) == 0  # a checkpoint before every step
    record = record_of(only_run(tmp_path / "runs"))
    assert record["warm_up_seconds"] > 1.5
    assert record["training_seconds"] - record["warm_up_seconds"] < 0.1
    assert record["speed"]["batch_ms"] < 2


def test_another_profiler_is_left_alone(tmp_path) -> None:
    assert command([*SHORT, "--trainer.profiler=simple"]) == 0
    speed = record_of(only_run(tmp_path / "runs"))["speed"]
    assert set(speed) == {"batch_ms"}


def test_totals_go_on_after_a_resume() -> None:
    before = Throughput(Stopwatch())
    before.totals |= {"units": 640.0, "batches": 10.0, "seconds": 2.0, "data": 0.5, "step": 1.0}
    before.flops_per_unit = 7.0
    after = Throughput(Stopwatch())
    after.load_state_dict(before.state_dict())
    assert after.record() == before.record()
    assert after.record()["images_per_second"] == 320.0
    after.has_ended = True
    after.load_state_dict(Throughput().state_dict())  # of the best checkpoint, to be measured
    assert after.record() == before.record()


def test_the_bar_shows_the_newest_figures() -> None:
    throughput = Throughput()
    assert throughput.shown() == ""
    throughput.latest = {"images_per_second": 12_345.6, "batch_ms": 1.0, "mfu": 0.4049}
    assert throughput.shown() == "12,346 images/s, 40 % MFU"
