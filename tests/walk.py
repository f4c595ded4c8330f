"""A walk through everything, as a user types it, on embedded data, without network or account.

    python tests/walk.py        (or `make walk`; under five minutes on two CPU cores)

Prints each command and what it answers. Ends with 1 at the first that does not end as it should.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
QUICK = "--trainer.max_epochs 4 --model.network.width 16"
DOCS = (
    "--config configs/docs_transformer.yaml --trainer.max_steps 40 --model.network.width 64 "
    "--model.network.depth 2 --trainer.val_check_interval 20"
)
STEPS = [  # (what is done, command); RUN(name) is the newest run of an experiment
    ("two seeds of a CNN", f"train --seeds 0..1 {QUICK}"),
    ("the same command again finds them", f"train --seeds 0..1 {QUICK}"),
    ("three folds", f"train --data.num_folds 3 --folds 0..2 {QUICK} --experiment folds"),
    ("a GPT on text, and in W&B, offline", f"train {DOCS} --wandb.mode offline"),
    ("test a run again", "evaluate RUN(default)"),
    (
        "test it on another validation split",
        "evaluate RUN(default) --split val --data.split_seed 1",
    ),
    ("test a language model", "evaluate RUN(docs_transformer)"),
    ("classify pictures", "predict RUN(default) pictures --top 3"),
    ("measure a text", "predict RUN(docs_transformer) README.md"),
    ("a report on a classifier", "report RUN(default) --n 200"),
    ("a report on a language model", "report RUN(docs_transformer) --n 100"),
    ("write a text", "generate RUN(docs_transformer) --prompt 'The ' --max_tokens 80"),
    (
        "fine-tune with frozen layers",
        f"train --init_from RUN(default) --freeze 'stem.*' {QUICK} --experiment finetuned",
    ),
    ("four architectures on images and text", "matrix --trainer.max_steps 20"),
    (
        "search for the best values",
        "sweep --config configs/sweep/digits_cnn.yaml --trials 4 --processes 2",
    ),
    ("compare everything", "compare --write comparison.html comparison.md comparison.csv"),
    ("export a network", "export RUN(default)"),
]


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(REPOSITORY / "configs", folder / "configs")
        shutil.copy(REPOSITORY / "README.md", folder)
        write_pictures(folder / "pictures")
        started = time.perf_counter()
        for number, (title, command) in enumerate(STEPS, start=1):
            say(f"{number}. {title}")
            if not ended_well(command, folder):
                return 1
        say(f"{len(STEPS) + 1}. the dashboard")
        if not dashboard_answers(folder):
            return 1
        say(f"walked in {time.perf_counter() - started:.0f} s")
    return 0


def say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def environment() -> dict[str, str]:
    hidden = ("DATA_DIR", "WANDB_API_KEY", "LOCAL_RANK", "PROJECT_RUN_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "PYTHONPATH": str(REPOSITORY)}


def ended_well(command: str, folder: Path) -> bool:
    """Run a command of the project in a folder and show what it answers."""
    words = [with_run(word, folder) for word in shlex.split(command)]
    print(f"$ python -m project.{shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"project.{words[0]}", *words[1:]],
                          cwd=folder, env=environment())  # fmt: skip
    if done.returncode != 0:
        print(f"ended with {done.returncode}", file=sys.stderr)
    return done.returncode == 0


def with_run(word: str, folder: Path) -> str:
    """Return the newest run directory of the experiment in `RUN(experiment)`."""
    if not word.startswith("RUN("):
        return word
    experiment = word.removeprefix("RUN(").removesuffix(")")
    found = sorted((folder / "runs").glob(f"2*_{experiment}_*"))
    return str(found[-1].relative_to(folder))


def write_pictures(folder: Path) -> None:
    """Write a few digits as files, one of them large and in colour."""
    from PIL import Image

    from project.data.image_sets import Digits

    folder.mkdir()
    _, test = Digits().load(folder)
    for i in range(4):
        image = Image.fromarray(test.images[i, 0].numpy())
        image.save(folder / f"{i}_is_a_{test.labels[i]}.png")
    image.resize((320, 240)).convert("RGB").save(folder / "large.jpg")


def dashboard_answers(folder: Path) -> bool:
    """Start the dashboard, ask it for the runs, and end it."""
    print("$ python -m project.dashboard --port 0 --no_browser", flush=True)
    words = [sys.executable, "-m", "project.dashboard", "--port", "0", "--no_browser"]
    process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        print(line, end="")
        for _ in range(60):
            with urllib.request.urlopen(f"{line.split()[0]}data/runs", timeout=10) as answer:
                if b"default" in answer.read():
                    return True
            time.sleep(0.5)
        return False
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
