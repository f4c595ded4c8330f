"""Speed and results on one GPU, in one command of under eight minutes, without network.

    OUT=FOLDER DATA_DIR=FOLDER python tests/gpu.py         (or `make gpu`)
    OUT=FOLDER python tests/gpu.py cnn gpt                 some of the parts: machine gpt cnn table
                                                           trainings
    ... trainings --seconds 500                            a longer limit for each part
    python tests/gpu.py --smoke                            on the CPU, tiny: only to try this script

Needs torch, lightning, torchmetrics and torchvision, and nothing else of this project's packages.
Every figure is written at once into `$OUT/gpu.json` (by default `runs/gpu.json`), and every part is
a process of its own with a limit in seconds: what fails or is cut off loses nothing else.

- machine: device, driver, versions.
- gpt: tokens a second and MFU of the network of `configs/gpt2_124m.yaml`, in a plain loop and in
  Trainer.
- cnn: images a second of `configs/mnist_cnn.yaml`'s network, images on the device as uint8, and the
  usual path (torchvision, DataLoader) beside it.
- table: precision and compilation of both, in a plain loop.
- trainings: `mnist_best`, `shakespeare_transformer_large` and `shakespeare_lstm_large` as in their
  files, one seed, all at once on the one GPU (so their times say little); needs DATA_DIR.

A speed is the median of 3 windows after 20 steps of warm-up, with the device waited for at the ends
of windows alone. The plain loop does what Trainer does: same batches, loss, clipping, optimizer.
MFU is of the dense bf16 peak, from FLOPs counted on the meta device, attention as if not causal.

Run on an H200 on 2026-11-26: machine, half of gpt and a third of cnn, for lack of time.
"""

import argparse
import gc
import importlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

SECONDS = {"machine": 60, "gpt": 140, "cnn": 75, "table": 60, "trainings": 140}  # at most
TRAININGS = ("mnist_best", "shakespeare_transformer_large", "shakespeare_lstm_large")
MARK = "figure: "  # begins a line of a part that is a figure
WARMUP_STEPS, WINDOWS = 20, 3


# The first process: starts the parts, keeps their figures. It imports no torch.


def main() -> int:
    form = argparse.ArgumentParser(description="Measure on a GPU; see the file's top.")
    form.add_argument("parts", nargs="*", help=", ".join(SECONDS))
    form.add_argument("--smoke", action="store_true", help="on the CPU, tiny, to try the script")
    form.add_argument("--seconds", type=int, help="limit of each part, instead of its own")
    form.add_argument("--one", help=argparse.SUPPRESS)  # a part, in its own process
    options = form.parse_args()
    if unknown := set(options.parts) - set(SECONDS):
        form.error(f"no part {', '.join(unknown)}; there are {', '.join(SECONDS)}")
    if options.one:
        Part(options.one, options.smoke).run()
        return 0
    folder = Path(os.environ.get("OUT") or "runs")
    folder.mkdir(parents=True, exist_ok=True)
    keeper = Keeper(folder / "gpu.json")
    started = time.perf_counter()
    for part in options.parts or SECONDS:
        names = [f"training {name}" for name in TRAININGS] if part == "trainings" else [part]
        threads = [
            threading.Thread(
                target=follow,
                args=(name, options.seconds or SECONDS[part], options.smoke, keeper),
            )
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"{keeper.path}, in {time.perf_counter() - started:.0f} s")
    is_cut = any(isinstance(end, str) for end in keeper.ends.values())
    return int(is_cut or any("error" in figure for figure in keeper.figures))


