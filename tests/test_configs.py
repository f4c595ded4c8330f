"""Every file in `configs/` trains a batch: a new one is tested without an edit here."""

import json
from pathlib import Path

import pytest

from project.configuration import CONFIGS
from project.training.run import command

FILES = sorted(CONFIGS.glob("*.yaml"))
ONE_BATCH = [
    "--trainer.max_epochs=1",
    "--trainer.max_steps=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.accelerator=cpu",
]


@pytest.mark.parametrize("config", FILES, ids=lambda path: path.stem)
def test_trains_validates_and_tests_a_batch(config: Path, stand_in_data: Path, tmp_path) -> None:
    arguments = ["--config", str(config), "--data.root", str(stand_in_data), *ONE_BATCH]
    assert command([*arguments, "--data.batch_size=32"]) == 0
    (record,) = (tmp_path / "runs").glob(f"*_{config.stem}_*/run.json")
    assert json.loads(record.read_text())["status"] == "finished"


@pytest.mark.parametrize("config", FILES, ids=lambda path: path.stem)
def test_names_its_command_and_its_result_on_top(config: Path) -> None:
    header = [line for line in config.read_text().splitlines() if line.startswith("#")]
    is_default = config.stem == "default"
    command_line = "python -m project.train" + (
        "" if is_default else f" --config configs/{config.name}"
    )
    assert f"#   {command_line}" in header
    assert any("measured" in line for line in header)
