"""Kill training runs at many moments, resume them, and compare all they leave, bit by bit.

    python tests/reliability/kill_matrix.py              the whole matrix and 100 random moments
    python tests/reliability/kill_matrix.py --small      what `make test` runs
    python tests/reliability/kill_matrix.py --only GPT   rows whose name begins so

A row is one configuration. It runs once without a stop. Then, for each moment, a process is ended
by `kill -9` at that moment, and `project.train --resume` goes on in another one until the end.
Compared are the weights, the optimizer, schedules, counters and callbacks of `last.ckpt`, the
weights of `best.ckpt`, `metrics.csv`, `samples.txt`, TensorBoard's scalars, the results in
`run.json` and, of every training step taken, the bits of its batch and of its loss.

Processes are forks of this one, so that a start costs no import: each is killed and ended as any
other. Everything is on one thread a process, on two processes for rows with DDP or FSDP.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from project.checkpoints import checkpoint_file
from project.checkpoints.checkpoint_file import read
from project.tasks.image_classification import ImageClassification
from project.tasks.language_modeling import LanguageModeling
from project.training.command import command

IMAGES = """\
model:
  class_path: ImageClassification
  init_args:
    network:
      class_path: NETWORK
      init_args: {in_channels: 1, image_size: 8, num_classes: 10, dropout: 0.2}
    optimizer: {class_path: OPTIMIZER, init_args: {lr: 3e-3}}
    scheduler: SCHEDULER
data:
  class_path: ImageData
  init_args: {dataset: Digits, batch_size: 16, augment: {shift_pixels: 1, rotate_degrees: 5}}
"""
TEXT = """\
model:
  class_path: LanguageModeling
  init_args:
    network: {class_path: NETWORK, init_args: ARGUMENTS}
    optimizer: {class_path: OPTIMIZER, init_args: {lr: 3e-3}}
    scheduler: SCHEDULER
    sample_tokens: 20
data:
  class_path: TextData
  init_args:
    corpus: {class_path: TextCorpus, init_args: {path: text.txt}}
    context_length: 16
    batch_size: 4
    streams: STREAMS
"""
TRAINER = """\
trainer:
  accelerator: cpu
  precision: 32-true
  max_epochs: 3
  limit_train_batches: 8
  limit_val_batches: 2
  limit_test_batches: 2
  log_every_n_steps: 1
  enable_model_summary: false
  enable_progress_bar: false