class Keeper:
    """Keeps the figures of all parts in one file, written anew with each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figures: list[dict[str, Any]] = []
        self.ends: dict[str, Any] = {}  # of each part: its seconds, or what went wrong
        self.lock = threading.Lock()

    def add(self, figure: dict[str, Any]) -> None:
        with self.lock:
            self.figures.append(figure)
            self.write()

    def write(self) -> None:
        content = json.dumps({"ended": self.ends, "figures": self.figures}, indent=1)
        new = self.path.with_suffix(".new")
        new.write_text(content + "\n", encoding="utf-8")
        new.replace(self.path)


def follow(part: str, seconds: float, is_smoke: bool, keeper: Keeper) -> None:
    """Run a part in a process of its own, for so many seconds at most, and keep its figures."""
    seconds *= 4 if is_smoke else 1  # the machine may be a busy one
    command = [sys.executable, str(Path(__file__)), "--one", part, *["--smoke"][:is_smoke]]
    # A part ends by itself 20 s before it is ended.
    environment = os.environ | {"PART_ENDS": str(time.time() + seconds - 20)}
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        limit = threading.Timer(seconds, process.kill)
        limit.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                keeper.add(json.loads(line.removeprefix(MARK)))
            print(f"[{part}] {line}", end="", flush=True)
        process.wait()
        limit.cancel()
    took = time.perf_counter() - started
    end: Any = round(took, 1)
    if process.returncode != 0:
        why = "cut off" if took >= seconds else f"ended with {process.returncode}"
        end = f"{why} after {took:.0f} s"
    with keeper.lock:
        keeper.ends[part] = end
        keeper.write()
    print(f"[{part}] {end}", flush=True)


# A part, in its own process.


class Part:
    """What one process measures, figure by figure."""

    def __init__(self, name: str, is_smoke: bool) -> None:
        import torch

        if not is_smoke and not torch.cuda.is_available():
            sys.exit("error: torch sees no GPU here; --smoke tries this script on the CPU")
        self.name, _, self.training = name.partition(" ")
        self.is_smoke = is_smoke
        self.device = torch.device("cpu" if is_smoke else "cuda")
        self.compiler = "eager" if is_smoke else "inductor"  # which takes minutes on a busy CPU
        self.ends = float(os.environ.get("PART_ENDS", math.inf))
        torch.backends.cudnn.benchmark = not is_smoke

    def run(self) -> None:
        import logging
        import warnings

        warnings.filterwarnings("ignore", module="lightning|torch")
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        parts = {
            "machine": machine,
            "gpt": gpt,
            "cnn": cnn,
            "table": table,
            "training": training,
        }
        parts[self.name](self)

    def left(self) -> float:
        """Return the seconds that this part still has."""
        return self.ends - time.time()

    def measure(self, what: dict[str, Any], measured: Callable[[], dict[str, Any]]) -> None:
        """Print a figure: `what` it is, and what `measured` returns, or why there is none."""
        import torch

        figure = {"part": self.name, **what}
        if self.left() <= 0:
            return self.say(figure | {"error": "no time was left for it"})
        started = time.perf_counter()
        try:
            figure |= measured()
        except Exception as error:  # such as no memory: the next may fit
            figure["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        figure["seconds_in_all"] = round(time.perf_counter() - started, 1)
        self.say(figure)
        gc.collect()
        torch._dynamo.reset()  # each is compiled for its own shapes
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def say(self, figure: dict[str, Any]) -> None:
        print(MARK + json.dumps(figure), flush=True)


class StepTimes:
    """Times windows of steps after the warm-up, waiting for the device at their ends alone."""

    def __init__(self, part: Part, steps: int) -> None:
        self.device = part.device
        self.warmup, self.steps = (1, 1) if part.is_smoke else (WARMUP_STEPS, steps)
        self.total = self.warmup + WINDOWS * self.steps
        self.marks: list[float] = []
        self.losses: list[Any] = []

    def step_done(self, count: int, loss: Any) -> None:
        import torch

        if count in (1, self.total):
            self.losses.append(loss.detach())
        if count >= self.warmup and (count - self.warmup) % self.steps == 0:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())

    def figures(self, unit: str, samples_a_step: int, flops_a_sample: float) -> dict[str, Any]:
        """Return speed, MFU, memory and losses, of which the last should be below the first."""
        import torch

        from project.costs.flops import peak_flops

        speeds = [
            self.steps * samples_a_step / (end - start)
            for start, end in itertools.pairwise(self.marks)
        ]
        found: dict[str, Any] = {
            f"mflops_of_{unit}": round(flops_a_sample / 1e6, 2),
            f"{unit}_per_second": round(median(speeds)),
            "windows": [round(speed) for speed in speeds],
            "loss_first": round(self.losses[0].item(), 4),
            "loss_last": round(self.losses[-1].item(), 4),
        }
        if self.device.type == "cuda":
            found["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            peak = peak_flops(torch.cuda.get_device_name())
            if peak is not None:
                found["mfu_percent"] = round(100 * median(speeds) * flops_a_sample / peak, 2)
        return found


def machine(part: Part) -> None:
    import platform

    import lightning
    import torch
    import torchmetrics
    import torchvision

    figure: dict[str, Any] = {
        "part": "machine",
        "device": "cpu",
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        **{m.__name__: m.__version__ for m in (torch, lightning, torchmetrics, torchvision)},
    }
    if part.device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        asked = "nvidia-smi --query-gpu=driver_version,clocks.max.sm,power.limit --format=csv"
        answer = subprocess.run(asked.split(), capture_output=True, text=True, check=False)
        figure |= {
            "device": properties.name,
            "capability": list(torch.cuda.get_device_capability()),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "driver": answer.stdout.strip(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    part.say(figure)


def optimizer_of(name: str, learning_rate: float) -> Callable[[Any], Any]:
    """Return what builds an optimizer from parameter groups, as a task takes it."""
    import torch

    from project.optimization.muon import MuonAdamW

    if name == "MuonAdamW":
        return partial(MuonAdamW, lr=0.02, adamw_lr=learning_rate, weight_decay=0.05)
    return partial(torch.optim.AdamW, lr=learning_rate, weight_decay=0.05, fused=True)


def plain_loop(
    part: Part,
    watch: StepTimes,
    network: Any,
    batches: Iterable[Any],
    loss_of: Callable[[Any, Any], Any],
    optimizer_factory: Callable[[Any], Any],
    precision: str = "bf16-mixed",
) -> None:
    """Train for the steps of `watch`, without Lightning."""
    import torch
    from lightning.fabric.utilities import move_data_to_device

    from project.optimization.optimizers import parameter_groups

    torch.set_float32_matmul_precision("high" if precision == "32-true, TF32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision != "32-true"
    network.to(part.device, torch.bfloat16 if precision == "bf16-true" else None)
    optimizer = optimizer_factory(parameter_groups(network))
    is_mixed = precision == "bf16-mixed"
    for count, batch in enumerate(itertools.islice(batches, watch.total), start=1):
        batch = move_data_to_device(batch, part.device)
        with torch.autocast(part.device.type, torch.bfloat16, enabled=is_mixed):
            loss = loss_of(network, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        watch.step_done(count, loss)


def in_trainer(part: Part, watch: StepTimes, task: Any, data: Any) -> None:
    """Train for the steps of `watch` in Trainer, with what a run does at every step.

    But for the resume point, W&B and the display.
    """
    from lightning.pytorch import Callback, Trainer

    from project.checkpoints.interruption import FiniteLoss
    from project.checkpoints.resume_point import StepSeed
    from project.costs.throughput import Stopwatch, Throughput
    from project.tracking.metrics_file import MetricsFile

    stopwatch = Stopwatch()

    class Watching(Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            watch.step_done(trainer.global_step, outputs["loss"])

    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator=part.device.type,
            devices=1,
            precision="bf16-mixed",
            max_steps=watch.total,
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            logger=[MetricsFile(Path(folder))],
            callbacks=[
                StepSeed(0),
                FiniteLoss(lambda: "nothing is kept"),
                Throughput(stopwatch),
                Watching(),
            ],
            profiler=stopwatch,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=folder,
        ).fit(task, **data)


def settings(config: str, section: str = "network") -> dict[str, Any]:
    """Return the arguments of the network, or of another part of a task, in a configuration."""
    import yaml

    content = yaml.safe_load((REPOSITORY / "configs" / f"{config}.yaml").read_text())
    return dict(content["model"]["init_args"][section]["init_args"])


def gpt(part: Part) -> None:
    what = {"network": "gpt2_124m", "precision": "bf16-mixed", "compiled": True}
    plans = [  # (loop, windows of text a batch, optimizer), the most wanted first
        ("plain", 32, "AdamW"),
        ("Trainer", 32, "AdamW"),
        ("plain", 64, "AdamW"),
        ("Trainer", 64, "AdamW"),
        ("Trainer", 64, "MuonAdamW"),
        ("plain", 64, "MuonAdamW"),
        ("plain, loss compiled", 64, "AdamW"),
        ("plain", 16, "AdamW"),
        ("Trainer", 16, "AdamW"),
        ("Trainer", 32, "MuonAdamW"),
        ("plain", 32, "MuonAdamW"),
        ("Trainer", 16, "MuonAdamW"),
    ]
    for loop, batch_size, optimizer in plans:
        figure = what | {"loop": loop, "batch": batch_size, "optimizer": optimizer}
        part.measure(figure, partial(gpt_speed, part, **figure))


def gpt_speed(part: Part, **what: Any) -> dict[str, Any]:
    """Return tokens a second of a GPT, in the loop, precision and so on that `what` names."""
    import torch

    from project.costs.flops import training_flops
    from project.models.transformer import GPT
    from project.tasks.language_modeling import LanguageModeling, token_losses

    sizes = settings("gpt2_124m")
    if part.is_smoke:
        sizes |= {"vocab_size": 256, "context_length": 32, "width": 24, "depth": 2}
    length, batch_size = sizes["context_length"], 2 if part.is_smoke else what["batch"]
    watch = StepTimes(part, steps=max(5, 640 // batch_size))
    torch.manual_seed(0)
    network = GPT(**sizes)
    flops = training_flops(network, torch.zeros(1, length, dtype=torch.int64)) or math.nan
    if what["compiled"]:
        network.compile(dynamic=False, backend=part.compiler)
    losses = token_losses
    if "loss compiled" in what["loop"]:
        losses = torch.compile(token_losses, dynamic=False, backend=part.compiler)

    def loss_of(network: Any, batch: Any) -> Any:
        return losses(network(batch.inputs), batch.targets).mean()

    batches = text_batches(watch.total, batch_size, length)
    optimizer = optimizer_of(what["optimizer"], learning_rate=1e-3)
    if what["loop"] == "Trainer":
        in_trainer(
            part, watch, LanguageModeling(network, optimizer), {"train_dataloaders": batches}
        )
    else:
        plain_loop(part, watch, network, batches, loss_of, optimizer, what["precision"])
    return watch.figures("tokens", batch_size * length, flops / length)


def text_batches(num_batches: int, batch_size: int, length: int) -> Any:
    """Return batches of windows that begin anywhere in the help texts of Python, as bytes."""
    from pydoc_data.topics import topics

    import numpy as np

    from project.data.loader import SeededLoader
    from project.data.text import take_windows

    text = np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode(), np.uint8)

    def make_batch(indices: Any, epoch: int) -> Any:
        starts = indices.numpy() * 7919 % (len(text) - length)
        counted = np.full(len(starts), length)
        return take_windows(text, starts, counted, length, continues=False)

    return SeededLoader(num_batches * batch_size, batch_size, make_batch, shuffle=True)


def cnn(part: Part) -> None:
    what = {"network": "mnist_cnn", "precision": "bf16-mixed"}
    plans = [  # (loop, images a batch, compiled, layout, optimizer, augmented)
        ("plain", 1024, True, "channels last", "AdamW", False),
        ("Trainer", 1024, True, "channels last", "AdamW", False),
        ("plain", 1024, False, "channels last", "AdamW", False),
        ("Trainer", 1024, False, "channels last", "AdamW", False),
        ("plain", 1024, True, "channels first", "AdamW", False),
        ("plain", 1024, False, "channels first", "AdamW", False),
        ("plain, usual path", 1024, False, "channels last", "AdamW", False),
        ("Trainer", 4096, True, "channels last", "AdamW", False),
        ("plain", 4096, True, "channels last", "AdamW", False),
        ("Trainer", 1024, True, "channels last", "MuonAdamW", False),
        ("Trainer", 1024, True, "channels last", "MuonAdamW", True),
    ]
    names = ("loop", "batch", "compiled", "layout", "optimizer", "augmented")
    for plan in plans:
        figure = what | dict(zip(names, plan, strict=True))
        part.measure(figure, partial(cnn_speed, part, **figure))


def cnn_speed(part: Part, **what: Any) -> dict[str, Any]:
    """Return images a second of the CNN, in the loop, precision and so on that `what` names."""
    import torch
    import torch.nn.functional as F

    from project.costs.flops import training_flops
    from project.data.augment import Augmentation
    from project.data.images import ImageData
    from project.models.cnn import CNN
    from project.tasks.image_classification import ImageClassification

    class ChannelsFirst(CNN):
        """The same network, with weights and images as torch lays them by default."""

        def __init__(self, **sizes: Any) -> None:
            super().__init__(**sizes)
            self.to(memory_format=torch.contiguous_format)

        def forward(self, images: Any) -> Any:
            x = F.max_pool2d(self.stem(images), 2)
            x = self.widen2(x)
            x = F.max_pool2d(x + self.residual2(x), 2)
            x = self.widen3(x)
            x = self.pool(x + self.residual3(x))
            return self.head(self.drop(x).flatten(1))

    sizes = settings("mnist_cnn") | ({"width": 4} if part.is_smoke else {})
    cls = ChannelsFirst if what["layout"] == "channels first" else CNN
    batch_size = 16 if part.is_smoke else what["batch"]
    torch.manual_seed(0)
    network = cls(**sizes)
    flops = training_flops(network, torch.zeros(2, 1, 28, 28)) or math.nan
    if what["compiled"]:
        network.compile(dynamic=False, backend=part.compiler)
    watch = StepTimes(part, steps=max(20, 204_800 // batch_size))
    augment = Augmentation(**AUGMENT) if what["augmented"] else None
    data = ImageData(bright_images(part), batch_size=batch_size, augment=augment, seed=0)
    data.setup("fit")
    optimizer = optimizer_of(what["optimizer"], learning_rate=4e-3)
    if what["loop"] == "Trainer":
        in_trainer(part, watch, ImageClassification(network, optimizer), {"datamodule": data})
    else:
        train = data.splits["train"]
        if what["loop"] == "plain":
            train.images, train.labels = train.images.to(part.device), train.labels.to(part.device)
            loader: Any = data.train_dataloader()
        else:
            loader = usual_loader(part, train, batch_size)
        batches = itertools.chain.from_iterable(itertools.repeat(loader))

        def loss_of(network: Any, batch: Any) -> Any:
            return F.cross_entropy(network(batch[0]).float(), batch[1])

        plain_loop(part, watch, network, batches, loss_of, optimizer, what["precision"])
    return watch.figures("images", batch_size, flops)


AUGMENT = {"rotate_degrees": 12, "scale": 0.12, "translate_pixels": 2}  # of mnist_cnn.yaml


def bright_images(part: Part) -> Any:
    """Return 60,000 images of noise, as large as MNIST's, whose brightness is their class."""
    import torch

    from project.data.image_sets import ImageSet, LabelledImages

    class Bright(ImageSet):
        class_names = tuple("0123456789")

        def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
            count = 1_000 if part.is_smoke else 60_000
            labels = torch.arange(count) % 10
            noise = torch.randint(0, 64, (count, 1, 28, 28), dtype=torch.uint8)
            images = noise + 19 * labels.to(torch.uint8)[:, None, None, None]
            return LabelledImages(images, labels), LabelledImages(images[:100], labels[:100])

    return Bright()


