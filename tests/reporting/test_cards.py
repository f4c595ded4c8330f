"""What a report says in words of a run: identity, limits, evidence, and the model card."""

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from project.checkpoints.checkpoint_file import sha256_of
from project.reporting import energy, identity, limits, model_card
from project.reporting.findings import SECTIONS, Figures, Measure, Section, missing, not_run, share
from project.reporting.subject import Subject, open_subject
from project.training.command import command


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A classifier and a language model, hardly trained."""
    folder = tmp_path_factory.mktemp("cards")
    common = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    digits = ["--model.network.width=4", "--trainer.max_epochs=2", f"--runs_dir={folder / 'a'}"]
    assert command([*digits, *common]) == 0
    (folder / "own.txt").write_text(300 * "A text of one's own, said again.\n")
    text = [
        "--model=LanguageModeling",
        "--model.network=CausalCNN",
        "--model.network.width=8",
        "--model.network.depth=2",
        "--data=TextData",
        "--data.corpus=TextCorpus",
        f"--data.corpus.path={folder / 'own.txt'}",
        f"--data.root={folder}",
        "--trainer.max_steps=4",
        "--best.monitor=val/loss",
        "--best.mode=min",
        f"--runs_dir={folder / 'b'}",
    ]
    assert command([*text, *common]) == 0
    ((images,), (texts,)) = (list((folder / name).iterdir()) for name in "ab")
    return {"images": images, "text": texts}


def opened(run: Path) -> Subject:
    subject = open_subject(str(run), [], "cpu", [])
    assert not subject.closed
    return subject


def sections(subject: Subject) -> list[Section]:
    """A report of which a part was run, with figures that could be taken for others."""
    robust = [
        Figures(
            [
                share("fgsm_0.1", "Right under FGSM 0.1", 3, 10, seed=0),
                share("pgd_0.1", "Right under PGD 0.1", 1, 10, seed=0),
                Measure("distance", "Mean distance", 0.2, "", 10, (0.1, 0.3), 0, "normal"),
                missing("square", "Square attack", "not asked for"),
            ]
        )
    ]
    return [
        identity.section(subject),
        Section(
            "robustness",
            "fails",
            f"Wrong | under\nattack: {robust[0].measures[1].shown()}.",
            robust,
        ),
        not_run("energy", "no counter was there"),
    ]


# Identity


@pytest.mark.parametrize("kind", ["images", "text"])
def test_identity_is_that_of_the_record(runs, kind: str) -> None:
    subject = opened(runs[kind])
    found = identity.section(subject)
    record = json.loads((runs[kind] / "run.json").read_text())
    assert found.mark == "told"
    told = str(found.blocks)
    checkpoint = runs[kind] / "checkpoints" / "best.ckpt"
    for fact in (sha256_of(checkpoint), record["command"], record["code_sha256"]):
        assert fact in told
    assert f"{record['parameters']:,} parameters" in found.verdict
    assert f"for {record['epochs']} epochs" in found.verdict
    assert "chosen by validation" in found.verdict
    assert (runs[kind] / "config.yaml").read_text() in [
        getattr(b, "text", "") for b in found.blocks
    ]
    for key in ("parameters", "wall_seconds", "training_seconds"):
        measure = found.measure(key)
        assert measure is not None
        assert measure.value == record[key]


def test_operations_are_those_of_the_layers(runs) -> None:
    subject = opened(runs["text"])
    prediction, training, total = energy.operations(subject, "tokens")
    width, kernel, vocabulary = 8, 3, 256
    block = 2 * kernel * width * 2 * width + 2 * width * width
    assert prediction.value == 2 * block + 2 * width * vocabulary  # two blocks and the head
    record, data = subject.record, subject.data
    assert training.value == record["flops_per_token"]
    assert total.value == record["steps"] * data.batch_size * data.context_length * training.value
    subject.task.attack = object()  # whose steps nobody has counted
    total = energy.operations(subject, "tokens")[2]
    assert total.value is None
    assert "attack" in total.how


def test_a_checkpoint_without_its_run_says_what_is_not_known(runs, tmp_path) -> None:
    shutil.copy(runs["images"] / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    subject = opened(tmp_path / "alone.ckpt")
    found = identity.section(subject)
    assert "CNN of" in found.verdict
    assert "outside of a run" in found.verdict
    wall = found.measure("wall_seconds")
    assert wall is not None
    assert wall.value is None
    assert any("seed_everything: 0" in getattr(block, "text", "") for block in found.blocks)
    assert "Digits (1,295 images)" in found.verdict
    card = model_card.model_card(subject, [found])
    assert "not known" in card


def test_what_has_changed_since_is_said(runs) -> None:
    subject = opened(runs["images"])
    assert identity.changed_since(subject) == ""
    subject.record["versions"]["torch"] = "1.0"
    subject.record["code_sha256"] = "another"
    told = identity.changed_since(subject)
    assert "not 1.0" in told
    assert "not that of the run" in told


def test_homes_are_not_told(runs, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/anna")
    subject = opened(runs["images"])
    subject.record["command"] = "python -m project.train --data.root /somewhere/anna/data"
    subject.content["config"] = "data:\n  root: /home/bob/data\nruns_dir: '/Users/eve'\n"
    subject.run = None
    told = str(identity.section(subject))
    assert not re.search("anna|bob|eve'", told)
    assert "root: $HOME/data" in told
    assert identity.without_any_home("a/home/bobby/b") == "a/home/bobby/b"  # not at the root


# Limits and evidence


def test_limits_name_what_was_not_run_and_the_least_certain(runs) -> None:
    subject = opened(runs["images"])
    found = limits.section(subject, sections(subject))
    told = str(found.blocks)
    assert found.mark == "told"
    assert "Not run: Data, Performance, Calibration, Out of distribution" in found.verdict
    assert "Robustness" not in found.verdict
    assert "data from the source of its training data" in found.verdict
    assert "no counter was there" in told
    assert "Square attack (not asked for)" in told
    assert "--sections calibration" in told
    assert "Right under FGSM 0.1: 30 %" in told  # its interval is wider than that of 10 %
    assert "physical changes" in found.verdict
    assert "what it writes" in limits.section(opened(runs["text"]), []).verdict


def test_other_data_are_a_limit(runs) -> None:
    subject = opened(runs["images"])
    subject.data.hashes = {"test": "others"}
    assert "other data than in its training" in limits.section(subject, []).verdict
    subject.content["ImageData"] = {}
    assert "no hash is recorded" in limits.section(subject, []).verdict


def test_evidence_has_every_section_and_claims_nothing(runs) -> None:
    subject = opened(runs["images"])
    made = sections(subject)
    text = limits.evidence(subject, [*made, limits.section(subject, made)])
    assert text.startswith("# Evidence")
    assert not re.search("complian|conforms|satisf|fulfil", text.lower())
    assert "claims no conformity" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for name in SECTIONS:
        (row,) = [r for r in rows if f"(`{name}`)" in r]
        found = {s.name: s for s in made}.get(name)
        if found is None and name != "limits":
            assert "not run: not part of this report" in row
        if name == "energy":
            assert "not run: no counter was there" in row
        if name == "robustness":  # a verdict does not break the table
            assert r"fails: Wrong \| under attack: 10 % (95 %" in row
        assert len(re.split(r"(?<!\\)\|", row)) == 8
    assert text.count("TODO") == len(limits.FOR_PEOPLE)
    assert "2024/1689" in text
    for row in (*limits.ROWS, *limits.FOR_PEOPLE):  # each says how its wording is known
        for cell in row[1:]:
            assert not cell or re.search(r"\[[RSM]\]", cell), cell
    assert {row.name for row in limits.ROWS} == set(SECTIONS)


# The model card


@pytest.fixture
def offline(monkeypatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a card asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("kind", ["images", "text"])
@pytest.mark.usefixtures("offline")
def test_the_card_is_read_back(runs, kind: str, tmp_path) -> None:
    from huggingface_hub import ModelCard

    subject = opened(runs[kind])
    text = model_card.model_card(subject, sections(subject))
    (tmp_path / "README.md").write_text(text)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.license is None
    assert "**TODO**: the license" in text
    assert data.pipeline_tag == {"images": "image-classification", "text": "text-generation"}[kind]
    metric = {"images": "accuracy", "text": "bits_per_byte"}[kind]
    assert data.metrics == [metric]
    assert data.eval_results is not None
    clean = [r for r in data.eval_results if r.dataset_config == "clean"]
    measured = subject.record["metrics"]
    assert {r.dataset_split: r.metric_value for r in clean} == {
        split: measured[split][metric]["value"] for split in measured
    }
    assert all("95 % interval" in (r.metric_name or "") for r in clean)
    for s in sections(subject):
        assert " ".join(s.verdict.split()) in text
    assert len(text.splitlines()) < 150


def test_an_accuracy_under_attack_is_not_merged_with_the_clean_one(runs) -> None:
    subject = opened(runs["images"])
    metadata = yaml.safe_load(model_card.model_card(subject, sections(subject)).split("---")[1])
    results = metadata["model-index"][0]["results"]
    places = [(r["dataset"]["config"], r["dataset"]["split"]) for r in results]
    assert len(places) == len(set(places)) == 3  # validation, test, what the verdict names
    assert all(len(r["metrics"]) == 1 for r in results)
    attacked = [r["metrics"][0] for r in results if "robustness" in r["dataset"]["config"]]
    assert [(m["type"], m["value"]) for m in attacked] == [("pgd_0.1", 0.1)]
    subject.data.hashes = {"test": "others"}  # other data, which the card does not name
    assert "pgd_0.1" not in model_card.model_card(subject, sections(subject)).split("---")[1]


def test_what_the_run_measured_is_of_its_best_checkpoint_alone(runs) -> None:
    subject = open_subject(str(runs["images"] / "checkpoints" / "last.ckpt"), [], "cpu", [])
    text = model_card.model_card(subject, sections(subject))
    assert "run.json tells nothing of this checkpoint" in text
    assert "config: clean" not in text
    assert "chosen by" not in identity.verdict(subject)
    assert "taken after epoch 2" in identity.verdict(subject)


def test_emissions_are_grams(runs) -> None:
    subject = opened(runs["images"])
    subject.record["energy_kwh"] = 0.002
    subject.record["energy"] = {
        "gco2e": 0.95,
        "grid": {"country": "DEU", "grams_per_kwh": 475.0},
        "cpu": {"kwh": 0.002, "basis": "modelled"},
    }
    text = model_card.model_card(subject, sections(subject))
    emissions = yaml.safe_load(text.split("---")[1])["co2_eq_emissions"]
    assert emissions["emissions"] == 0.95
    assert emissions["geographical_location"] == "DEU"
    assert emissions["training_type"] == "pre-training"
    subject.record["energy"] = {"unknown": 1}
    assert model_card.emissions(subject) is None
