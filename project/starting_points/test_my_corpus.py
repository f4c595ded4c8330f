"""What holds of MyCorpus; test_configs.py trains a network on a batch of it."""

from pathlib import Path

from project.starting_points.my_corpus import MyCorpus


def test_every_document_can_be_read_and_has_a_text() -> None:
    documents = MyCorpus().documents(Path())
    assert documents["train"]
    for document in (document for part in documents.values() for document in part):
        with document.open() as file:
            assert file.read().decode(MyCorpus.encoding).strip() or document.num_bytes() == 0