def usual_loader(part: Part, train: Any, batch_size: int) -> Any:
    """Return torchvision's MNIST in a DataLoader, with the workers and options usual on a GPU."""
    from torch.utils.data import DataLoader
    from torchvision import transforms

    from project.benchmarks.data_path import torchvision_set

    normalise = [transforms.ToTensor(), transforms.Normalize(0.5, 0.25)]
    return DataLoader(
        torchvision_set(train.images, train.labels, transforms.Compose(normalise)),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2 if part.is_smoke else 8,
        pin_memory=part.device.type == "cuda",
        persistent_workers=True,
    )


def table(part: Part) -> None:
    precisions = ("bf16-mixed", "32-true, TF32", "bf16-true", "32-true")
    plain = {"loop": "plain", "optimizer": "AdamW"}
    for compiled, precision in itertools.product((False, True), precisions):
        how = {"precision": precision, "compiled": compiled, **plain}
        images = {"network": "mnist_cnn", "batch": 1024, "layout": "channels last", **how}
        images["augmented"] = False
        if precision != "bf16-true":  # its images would have to be bf16 too
            part.measure(images, partial(cnn_speed, part, **images))
        text = {"network": "gpt2_124m", "batch": 16, **how}
        part.measure(text, partial(gpt_speed, part, **text))