best: {monitor: val/loss, mode: min}
checkpoint_minutes: 0
"""
STEPS_OF_AN_EPOCH = 8
WORDS = "the quick brown fox jumps over the lazy dog and then it sleeps for a long while\n"


@dataclass(frozen=True)
class Row:
    """A configuration whose runs are killed.

    Args:
        flags: Arguments of `project.train` after the configuration.
        processes: 1, or 2 with a strategy.
        workers: That make batches before the kill, and after it.
    """

    name: str
    network: str
    optimizer: str = "AdamW"
    scheduler: str = "{class_path: WarmupDecay}"
    flags: tuple[str, ...] = ()
    processes: int = 1
    strategy: str = "ddp"
    workers: tuple[int, int] = (0, 0)
    streams: bool = False
    accumulate: int = 1

    def config(self) -> str:
        arguments = {
            "RNNLanguageModel": "{width: 24, depth: 2, dropout: 0.2, weight_drop: 0.2}",
            "GPT": "{context_length: 16, width: 32, depth: 2, num_heads: 2, dropout: 0.2}",
        }
        template = (TEXT if self.network in arguments else IMAGES) + TRAINER
        for name, value in (
            ("NETWORK", self.network),
            ("ARGUMENTS", arguments.get(self.network, "")),
            ("OPTIMIZER", self.optimizer),
            ("SCHEDULER", self.scheduler),
            ("STREAMS", str(self.streams).lower()),
        ):
            template = template.replace(name, value)
        return template


@dataclass(frozen=True)
class Moment:
    """When a process is killed.

    Args:
        at: `before update`, `after update`, `in step`, `in validation`, `in test`, `in write`,
            `after write`, `sigterm`, or `any time`.
        count: How many times that has happened by then; for `any time` the share of the run's
            seconds, in thousandths.
        rank: Process that it happens to.
    """

    at: str
    count: int
    rank: int = 0


@dataclass
class Verdict:
    """What a kill came to."""

    row: str
    column: str
    differences: list[str] = field(default_factory=list)
    replayed: int = 0  # training steps that were taken a second time
    seconds: float = 0.0


EMA = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9")
PLATEAU = "{class_path: ReduceLROnPlateau, init_args: {monitor: val/loss, patience: 0, mode: max}}"
ONE_CYCLE = "{class_path: OneCycleLR, init_args: {max_lr: 3e-3}}"
SHARDED = "{class_path: ShardedStrategy}"
FOLDERS = "{class_path: ShardedStrategy, init_args: {save_distributed_checkpoint: true}}"
SPARSE = ("--checkpoint_minutes=0.002",)  # steps are lost, and taken again
ROWS = (
    Row("MLP", "MLP"),
    Row("CNN", "CNN"),
    Row("LSTM", "RNNLanguageModel", streams=True),
    Row("GPT", "GPT"),
    Row("MLP, 2 workers", "MLP", workers=(2, 2)),
    Row("CNN, 2 workers", "CNN", workers=(2, 2)),
    Row("LSTM, 2 workers", "RNNLanguageModel", streams=True, workers=(2, 2)),
    Row("GPT, 2 workers", "GPT", workers=(2, 2)),
    Row("CNN, 0 then 2 workers", "CNN", workers=(0, 2)),
    Row("LSTM over rows", "RNN"),
    Row("ViT, Muon", "ViT", optimizer="MuonAdamW"),
    Row("CNN, EMA", "CNN", flags=EMA),
    Row("CNN, frozen, Muon, EMA", "CNN", optimizer="MuonAdamW", flags=(
        *EMA, "--freeze=[stem.*, widen2.*]")),
    Row("MLP, sparse", "MLP", flags=SPARSE),
    Row("LSTM, sparse", "RNNLanguageModel", streams=True, flags=SPARSE),
    Row("GPT, sparse, EMA", "GPT", flags=(*SPARSE, *EMA)),
    Row("MLP, plateau", "MLP", scheduler=PLATEAU),
    Row("MLP, plateau, validation by steps", "MLP", scheduler=PLATEAU, flags=(
        "--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null")),
    Row("MLP, OneCycle", "MLP", scheduler=ONE_CYCLE),
    Row("MLP, early stop", "MLP", flags=("--best.patience=2", "--best.mode=max",
                                         "--trainer.max_epochs=6")),
    Row("GPT, validation by steps", "GPT", flags=(
        "--trainer.max_epochs=-1", "--trainer.max_steps=19", "--trainer.val_check_interval=5",
        "--trainer.check_val_every_n_epoch=null")),
    Row("CNN, validation in the epoch", "CNN", flags=("--trainer.val_check_interval=3",)),
    Row("CNN, accumulate 3", "CNN", accumulate=3),
    Row("LSTM, accumulate 2", "RNNLanguageModel", streams=True, accumulate=2),
    Row("MLP, bf16", "MLP", flags=("--trainer.precision=bf16-mixed",)),
    Row("CNN, DDP", "CNN", processes=2),
    Row("LSTM, DDP", "RNNLanguageModel", processes=2, streams=True),
    Row("GPT, DDP, accumulate 2", "GPT", processes=2, accumulate=2),
    Row("GPT, FSDP, Muon, clipped", "GPT", optimizer="MuonAdamW", processes=2, strategy=SHARDED,
        accumulate=2, flags=("--trainer.gradient_clip_val=0.1",)),
    Row("LSTM, FSDP", "RNNLanguageModel", processes=2, strategy=SHARDED, streams=True),
    Row("CNN, FSDP in folders, EMA", "CNN", processes=2, strategy=FOLDERS, flags=EMA),
)  # fmt: skip


def moments_of(row: Row) -> dict[str, Moment]:
    """Return the moments that a row is killed at: {name in the table: moment}."""
    steps = -(-STEPS_OF_AN_EPOCH // row.accumulate)  # of an epoch
    return {
        "middle of epoch": Moment("before update", steps + steps // 2 + 1),
        "end of epoch": Moment("after update", 2 * steps),
        "start of epoch": Moment("before update", 2 * steps + 1),  # the third
        "in validation": Moment("in validation", 3),
        "between updates": Moment("in step", STEPS_OF_AN_EPOCH + 4),
        "in write": Moment("in write", 3 if SPARSE[0] in row.flags else 2 * steps - 1),
    }


SMALL = (
    ("MLP, sparse", "middle of epoch"),
    ("CNN, EMA", "end of epoch"),
    ("CNN, accumulate 3", "between updates"),
    ("LSTM, 2 workers", "middle of epoch"),
    ("GPT", "in write"),
    ("MLP, plateau", "in validation"),
    ("LSTM, DDP", "SIGTERM to one"),
)


# ---------------------------------------------------------------- in the process of a run


def train(row: Row, arguments: list[str], moment: Moment | None, rank: int, port: int) -> int:
    """Run `project.train` here, on one thread, ended at `moment`; return its exit code."""
    torch.set_num_threads(1)
    if row.processes > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "kill-matrix", "GROUP_WORLD_SIZE": "1",
        }  # fmt: skip
        rank_zero_only.rank = rank
    for task in (ImageClassification, LanguageModeling):
        task.training_step = watched(task.training_step, rank)
    if moment is not None and moment.rank == rank:
        arm(moment)
    return command(arguments)


def watched(step: Callable[..., Tensor], rank: int) -> Callable[..., Tensor]:
    """Return a training step that writes down the bits of its batch and its loss."""

    def watched_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss = step(self, batch, batch_idx)
        digest = hashlib.sha256(b"".join(bits(part) for part in batch)).hexdigest()[:16]
        line = f"{self.current_epoch} {batch_idx} {rank} {digest} {loss.item().hex()}\n"
        with open("steps.txt", "a") as file:
            file.write(line)
        return loss

    return watched_step


def bits(value: Any) -> bytes:
    return value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()


def arm(moment: Moment) -> None:
    """Arrange that this process is killed at a moment."""
    happened = 0

    def count(*_: Any, **__: Any) -> None:
        nonlocal happened
        happened += 1
        if happened == moment.count:
            os.kill(os.getpid(), signal.SIGTERM if moment.at == "sigterm" else signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def before(*arguments: Any, **keywords: Any) -> Any:
            count()
            return function(*arguments, **keywords)

        return before

    from torch.optim import optimizer

    if moment.at in ("before update", "sigterm"):
        optimizer.register_optimizer_step_pre_hook(count)
    elif moment.at == "after update":
        optimizer.register_optimizer_step_post_hook(count)
    elif moment.at == "in write":
        write = checkpoint_file.HashedFile.write
        written = [0]

        def half(self: Any, data: bytes) -> int:
            written[0] += self.digest.digest() == hashlib.sha256().digest()  # a new file
            if written[0] >= moment.count and len(data) > 1000:
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return write(self, data)

        checkpoint_file.HashedFile.write = half
    elif moment.at == "after write":
        checkpoint_file.fsync_directory = counted(checkpoint_file.fsync_directory)
    elif moment.at != "any time":
        name = {"in step": "training_step", "in validation": "validation_step",
                "in test": "test_step"}[moment.at]  # fmt: skip
        for task in (ImageClassification, LanguageModeling):
            setattr(task, name, counted(getattr(task, name)))


# ---------------------------------------------------------------- one cell of the matrix


def start(row: Row, arguments: list[str], folder: Path, moment: Moment | None) -> list[int]:
    """Start the processes of a run in a folder; return their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(row.processes):
        sys.stdout.flush()
        if pid := os.fork():
            started.append(pid)
            continue
        code = 1
        try:
            os.chdir(folder)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = train(row, arguments, moment, rank, port)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return started


