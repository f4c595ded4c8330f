"""Train with DDP and with FSDP on two processes, and compare: prints {scenario: differences}.

    python tests/distributed/sharded_runs.py gpt lstm

Processes are forks of this one, as in the kill matrix, so that a scenario costs no import.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))

import torch
from kill_matrix import (
    EMA,
    FOLDERS,
    SHARDED,
    Moment,
    Row,
    command_line,
    compare,
    finish,
    kill_and_resume,
    moments_of,
    prepare,
    start,
)
from torch import nn

from project.checkpoints.checkpoint_file import read
from project.export import main as export
from project.inference.evaluation import evaluate
from project.models.cnn import CNN

CLIP = ("--trainer.gradient_clip_val=0.1",)
TIED = ("--model.network.tied=true",)
WHOLE = ("--trainer.limit_val_batches=1.0", "--trainer.limit_test_batches=1.0")  # and windows


def gpt(folder: Path) -> Iterator[str]:
    """Bit by bit, with samples and random windows; then its folders are used by one process."""
    row = Row("", "GPT", optimizer="MuonAdamW", processes=2, flags=(*TIED, *WHOLE))
    ddp, fsdp = both(row, FOLDERS, folder)
    yield from differences(ddp, fsdp, atol=0)
    if "|" not in (run_in(fsdp) / "samples.txt").read_text():
        yield "no samples"
    if "loss_random_windows" not in record(fsdp)["metrics"]["val"]:
        yield "no random windows"
    before = record(fsdp)["metrics"]["test"]["loss"]["value"]
    with chdir(fsdp):  # where its text is
        for checkpoint in (run_in(fsdp), consolidated(run_in(fsdp))):
            after = evaluate(str(checkpoint), device="cpu")["metrics"]["test"]["loss"]["value"]
            if abs(before - after) > 1e-5:
                yield f"{checkpoint.name} measures {after} and measured {before}"


def consolidated(run: Path) -> Path:
    assert export([str(run), "--consolidate"]) == 0
    made = run / "export" / "best.ckpt"
    assert made.is_file()
    return made


def accumulated(folder: Path) -> Iterator[str]:
    """Clipping and accumulation round otherwise, which Muon in bfloat16 enlarges."""
    row = Row("", "GPT", optimizer="MuonAdamW", processes=2, accumulate=2, flags=(*TIED, *CLIP))
    yield from differences(*both(row, SHARDED, folder), atol=2e-3)


def lstm(folder: Path) -> Iterator[str]:
    """A tied embedding, weights used outside of their layer, state from batch to batch."""
    row = Row("", "RNNLanguageModel", processes=2, streams=True)
    yield from differences(*both(row, SHARDED, folder), atol=0)


def cnn(folder: Path) -> Iterator[str]:
    """Batch norm, dropout, an average, frozen parts; sharded filters are contiguous."""
    built = CNN.__init__

    @wraps(built)
    def contiguous(self: Any, *args: Any, **kwargs: Any) -> None:
        built(self, *args, **kwargs)
        self.to(memory_format=torch.contiguous_format)

    CNN.__init__ = contiguous
    row = Row("", "CNN", processes=2, flags=(*EMA, "--freeze=[stem.*]"))
    yield from differences(*both(row, SHARDED, folder), atol=0)
    CNN.__init__ = built


def channels_last(folder: Path) -> Iterator[str]:
    """Other kernels round otherwise; dropout draws the same."""
    row = Row("", "CNN", processes=2, flags=("--trainer.max_epochs=1", *CLIP))
    yield from differences(*both(row, SHARDED, folder), atol=2e-3)


def others(folder: Path) -> Iterator[str]:
    for row in (
        Row("ViT", "ViT", optimizer="MuonAdamW", processes=2),
        Row("RNN", "RNN", processes=2),
        Row("MLP", "MLP", optimizer="SGD", processes=2),
        Row("GPT in bfloat16", "GPT", processes=2, flags=("--trainer.precision=bf16-mixed",)),
    ):
        for text in differences(*both(row, SHARDED, folder / row.name), atol=0):
            yield f"{row.name}: {text}"


def killed(folder: Path) -> Iterator[str]:
    """Killed and resumed bit by bit, as files and as folders, and stopped by a signal."""
    rows = (
        Row("", "GPT", optimizer="MuonAdamW", processes=2, strategy=SHARDED, flags=CLIP),
        Row("", "CNN", processes=2, strategy=FOLDERS, flags=EMA),
    )
    for row in rows:
        whole = trained(row, folder / row.network)
        for name in ("in write", "in validation", "SIGTERM"):
            moment = moments_of(row).get(name, Moment("sigterm", 7, rank=1))
            place = folder / f"{row.network} {name}"
            for text in kill_and_resume(row, name, moment, whole, 0, place).differences:
                yield f"{row.network}, {name}: {text}"


def compiled(folder: Path) -> Iterator[str]:
    """Block by block, or whole where there are none; equal to what is not compiled to rounding."""
    compile_in_place = nn.Module.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        with open("graphs.txt", "a") as file:
            file.write(" ".join(str(node.target) for node in graph.graph.nodes) + "\n")
        return graph.forward

    for network, operation in (("GPT", "scaled_dot_product_attention"), ("CNN", "conv2d")):
        row = Row("", network, processes=2, strategy=SHARDED)
        plain = trained(row, folder / network / "plain")
        nn.Module.compile = lambda module: compile_in_place(module, backend=backend)
        fast = trained(replace(row, flags=("--speed.compile=true",)), folder / network / "fast")
        nn.Module.compile = compile_in_place
        yield from differences(plain, fast, atol=1e-4)
        graphs = fast / "graphs.txt"
        if not graphs.is_file() or operation not in graphs.read_text():
            yield f"{network}: no graph with {operation}"


def damaged(folder: Path) -> Iterator[str]:
    """Slices of the second process are damaged: both go on from the checkpoint before."""
    row = Row("", "CNN", processes=2, strategy=FOLDERS)
    whole, stopped = trained(row, folder / "whole"), folder / "stopped"
    prepare(row, stopped)
    finish(start(row, command_line(row), stopped, Moment("sigterm", 7, rank=1)))
    slices = run_in(stopped) / "checkpoints" / "last.ckpt" / "slices-1.ckpt"
    content = bytearray(slices.read_bytes())
    content[len(content) // 2] ^= 1
    slices.write_bytes(content)
    codes = finish(start(row, command_line(row, True, stopped), stopped, None))
    if any(codes) or "which is older" not in (stopped / "log.txt").read_text():
        yield f"{codes}: {(stopped / 'log.txt').read_text()[-1500:]}"
    yield from compare(whole, stopped)


def both(row: Row, strategy: str, folder: Path) -> tuple[Path, Path]:
    """Train with DDP and sharded; return the folders of the two."""
    return (
        trained(row, folder / "ddp"),
        trained(replace(row, strategy=strategy), folder / "fsdp"),
    )


def trained(row: Row, folder: Path) -> Path:
    prepare(row, folder)
    codes = finish(start(row, command_line(row), folder, None))
    log = (folder / "log.txt").read_text()
    assert not any(codes), f"{row.name} ended with {codes}:\n{log[-3000:]}"
    assert "WeightAveraging callback" not in log, log  # Lightning warns of configure_model
    return folder


def run_in(folder: Path) -> Path:
    (directory,) = (d for d in folder.glob("runs/*") if (d / "run.json").is_file())
    return directory


def record(folder: Path) -> dict[str, Any]:
    return json.loads((run_in(folder) / "run.json").read_text())


def differences(ddp: Path, fsdp: Path, atol: float) -> Iterator[str]:
    """Yield what is not the same of two runs: checkpoints to the bit or nearly, figures nearly."""
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (flat(read(run_in(f) / "checkpoints" / name)) for f in (ddp, fsdp))
        if a.keys() != b.keys():
            yield f"{name} holds {a.keys() ^ b.keys()}"
        for key in a.keys() & b.keys():
            if not torch.allclose(a[key].double(), b[key].double(), rtol=atol, atol=atol):
                yield f"{name} {key}: {(a[key].double() - b[key].double()).abs().max():.2g}"
    for split in ("val", "test"):
        a, b = (record(f)["metrics"][split]["loss"]["value"] for f in (ddp, fsdp))
        if abs(a - b) > atol:
            yield f"{split} loss {a} and {b}"
    if (
        atol == 0
        and (run_in(ddp) / "metrics.csv").read_text() != (run_in(fsdp) / "metrics.csv").read_text()
    ):
        yield "metrics.csv"


def flat(tree: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of the weights and the optimizer, by their places."""
    if isinstance(tree, torch.Tensor):
        return {path: tree}
    if not isinstance(tree, dict | list):
        return {}
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = {}
    for key, value in pairs:
        if path or key in ("state_dict", "optimizer_states", "current_model_state"):
            found |= flat(value, f"{path}.{key}")
    return found


SCENARIOS: dict[str, Callable[[Path], Iterator[str]]] = {
    s.__name__: s
    for s in (gpt, accumulated, lstm, cnn, channels_last, others, compiled, killed, damaged)
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp())
    found = {name: list(SCENARIOS[name](place / name)) for name in sys.argv[1:]}
    shutil.rmtree(place)
    print("\n" + json.dumps(found))