def training(part: Part) -> None:
    """Train what a configuration describes, and measure the best on its validation and test."""
    import yaml

    what = {"config": part.training}
    if "DATA_DIR" not in os.environ:
        return part.say({"part": "training", **what, "error": "DATA_DIR is not set"})
    config = yaml.safe_load((REPOSITORY / "configs" / f"{part.training}.yaml").read_text())
    if part.is_smoke:
        shrink(config)
    with tempfile.TemporaryDirectory() as folder:
        part.measure(what, partial(trained, part, config, Path(folder)))


def trained(part: Part, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fit, and return what the best checkpoint measures; stops when the part's time is over."""
    import lightning.pytorch as lightning
    from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

    from project.checkpoints.interruption import FiniteLoss
    from project.checkpoints.resume_point import StepSeed

    class Deadline(lightning.Callback):
        is_over = False

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if part.left() < 0:
                self.is_over = trainer.should_stop = True

    lightning.seed_everything(config["seed_everything"], verbose=False)
    if config["data"]["class_path"] == "TextData":
        config["data"]["init_args"]["cache_dir"] = str(folder / "tokens")
    task, data = built(config["model"]), built(config["data"])
    best = ModelCheckpoint(folder, monitor=config["best"]["monitor"], mode=config["best"]["mode"])
    deadline = Deadline()
    arguments = config["trainer"]
    arguments["callbacks"] = [built(callback) for callback in arguments.pop("callbacks", [])]
    arguments["callbacks"] += [StepSeed(0), FiniteLoss(lambda: "nothing is kept"), best, deadline]
    trainer = lightning.Trainer(
        **arguments,
        accelerator=part.device.type,
        devices=1,
        precision="bf16-mixed",
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )
    started = time.perf_counter()
    trainer.fit(task, datamodule=data)
    found: dict[str, Any] = {
        "steps": trainer.global_step,
        "cut_short": deadline.is_over,
        "training_seconds": round(time.perf_counter() - started, 1),
    }
    if deadline.is_over:
        print(f"cut short after {trainer.global_step} steps: not the result of the whole run")
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, WeightAveraging)]
    for split, evaluate in (("val", trainer.validate), ("test", trainer.test)):
        if split in data.splits:
            evaluate(task, datamodule=data, ckpt_path=best.best_model_path, verbose=False)
            found[split] = task.measured
    return found


