"""The data of a run in Croissant, JSON-LD that machines read, with its responsible-AI vocabulary.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec.html (1.0) and the RAI extension
(1.0). What only a person can say is a TODO.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from project.checkpoints.checkpoint_file import sha256_of
from project.reporting.dataset_card import (
    described,
    facts_of,
    processing,
    sizes_of,
    splits_words,
)
from project.reporting.dataset_facts import LICENCES
from project.reporting.findings import Section
from project.reporting.recorded import opened_name
from project.reporting.subject import Subject

MOST_FILES = 100  # documents that are named one by one
TODO = "TODO: only a person can say."
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(subject: Subject, sections: Sequence[Section]) -> dict[str, Any]:
    """Return the JSON-LD.

    The files with a SHA-256 are those of the corpus or set that lie on this machine, and what the
    splits are in memory: a file of that hash can be made by who has the data and this project.

    Args:
        sections: Of the report; of them the one named `data` is told.
    """
    facts, known = facts_of(subject), described(subject)
    found = next((section.verdict for section in sections if section.name == "data"), "")
    files = [*source_files(subject), *split_files(subject, known)]
    date = "" if facts.published else " The date of its publication: TODO."
    about = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": opened_name(subject),
        "description": f"{facts.title}. {splits_words(subject)}{date}",
        "url": facts.url or "TODO",
        "license": LICENCES.get(facts.licence, "unknown: TODO"),
        "citeAs": facts.citation or "TODO",
        "creator": [{"@type": "sc:Person", "name": name} for name in facts.creators],
        **({"datePublished": facts.published} if facts.published else {}),
        "distribution": files,
        "recordSet": record_sets(subject, known, files),
    }
    return about | {
        "rai:dataCollection": facts.collected.replace("*", ""),
        "rai:dataPreprocessingProtocol": processing(known),
        "rai:dataAnnotationProtocol": TODO,
        "rai:dataLimitations": found or f"Not measured: {subject.closed or 'not asked for'}.",
        "rai:dataBiases": TODO,
        "rai:personalSensitiveInformation": TODO,
        "rai:dataUseCases": TODO,
        "rai:dataSocialImpact": TODO,
        "rai:dataReleaseMaintenancePlan": TODO,
    }


def file_object(
    name: str, sha256: str, size: int | None, form: str, says: str, url: str = ""
) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": says,
        "contentUrl": url or name,
        **({} if size is None else {"contentSize": f"{size} B"}),
        "encodingFormat": form,
        "sha256": sha256,
    }


def source_files(subject: Subject) -> list[dict[str, Any]]:
    """Return the files that the data are made of, by their names alone, where they are open."""
    if subject.closed or subject.data is None:
        return []
    if subject.text is not None:
        data = subject.text.data
        documents = data.corpus.documents(data.root)
        if sum(map(len, documents.values())) > MOST_FILES:
            return []
        return [
            file_object(
                f"{split}/{number}/{Path(document.name).name}",
                document.sha256(),
                document.num_bytes(),
                "text/plain",
                f"Document {number} of {split}.",
            )
            for split, part in documents.items()
            for number, document in enumerate(part)
        ]
    source = subject.data.dataset
    if sha256 := getattr(source, "sha256", None):
        says = "The file in scikit-learn, folder datasets/data."
        return [file_object("digits.csv.gz", sha256, None, "application/gzip", says)]
    folder = Path(subject.data.root) / opened_name(subject) / "raw"
    files = sorted(path for path in folder.glob("*-ubyte*") if path.is_file())
    return [
        file_object(path.name, sha256_of(path), path.stat().st_size, form_of(path), "IDX file.")
        for path in [*files, *sorted(folder.glob("*-int*"))]
    ]


def form_of(path: Path) -> str:
    return "application/gzip" if path.suffix == ".gz" else "application/octet-stream"


def split_files(subject: Subject, known: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what has the hashes that a run records."""
    hashes = known.get("sha256", {})
    binary = "application/octet-stream"
    if subject.kind == "text" and "tokens" in hashes:
        says = "The tokens of train, validation and test one after the other, as numbers."
        return [file_object("tokens.bin", hashes["tokens"], None, binary, says)]
    says = "Not a published file: the images (uint8), then the labels (int64), as held in memory."
    return [
        file_object(f"{split}.bin", hashes[split], None, binary, says)
        for split in sizes_of(subject)
        if split in hashes
    ]


def record_sets(
    subject: Subject, known: dict[str, Any], files: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a record set for each split; for a set of images, one for the classes too."""
    names = [file["@id"] for file in files]
    unit = "images" if subject.kind == "images" else "tokens"
    sets = []
    for split, number in sizes_of(subject).items():
        source = "tokens.bin" if unit == "tokens" else f"{split}.bin"
        if source not in names:
            continue
        fields = [("image", "sc:ImageObject"), ("label", "sc:Integer")]
        fields = fields if unit == "images" else [("token", "sc:Integer")]
        sets.append(
            {
                "@type": "cr:RecordSet",
                "@id": split,
                "name": split,
                "description": f"{number} {unit}",
                "field": [field(split, name, form, source) for name, form in fields],
            }
        )
    if "classes" in known and sets:
        sets.append(classes(known["classes"]))
    return sets


def field(split: str, name: str, form: str, source: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{split}/{name}",
        "name": f"{split}/{name}",
        "dataType": form,
        "source": {"fileObject": {"@id": source}, "extract": {"fileProperty": "content"}},
    }


def classes(names: list[str]) -> dict[str, Any]:
    """Return the names of the labels, which are in the file itself."""
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "description": "What each label means.",
        "key": {"@id": "classes/label"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"classes/{name}",
                "name": f"classes/{name}",
                "dataType": form,
            }
            for name, form in (("label", "sc:Integer"), ("class", "sc:Text"))
        ],
        "data": [{"classes/label": i, "classes/class": name} for i, name in enumerate(names)],
    }
