"""The data card and Croissant: whole, parsed by others, with the hashes, and without a path."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from conftest import image_subject
from huggingface_hub import DatasetCard

from project.data import corpora, image_sets
from project.data.corpora import Corpus, PythonDocs, TextCorpus
from project.data.image_sets import Digits, ImageFolder, ImageSet
from project.data.images import ImageData
from project.data.text import TextData
from project.reporting.croissant import MOST_FILES, croissant
from project.reporting.dataset_card import dataset_card
from project.reporting.dataset_facts import KNOWN, LICENCES, NOT_OF_THE_HUB, UNKNOWN
from project.reporting.findings import Figures, Section, share
from project.reporting.subject import Subject
from project.reporting.text.opened import Text

CPU = torch.device("cpu")
OURS = {
    name
    for module, base in ((image_sets, ImageSet), (corpora, Corpus))
    for name, found in inspect.getmembers(module, inspect.isclass)
    if issubclass(found, base) and found not in (base, ImageFolder, TextCorpus)
}


def digits_subject() -> Subject:
    data = ImageData(Digits())
    data.setup()
    return image_subject(torch.nn.Linear(1, 1), data)


def text_subject(folder: Path, corpus: Corpus | None = None) -> Subject:
    data = TextData(corpus or PythonDocs(), cache_dir=str(folder))
    data.prepare_data()
    data.setup("test")
    task = torch.nn.Module()
    task.network = torch.nn.Linear(1, 1)
    subject = Subject(None, Path(), {}, {}, task, task.network, data, CPU)
    subject.text = Text(task, data, CPU)
    return subject


def found() -> Section:
    measures = [share("copied", "images that are copies", 3, 100)]
    return Section("data", "caution", "Three are copies.", [Figures(measures)])


@pytest.fixture(params=["images", "text"])
def subject(request, tmp_path) -> Subject:
    return digits_subject() if request.param == "images" else text_subject(tmp_path)


def hashes_of(subject: Subject) -> set[str]:
    hashes = subject.data.describe()["sha256"]
    return {digest for name, digest in hashes.items() if name != "val_indices"}


def test_a_card_is_parsed_by_the_hub_and_holds_the_hashes(subject) -> None:
    text = dataset_card(subject, [found()])
    card = DatasetCard(text)
    facts = KNOWN["Digits" if subject.kind == "images" else "PythonDocs"]
    assert card.data.pretty_name == facts.title
    assert card.data.license == ("other" if facts.licence in NOT_OF_THE_HUB else facts.licence)
    kind = {"images": "image-classification", "text": "text-generation"}[subject.kind]
    assert card.data.task_categories == [kind]
    assert all(digest in text for digest in hashes_of(subject))
    assert "Three are copies." in text
    assert "images that are copies | 3.0" in text
    assert "TODO" in text


def test_croissant_is_json_with_the_hash_of_every_file(subject) -> None:
    about = json.loads(json.dumps(croissant(subject, [found()])))
    files = {file["@id"]: file for file in about["distribution"]}
    assert len(files) == len(about["distribution"])
    assert hashes_of(subject) <= {file["sha256"] for file in files.values()}
    assert all(len(file["sha256"]) == 64 for file in files.values())
    records = {record["@id"]: record for record in about["recordSet"]}
    assert {"train", "val", "test"} <= set(records)
    for record in about["recordSet"]:
        for field in record["field"]:
            assert field["@id"].startswith(record["@id"] + "/")
            assert "source" not in field or field["source"]["fileObject"]["@id"] in files
    if subject.kind == "images":
        assert [row["classes/class"] for row in records["classes"]["data"]] == list("0123456789")
    assert about["rai:dataLimitations"] == "Three are copies."
    assert about["rai:dataBiases"].startswith("TODO")
    assert {term for term in about if term.startswith("rai:")} >= {
        "rai:dataCollection",
        "rai:personalSensitiveInformation",
        "rai:dataSocialImpact",
    }


def test_no_folder_of_this_machine_is_told(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / "own" / f"{name}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "own" / f"{name}.txt").write_text(f"{name} text\n" * 200)
    corpus = TextCorpus(str(tmp_path / "own"))
    subject = text_subject(tmp_path / "cache", corpus)
    about = croissant(subject, [])
    told = dataset_card(subject, []) + json.dumps(about)
    assert str(tmp_path) not in told
    documents = [document.sha256() for document in corpus.documents(tmp_path)["train"]]
    assert [file["sha256"] for file in about["distribution"]][:2] == documents
    assert about["license"] == "unknown: TODO"
    assert about["rai:dataCollection"].startswith("TODO")
    assert "Not measured" in about["rai:dataLimitations"]


def test_very_many_documents_are_not_named_one_by_one(tmp_path) -> None:
    (tmp_path / "own").mkdir()
    for number in range(MOST_FILES + 1):
        (tmp_path / "own" / f"{number}.txt").write_text(f"{number} words of a text\n")
    about = croissant(text_subject(tmp_path / "cache", TextCorpus(str(tmp_path / "own"))), [])
    assert [file["@id"] for file in about["distribution"]] == ["tokens.bin"]


def test_without_the_data_the_checkpoint_is_told(subject) -> None:
    saved = subject.data.state_dict()
    fresh = (
        ImageData(Digits())
        if subject.kind == "images"
        else TextData(PythonDocs(), cache_dir=str(subject.data.cache))
    )
    content = {type(fresh).__name__: saved}
    closed = Subject(None, Path(), content, {}, None, subject.network, fresh, CPU)
    closed.closed = "the files are not here"
    text, about = dataset_card(closed, []), croissant(closed, [])
    assert (
        DatasetCard(text).data.pretty_name
        == DatasetCard(dataset_card(subject, [])).data.pretty_name
    )
    assert all(digest in text for digest in hashes_of(subject))
    assert hashes_of(subject) == {file["sha256"] for file in about["distribution"]}
    assert "the files are not here" in text
    assert "the files are not here" in about["rai:dataLimitations"]


@pytest.mark.parametrize("data", [None, torch.nn.Identity()])
def test_data_of_others_and_none_have_a_card_too(data) -> None:
    subject = Subject(None, Path(), {}, {}, None, torch.nn.Identity(), data, CPU)
    subject.closed = "not ours"
    assert "Not recorded: not ours" in dataset_card(subject, [])
    assert croissant(subject, [])["distribution"] == []


def test_every_set_of_ours_has_its_facts_and_every_licence_its_page() -> None:
    assert set(KNOWN) == OURS
    for facts in KNOWN.values():
        assert facts.licence == UNKNOWN or facts.licence in LICENCES
        assert facts.url
        assert facts.creators
        assert facts.licence_note
        assert facts.citation.count("{") == facts.citation.count("}")
