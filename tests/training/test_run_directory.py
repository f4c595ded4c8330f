"""The directory of a run, the table that it ends in, and what is shown meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from project.training import run_directory
from project.training.closing_table import closing_table
from project.training.progress import ValidationLines, progress_display
from project.training.run_directory import create_run_directory


def test_twenty_jobs_of_one_second_get_twenty_directories(tmp_path, monkeypatch) -> None:
    # Only 16 suffixes: jobs must notice that a name is taken and draw again.
    letters = iter("0123456789abcdef" * 100)
    monkeypatch.setattr(run_directory.secrets, "token_hex", lambda n: next(letters))

    class SameSecond(run_directory.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, 12, 0, next(seconds) // 16)

    seconds = iter(range(10_000))
    monkeypatch.setattr(run_directory, "datetime", SameSecond)
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda _: create_run_directory(tmp_path, "x"), range(20)))
    assert len(set(made)) == 20
    assert all(path.is_dir() for path in made)


def test_a_started_process_shares_the_directory_of_its_parent(tmp_path, monkeypatch) -> None:
    directory = create_run_directory(tmp_path, "x")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert create_run_directory(tmp_path, "x") == directory
    monkeypatch.delenv("LOCAL_RANK")
    assert create_run_directory(tmp_path, "x") != directory


def test_closing_table_of_a_language_model_fits() -> None:
    loss = {"value": 1.23456, "interval_95": (1.1, 1.3), "count": 111_539, "windows": 1743}
    metrics = {"loss": loss, "perplexity": 3.4, "bits_per_byte": 1.78, "loss_random_windows": 1.2}
    record = {
        "experiment": "shakespeare_transformer_large",
        "epochs": 2,
        "steps": 2000,
        "chosen_by": "val/loss",
        "metrics": {"val": metrics},
        "parameters": 10_642_560,
        "wall_seconds": 10_000.0,
        "tokens_per_second": 1_234_567.0,
        "best_checkpoint": "checkpoints/best.ckpt",
    }
    lines = closing_table(record, Path("runs/name")).splitlines()
    assert max(map(len, lines)) <= 80
    assert "validation loss               1.2346 nats   95 % interval 1.1000 to 1.3000" in lines
    assert "validation loss (nanoGPT)     1.2000 nats" in lines
    assert any("the data have no test split" in line for line in lines)
    assert any("1,234,567 tokens/s" in line for line in lines)


def test_display_suits_where_output_goes(monkeypatch) -> None:
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert isinstance(progress_display(), ValidationLines)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert isinstance(progress_display(), RichProgressBar)
    monkeypatch.setenv("JPY_PARENT_PID", "1")  # `!python -m project.train` in a notebook
    assert isinstance(progress_display(), ValidationLines)
    monkeypatch.setitem(__import__("sys").modules, "ipykernel.kernelapp", object())
    assert isinstance(progress_display(), TQDMProgressBar)