def finish(pids: list[int], kill_after: float | None = None, limit: float = 120) -> list[int]:
    """Wait for processes; return their exit codes, negative for a signal.

    When one of several is gone by a signal, the others are killed, as a scheduler does.
    """
    started, codes = time.monotonic(), dict.fromkeys(pids, None)
    while None in codes.values():
        for pid in [pid for pid, code in codes.items() if code is None]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        waited = time.monotonic() - started
        is_due = kill_after is not None and waited > kill_after
        if is_due or waited > limit or any(code and code < 0 for code in codes.values()):
            for pid in [pid for pid, code in codes.items() if code is None]:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return [codes[pid] for pid in pids]


def command_line(row: Row, is_resumed: bool = False, folder: Path | None = None) -> list[str]:
    if is_resumed:
        (directory,) = (folder / "runs").iterdir()
        workers = [f"--data.num_workers={row.workers[1]}"] if row.workers[1] else []
        return ["--resume", f"runs/{directory.name}", *workers]
    strategy = ["--trainer.devices=2", f"--trainer.strategy={row.strategy}"]
    distributed = strategy if row.processes == 2 else []
    workers = [f"--data.num_workers={row.workers[0]}"] if row.workers[0] else []
    accumulate = [f"--trainer.accumulate_grad_batches={row.accumulate}"]
    return ["--config", "config.yaml", *row.flags, *accumulate, *distributed, *workers]


