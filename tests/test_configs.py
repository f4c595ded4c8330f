"""Every file in `configs/` trains a batch: a new one is tested without an edit here."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from project.configuration import CONFIGS
from project.training.command import command

FILES = sorted(CONFIGS.glob("*.yaml"))
ONE_BATCH = [
    "--trainer.max_steps=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.accelerator=cpu",
    "--init_from=null",  # published weights are a download
]
SMALLER = {  # for one batch on a CPU; the sizes are tested below
    "ImageClassification": ["--data.batch_size=32"],
    "LanguageModeling": [
        "--data.batch_size=4",
        "--data.eval_batch_size=4",
        "--trainer.accumulate_grad_batches=1",
        "--model.network.vocab_size=4096",  # as much BPE as the stand-in can give
        "--model.sample_tokens=4",
    ],
}
MOST_PARAMETERS = {  # nanoGPT's budgets
    **dict.fromkeys(("mlp", "cnn", "rnn", "lstm", "transformer"), 810_000),
    **dict.fromkeys(("lstm_large", "transformer_large"), 10_650_000),
}


every_config = pytest.mark.parametrize("config", FILES, ids=lambda path: path.stem)


@every_config
def test_trains_validates_and_tests_a_batch(config: Path, stand_in_data: Path, tmp_path) -> None:
    task = yaml.safe_load(config.read_text())["model"]["class_path"]
    arguments = ["--config", str(config), "--data.root", str(stand_in_data), *ONE_BATCH]
    arguments += SMALLER.get(task, [])
    if "depth:" in config.read_text():
        arguments.append("--model.network.depth=1")
    assert command(arguments) == 0
    (record,) = (tmp_path / "runs").glob(f"*_{config.stem}_*/run.json")
    assert json.loads(record.read_text())["status"] == "finished"


@every_config
def test_names_its_command_and_its_result_on_top(config: Path) -> None:
    header = [line for line in config.read_text().splitlines() if line.startswith("#")]
    is_default = config.stem == "default"
    command_line = "python -m project.train" + (
        "" if is_default else f" --config configs/{config.name}"
    )
    assert any(line.startswith(f"#   {command_line}") for line in header)
    result = " ".join(line.removeprefix("# ") for line in header)
    assert re.search(r"[^t] measured 20\d\d-\d\d-\d\d|Not yet measured: \w+", result)


def parameters_of(config: Path) -> int:
    """Return the parameters of a config's network, built without memory."""
    from project.configuration import project_classes

    network = yaml.safe_load(config.read_text())["model"]["init_args"]["network"]
    module, name = project_classes()[network["class_path"]].rsplit(".", 1)
    with torch.device("meta"):
        built = getattr(__import__(module, fromlist=[name]), name)(**network["init_args"])
    return sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("size", MOST_PARAMETERS)
def test_shakespeare_configs_keep_to_their_budget(size) -> None:
    most = MOST_PARAMETERS[size]
    assert 0.95 * most <= parameters_of(CONFIGS / f"shakespeare_{size}.yaml") <= most


def test_gpt2_124m_has_the_size_of_gpt2() -> None:
    # GPT-2 small has 124.4 M: 50,257 tokens, 1,024 learnt positions, and biases.
    assert parameters_of(CONFIGS / "gpt2_124m.yaml") == pytest.approx(124e6, rel=0.01)
