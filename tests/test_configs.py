"""Every file in `configs/` trains a batch: a new one is tested without an edit here."""

import json
import re
from itertools import takewhile
from pathlib import Path

import pytest
import torch
import yaml
from conftest import OWN_DATA

from project.configuration import CONFIGS, PACKAGE, project_classes
from project.training.command import command

FILES = sorted(CONFIGS.glob("*.yaml"))
MEASURED = [*FILES, *sorted(CONFIGS.glob("sweep/*.yaml"))]
ALL_FILES = sorted(CONFIGS.rglob("*.yaml"))
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


def reads_files_of_your_own(config: Path) -> bool:
    """Return whether the data are a class in a file of its own: there is no stand-in for those."""
    options = yaml.safe_load(config.read_text())["data"]["init_args"]
    source = options.get("dataset") or options.get("corpus") or ""
    name = source["class_path"] if isinstance(source, dict) else source
    module = project_classes().get(name.rsplit(".", 1)[-1], "").rpartition(".")[0]
    return bool(module) and module.rsplit(".", 1)[-1] not in ("image_sets", "corpora")


@every_config
def test_trains_validates_and_tests_a_batch(config, stand_in_data, tmp_path, capsys) -> None:
    task = yaml.safe_load(config.read_text())["model"]["class_path"]
    own = reads_files_of_your_own(config)
    root = OWN_DATA if own else stand_in_data
    arguments = ["--config", str(config), "--data.root", str(root), *ONE_BATCH]
    arguments += SMALLER.get(task, [])
    if own and task == "LanguageModeling":
        arguments.append("--data.cache_dir=tokens")  # nothing is written into your data
    if "depth:" in config.read_text():
        arguments.append("--model.network.depth=1")
    code = command(arguments)
    if own and code == 2 and "No such file" in (answer := capsys.readouterr().err):
        pytest.skip(f"set DATA_DIR to where your data lie: {answer}")
    assert code == 0
    (record,) = (tmp_path / "runs").glob(f"*_{config.stem}_*/run.json")
    assert json.loads(record.read_text())["status"] == "finished"


def header_of(config: Path) -> list[str]:
    """Return the comment on top of a config, line by line."""
    lines = config.read_text(encoding="utf-8").splitlines()
    return [
        line.removeprefix("#").strip() for line in takewhile(lambda x: x.startswith("#"), lines)
    ]


@pytest.mark.parametrize("config", ALL_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_header_has_a_command_with_this_file_and_names_no_other_that_is_not_there(config) -> None:
    header = header_of(config)
    name = config.relative_to(CONFIGS.parent).as_posix()
    commands = [
        line for line in header if re.match(rf"python -m {PACKAGE.name}|torchrun|wandb sweep", line)
    ]
    assert any(name in line or config.stem == "default" for line in commands)
    named = re.findall(r"configs/[\w/]+\.yaml", " ".join(header))
    assert [path for path in named if not (CONFIGS.parent / path).is_file()] == []


@pytest.mark.parametrize("config", MEASURED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_header_says_what_was_measured_how_and_when_or_that_nothing_was(config: Path) -> None:
    text = " ".join(header_of(config))
    if re.search(r"Not yet measured: \w+", text):
        assert not re.search(r" measured 20\d\d", text)
        return
    assert re.search(r"\d %|\d (nats|bits) per", text)
    assert re.search(r"\d seeds|[Ss]eed 0|trials", text)
    assert re.search(r"on (two|an?) (busy )?(CPU cores|H\d00)", text)
    assert re.search(r" measured 20\d\d-\d\d-\d\d[.;]", text)


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
