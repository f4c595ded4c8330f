"""What holds of MyCorpus; test_configs.py trains a network on a batch of it."""

import os
from pathlib import Path

from project.starting_points.my_corpus import MyCorpus

# Your files are read here, and nothing is written; the class is given it as `root`.
ROOT = Path(os.environ.get("DATA_DIR", Path(__file__).parents[2] / "data"))


def test_every_document_can_be_read_and_has_a_text() -> None:
    documents = MyCorpus().documents(ROOT)
    assert documents["train"]
    for document in (document for part in documents.values() for document in part):
        with document.open() as file:
            assert file.read().decode(MyCorpus.encoding).strip() or document.num_bytes() == 0
