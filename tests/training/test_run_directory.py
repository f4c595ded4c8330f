"""Run directories, the record of the code, intervals."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from project.training import run_directory
from project.training.intervals import mean_interval, wilson_interval
from project.training.progress import ValidationLines, progress_display
from project.training.results import closing_table
from project.training.run_directory import create_run_directory, write_patch


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


def test_patch_brings_a_fresh_clone_to_the_code_that_ran(tmp_path, monkeypatch) -> None:
    def git(*arguments: str, cwd: Path) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        answer = subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True,
                                capture_output=True, text=True)  # fmt: skip
        return answer.stdout

    repository = tmp_path / "repository"
    package = repository / "project" / "training"
    package.mkdir(parents=True)
    git("init", "-q", cwd=repository)
    (repository / ".gitignore").write_text("secret\n")
    (package / "old.py").write_text("a = 1\n")
    git("add", "-A", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    git("clone", "-q", str(repository), str(tmp_path / "clone"), cwd=tmp_path)
    (package / "old.py").write_text("a = 2\n")
    (repository / "new.py").write_text("b = 3\n")
    (repository / "secret").write_text("password\n")
    before = git("status", "--porcelain", cwd=repository)

    monkeypatch.setattr(run_directory, "__file__", str(package / "run_directory.py"))
    write_patch(tmp_path)
    assert git("status", "--porcelain", cwd=repository) == before
    patch = tmp_path / "code.patch"
    assert "password" not in patch.read_text()
    git("apply", str(patch), cwd=tmp_path / "clone")
    assert (tmp_path / "clone" / "new.py").read_text() == "b = 3\n"
    assert (tmp_path / "clone" / "project" / "training" / "old.py").read_text() == "a = 2\n"


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(9970, 10_000, 0.99572, 0.99790), (9979, 10_000, 0.99679, 0.99863), (0, 10, 0.0, 0.2775)],
)
def test_wilson_interval_equals_published_values(right, count, low, high) -> None:
    assert wilson_interval(right, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_mirrors(counts) -> None:
    right, count = counts
    low, high = wilson_interval(right, count)
    assert 0 <= low <= right / count <= high <= 1
    mirrored = wilson_interval(count - right, count)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_no_trials_give_no_interval() -> None:
    with pytest.raises(ValueError, match="0 trials"):
        wilson_interval(0, 0)


def test_interval_of_a_mean_holds_it_19_times_in_20() -> None:
    numbers = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        counts = numbers.integers(5, 50, 40)
        sums = numbers.gamma(counts, 2.0)  # of `counts` draws whose mean is 2
        interval = mean_interval(sums.tolist(), counts.tolist())
        assert interval is not None
        held += interval[0] <= 2.0 <= interval[1]
    assert 920 <= held <= 970


def test_interval_of_a_mean_needs_two_groups() -> None:
    assert mean_interval([3.0], [2]) is None


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
