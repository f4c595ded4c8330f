"""README.md and docs/: every command in them is run, every path and link in them is there.

A command runs in this process, as it is typed, but shortened: a few steps, stand-ins for MNIST and
its kin, one process on the CPU. `<run>` is a run of the kind that the command needs.
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import copy_repository
from PIL import Image

from project.configuration import PACKAGE
from project.training.command import command

REPOSITORY = PACKAGE.parent
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = f"python -m {PACKAGE.name}."
NOT_RUN_HERE = {  # each is run elsewhere
    "source .venv/bin/activate": "by the reader",
    "make train": ".ci/run calls make",
    "make test": "these tests",
    "sbatch configs/slurm/train.sbatch": "tests/distributed/test_slurm.py",
    f"{RUN}benchmark": "tests/test_benchmark.py, by sections",
    f"{RUN}benchmark bottleneck --config configs/mnist_cnn.yaml": "tests/test_benchmark.py",
}
FEW_STEPS = [
    "--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1",
    "--trainer.num_sanity_val_steps=0", "--trainer.accelerator=cpu", "--trainer.devices=1",
    "--trainer.strategy=auto", "--trainer.sync_batchnorm=false", "--speed.compile=false",
]  # fmt: skip
SMALL_TEXT = ["--data.batch_size=4", "--data.eval_batch_size=4", "--model.network.depth=1",
              "--model.sample_tokens=4"]  # fmt: skip
SHORTER = {  # how a command is shortened that does not train
    "matrix": FEW_STEPS,
    "sweep": ["--trials=1"],
    "report": ["--n=40"],
    "generate": ["--max_tokens=8"],
    "dashboard": ["--port=0", "--no_browser"],
}


def fences(document: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(document.read_text("utf-8")) if name == language]


def commands_of(document: Path) -> list[str]:
    """Return what the document has its reader type, without the comments behind it."""
    lines = "\n".join(fences(document, "")).replace("\\\n", " ").splitlines()
    typed = [shlex.join(shlex.split(line, comments=True)) for line in lines
             if re.match(r"(python -m|make|torchrun|sbatch|source) ", line)]  # fmt: skip
    return [line.replace("'<run>'", "<run>") for line in typed]


COMMANDS = list(dict.fromkeys(line for document in DOCUMENTS for line in commands_of(document)))
YOURS = "my_research" if PACKAGE.name != "my_research" else "another_name"  # of the package
IN_A_CLONE = [  # for they change it
    line for line in COMMANDS if re.search(r"\.new |\.rename |configs/my_", line)
]
IN_THIS_PROCESS = [
    line for line in COMMANDS
    if line.startswith(RUN) and line not in (*NOT_RUN_HERE, *IN_A_CLONE)
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, Path]:
    """A short finished run of each kind that `<run>` stands for."""
    folder = tmp_path_factory.mktemp("documents")
    text = ["--config", str(REPOSITORY / "configs/docs_transformer.yaml"), *SMALL_TEXT]
    for name, arguments in (("images", []), ("text", text)):
        place = [f"--data.root={folder / 'data'}", f"--runs_dir={folder / name}"]
        assert command([*arguments, *place, *FEW_STEPS]) == 0
    return {name: next((folder / name).glob("2*")) for name in ("images", "text")}


@pytest.fixture
def workshop(tmp_path, stand_in_data, finished, monkeypatch) -> Path:
    """A clone as its reader has it: configurations, runs, data, pictures and a text."""
    monkeypatch.setenv("DATA_DIR", str(stand_in_data))
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    for kind, run in finished.items():
        shutil.copytree(run, tmp_path / "runs" / kind)
    picture = Image.linear_gradient("L").resize((28, 28))
    (tmp_path / "photos").mkdir()
    for path in (tmp_path / "digit.png", tmp_path / "photos" / "another.jpg"):
        picture.save(path)
    for label in "abcde":
        folder = tmp_path / "data" / "my_pictures" / label
        folder.mkdir(parents=True)
        for i in range(10):
            picture.rotate(10 * i).save(folder / f"{i}.png")
    shutil.copy(REPOSITORY / "README.md", tmp_path / "data" / "my_novel.txt")
    return tmp_path


def with_run(typed: str, data: Path) -> str:
    """Return the command with a run where it says `<run>`, and a folder for `/path/to/data`."""
    text = "generate" in typed or "docs_transformer" in typed
    run = "runs/text" if text else "runs/images"
    if "QMNIST" in typed:
        assert command(["--config", "configs/mnist_mlp.yaml", "--runs_dir=mnist", *FEW_STEPS]) == 0
        run = str(next(Path("mnist").glob("2*")).as_posix())
    return typed.replace("runs/<run>", run).replace("/path/to/data", str(data.as_posix()))


def shortened(words: list[str]) -> list[str]:
    """Return the arguments of `project.train` for two small steps on a CPU."""
    if "--resume" in words:
        return words
    config = words[words.index("--config") + 1] if "--config" in words else ""
    is_text = re.search("docs_|shakespeare|bpe|gpt", config)
    unless_given = [word for word in (SMALL_TEXT if is_text else ["--data.batch_size=32"])
                    if word.split("=")[0] not in words]  # fmt: skip
    published = ["--init_from=null"] if "finetune" in config else []  # weights are a download
    return [*words, *FEW_STEPS, *unless_given, *published]


@pytest.mark.parametrize("typed", IN_THIS_PROCESS)
def test_command_does_what_it_says(typed, workshop, stand_in_data, trained, monkeypatch) -> None:
    if typed in NOT_RUN_HERE:
        assert (
            typed.split()[2].split(".")[1] in (REPOSITORY / "tests/test_benchmark.py").read_text()
        )
        return
    if "sweep/mnist_cnn" in typed:
        pytest.skip("its trials are processes of their own, which know no stand-in for MNIST")
    _, _, module, *words = shlex.split(with_run(typed, stand_in_data))
    name = module.removeprefix(f"{PACKAGE.name}.")
    words = shortened(words) if name == "train" else [*words, *SHORTER.get(name, [])]
    monkeypatch.setattr("time.sleep", ctrl_c if name == "dashboard" else lambda seconds: None)
    assert exit_code(importlib.import_module(module).main, words) == 0


def exit_code(main: Callable[[list[str]], int], words: list[str]) -> int | str | None:
    try:
        return main(words)
    except SystemExit as end:  # --help
        return end.code


def ctrl_c(seconds: float) -> None:
    if seconds > 60:
        raise KeyboardInterrupt


def test_what_changes_a_clone_does_what_it_says(tmp_path) -> None:
    """Add your own, train it, and make all of it yours, in the order of README.md."""
    clone = tmp_path / "clone"
    copy_repository(clone)
    subprocess.run(["git", "init", "--quiet"], cwd=clone, check=True)
    answers = {}
    for typed in IN_A_CLONE:
        words = shlex.split(typed)[1:] + (FEW_STEPS if ".train" in typed else [])
        words += ["--force"] if typed.endswith("my_research") else []  # nothing was committed
        words = [YOURS if word == "my_research" else word for word in words]
        answers[typed] = typed_in(clone, words, clone)
    assert "MyNet" in answers[f"{RUN}train --config configs/my_net.yaml"]
    assert (clone / YOURS / "models" / "my_net.py").is_file()


def typed_in(folder: Path, words: list[str], code: Path = REPOSITORY) -> str:
    """Run Python in a folder, in a process of its own, and return what it printed."""
    env = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchrun_starts_what_it_says(workshop) -> None:
    (typed,) = {line for line in COMMANDS if line.startswith("torchrun")}
    words = shlex.split(typed.removeprefix("torchrun"))
    few = ["--trainer.max_steps=2", "--trainer.accelerator=cpu"]
    said = typed_in(workshop, ["-m", "torch.distributed.run", *words, *few])
    assert "2 processes" in said


def test_every_command_is_run_somewhere() -> None:
    run = [line for line in COMMANDS if line.startswith((RUN, "torchrun"))]
    assert set(COMMANDS) - set(run) <= set(NOT_RUN_HERE)
    assert {line.split(".")[1].split()[0] for line in COMMANDS if line.startswith(RUN)} >= {
        path.stem for path in PACKAGE.glob("*.py") if "__main__" in path.read_text("utf-8")
    } - {"__init__"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_it_runs(document, workshop) -> None:
    for code in fences(document, "python"):
        exec(code.replace("runs/<run>", "runs/images"), {})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_it_names_is_there(document) -> None:
    text = document.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    paths = re.findall(r"`((?:project|configs|tests|docs|notebooks)/[\w/.]+)`", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing + [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= 200