def prepare(row: Row, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(row.config())
    lines = random.Random(0)
    words = WORDS.split()
    text = [" ".join(lines.choices(words, k=12)) for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(text))


def reference(row: Row, folder: Path) -> float:
    """Run a row without a stop; return its seconds."""
    prepare(row, folder)
    started = time.monotonic()
    codes = finish(start(row, command_line(row), folder, None))
    if any(codes):
        raise RuntimeError(f"{row.name} ended with {codes}:\n{(folder / 'log.txt').read_text()}")
    return time.monotonic() - started


def kill_and_resume(
    row: Row, column: str, moment: Moment, whole: Path, seconds: float, folder: Path
) -> Verdict:
    """End a run at a moment, resume it, and compare with the run in `whole`."""
    verdict = Verdict(row.name, column)
    started = time.monotonic()
    prepare(row, folder)
    kill_after = seconds * moment.count / 1000 if moment.at == "any time" else None
    codes = finish(start(row, command_line(row), folder, moment), kill_after)
    while kill_after is not None and -signal.SIGKILL not in codes:  # it was faster this time
        shutil.rmtree(folder)
        prepare(row, folder)
        kill_after *= 0.8
        codes = finish(start(row, command_line(row), folder, moment), kill_after)
    if moment.at == "sigterm":
        is_as_expected = set(codes) == {143}  # of all processes
    else:  # another process may have seen the connection break first
        is_as_expected = moment.at == "any time" or codes[moment.rank] == -signal.SIGKILL
    if not is_as_expected:
        verdict.differences.append(f"exit codes {codes}")
        verdict.differences.append((folder / "log.txt").read_text()[-1500:])
        return verdict
    if list(folder.glob("runs/*/run.json")):
        codes = finish(start(row, command_line(row, True, folder), folder, None))
    else:  # it was killed before the run was created: nothing to resume, nothing lost
        shutil.rmtree(folder / "runs", ignore_errors=True)
        codes = finish(start(row, command_line(row), folder, None))
    if any(codes):
        verdict.differences.append(f"--resume ended with {codes}")
        verdict.differences.append((folder / "log.txt").read_text()[-1500:])
        return verdict
    verdict.differences += compare(whole, folder)
    verdict.replayed = len(steps_of(folder)) - len(steps_of(whole))
    verdict.seconds = time.monotonic() - started
    return verdict


def steps_of(folder: Path) -> list[str]:
    path = folder / "steps.txt"
    return path.read_text().splitlines() if path.exists() else []


# ---------------------------------------------------------------- comparing two runs


def compare(whole: Path, resumed: Path) -> list[str]:
    """Return what two runs left that is not the same."""
    found = []
    if set(steps_of(whole)) != set(steps_of(resumed)):
        found.append("batches or losses of the steps")
    (a,), (b,) = (folder.glob("runs/*") for folder in (whole, resumed))
    for name in ("metrics.csv", "samples.txt"):
        texts = [(d / name).read_bytes() if (d / name).exists() else b"" for d in (a, b)]
        if texts[0] != texts[1]:
            found.append(name)
    for name in ("last.ckpt", "best.ckpt"):
        contents = [strip(read(d / "checkpoints" / name)) for d in (a, b)]
        if name == "best.ckpt":
            contents = [content["state_dict"] for content in contents]
        found += [f"{name}: {path}" for path in differences(*contents)]
    records = [json.loads((d / "run.json").read_text()) for d in (a, b)]
    for key in ("metrics", "epochs", "steps", "status", "exit_code"):
        if records[0][key] != records[1][key]:
            found.append(f"run.json: {key}")
    curves, others = scalars(a), scalars(b)
    for tag in sorted(curves.keys() | others.keys()):
        if curves.get(tag) != others.get(tag):
            found.append(f"TensorBoard: {tag} is {others.get(tag)} and was {curves.get(tag)}")
    hidden = [p.name for p in (b / "checkpoints").iterdir() if p.name.startswith(".")]
    return found + [f"left behind: {name}" for name in hidden]


def strip(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint without times, energy, sizes of files with times, and places."""
    content = dict(content)
    content.pop("config")
    left_out = ("files", "energy")
    content["resume"] = {k: v for k, v in content.get("resume", {}).items() if k not in left_out}
    callbacks = {}
    for name, state in content["callbacks"].items():
        if name not in ("RunRecord", "Throughput"):
            callbacks[name] = {
                k: v for k, v in state.items() if "path" not in k and k != "best_k_models"
            }
    content["callbacks"] = callbacks
    return {k: v for k, v in content.items() if k != "datamodule_hyper_parameters"}


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Return where two nested values differ; tensors are compared bit by bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bytes(a), as_bytes(b))
        return [] if same else [path]
    if type(a) is not type(b):
        return [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{path} keys {set(a) ^ set(b)}"]
        return [d for key in a for d in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{path} length"]
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{path}[{i}]")]
    return [] if a == b or (a != a and b != b) else [f"{path}: {a!r} {b!r}"]


def as_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return every (step, value) that TensorBoard has of a run.

    Its files are put in the order of their beginnings. TensorBoard goes by their names, which hold
    the second and the process: forks of one second may stand the wrong way round there.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = [
        EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        for path in directory.glob("events.out.tfevents.*")
    ]
    found: dict[str, list[tuple[int, float]]] = {}
    for events in sorted(files, key=lambda file: file.FirstEventTimestamp()):
        for tag in (t for t in events.Tags()["scalars"] if not t.startswith("speed/")):
            found.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
    return found


# ---------------------------------------------------------------- the matrix


def in_two_at_a_time(tasks: list[Callable[[], Any]], report: Callable[[Any], None]) -> None:
    """Do tasks in forks of this process, two at a time; hand what each returns to `report`."""
    waiting = list(reversed(tasks))
    running: dict[int, Path] = {}
    folder = Path(tempfile.mkdtemp())
    while waiting or running:
        while waiting and len(running) < 2:
            task = waiting.pop()
            answer = folder / str(len(waiting))
            if pid := os.fork():
                running[pid] = answer
                continue
            try:
                torch.save(task(), answer)
            except BaseException:
                torch.save(traceback.format_exc(), answer)
            os._exit(0)
        pid, _ = os.waitpid(-1, 0)
        result = torch.load(running.pop(pid), weights_only=False)  # our own file, just written
        if isinstance(result, str):
            raise RuntimeError(result)
        report(result)
    shutil.rmtree(folder)


def cells(options: argparse.Namespace) -> list[tuple[Row, str, Moment]]:
    """Return every (row, column of the table, moment) that is asked for."""
    rows = {row.name: row for row in ROWS if row.name.startswith(options.only)}
    found = [(row, name, m) for row in rows.values() for name, m in moments_of(row).items()]
    found += [(row, "in test", Moment("in test", 1)) for row in rows.values()]
    found += [
        (row, "after write", Moment("after write", 2 * STEPS_OF_AN_EPOCH // row.accumulate))
        for row in rows.values()
        if not row.flags
    ]
    for row in rows.values():
        if row.processes == 2:
            found += [(row, "SIGTERM to one", Moment("sigterm", 7, rank)) for rank in (1, 0)]
    if options.small:
        return [next(c for c in found if (c[0].name, c[1]) == wanted) for wanted in SMALL]
    moments = random.Random(options.seed)
    for _ in range(options.random):
        row = moments.choice(list(rows.values()))
        found.append((row, "any time", Moment("any time", moments.randrange(50, 1000))))
    return found


def main() -> int:
    form = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    form.add_argument("--small", action="store_true", help="seven kills, one of each kind")
    form.add_argument("--only", default="", help="rows whose name begins so")
    form.add_argument("--random", type=int, default=100, help="kills at random moments; 100")
    form.add_argument("--seed", type=int, default=0, help="of the random moments; 0")
    form.add_argument("--keep", type=Path, help="keep the runs in this folder")
    options = form.parse_args()
    folder = (options.keep or Path(tempfile.mkdtemp())).resolve()
    todo = cells(options)
    rows = {row.name: row for row, *_ in todo}
    seconds: dict[str, float] = {}
    verdicts: list[Verdict] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(
        *columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False
    ) as bars:
        bar = bars.add_task("without a stop", total=len(rows))

        def have_reference(result: tuple[str, float]) -> None:
            seconds[result[0]] = result[1]
            bars.advance(bar)

        def have_verdict(verdict: Verdict) -> None:
            verdicts.append(verdict)
            bars.advance(bar)
            if verdict.differences:
                found = "\n".join([f"{verdict.row}, {verdict.column}:", *verdict.differences[:6]])
                bars.console.print(found, markup=False, highlight=False)

        torch.set_num_threads(1)
        in_two_at_a_time(
            [lambda r=r: (r.name, reference(r, folder / r.name / "whole")) for r in rows.values()],
            have_reference,
        )
        bar = bars.add_task("killed, resumed", total=len(todo))
        in_two_at_a_time(
            [
                lambda r=r, c=c, m=m, i=i: kill_and_resume(
                    r, c, m, folder / r.name / "whole", seconds[r.name], folder / r.name / str(i)
                )
                for i, (r, c, m) in enumerate(todo)
            ],
            have_verdict,
        )
    print(table(list(rows), verdicts))
    if options.keep is None:
        shutil.rmtree(folder)
    return int(any(verdict.differences for verdict in verdicts))


def table(rows: list[str], verdicts: list[Verdict]) -> str:
    """Return a line for each row: kills, of which equal, and steps taken twice."""
    kinds = list(dict.fromkeys(verdict.column for verdict in verdicts))
    lines = [["", *kinds, "equal", "steps twice"]]
    for row in [*rows, "all"]:
        mine = [v for v in verdicts if row in (v.row, "all")]
        line = [row]
        for kind in kinds:
            some = [v for v in mine if v.column == kind]
            line.append(f"{sum(not v.differences for v in some)}/{len(some)}" if some else "")
        line.append(f"{sum(not v.differences for v in mine)}/{len(mine)}")
        line.append(str(sum(v.replayed for v in mine)))
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main())