def shrink(config: dict[str, Any]) -> None:
    """Make a configuration one of two steps, for a trial on a CPU."""
    network = config["model"]["init_args"]["network"]["init_args"]
    network["width"] = 24 if "num_heads" in network else 8
    config["data"]["init_args"] |= {"batch_size": 4, "eval_batch_size": 8}
    if "context_length" in config["data"]["init_args"]:
        config["data"]["init_args"]["context_length"] = 32
    limits = {"max_epochs": -1, "max_steps": 2, "limit_val_batches": 2, "limit_test_batches": 2}
    config["trainer"] |= limits | {"val_check_interval": 2, "check_val_every_n_epoch": None}


def built(part: Any) -> Any:
    """Return the object of {class_path, init_args}; optimizers and schedules as partial.

    Strings that YAML takes for text, as 2e-3, become numbers, and bare names our classes.
    """
    arguments = {}
    for key, value in part.get("init_args", {}).items():
        if isinstance(value, str) and re.fullmatch(r"[\d.]+e-?\d+", value):
            value = float(value)
        elif key in ("dataset", "corpus", "tokenizer") and isinstance(value, str):
            value = class_named(value)()
        elif key == "augment":
            value = class_named("Augmentation")(**value)
        elif isinstance(value, dict) and "class_path" in value:
            value = built(value)
        arguments[key] = value
    cls = class_named(part["class_path"])
    is_partial = cls.__module__.startswith(
        ("torch.optim", "project.optimization.muon")
    ) or issubclass(cls, class_named("WarmupDecay"))
    return partial(cls, **arguments) if is_partial else cls(**arguments)


def class_named(name: str) -> Any:
    """Return our class of a bare name, found by reading the files, else torch's optimizer."""
    import torch

    for file in sorted((REPOSITORY / "project").glob("*/*.py")):
        if re.search(rf"^class {name}\b", file.read_text(encoding="utf-8"), flags=re.MULTILINE):
            module = importlib.import_module(f"project.{file.parent.name}.{file.stem}")
            return getattr(module, name)
    return getattr(torch.optim, name)


if __name__ == "__main__":
    sys.exit(main())
