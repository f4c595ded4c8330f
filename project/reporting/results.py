"""`results.json`: every number of a report, and enough to make its pages again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from project.reporting.findings import (
    Block,
    Figures,
    Measure,
    Passage,
    Picture,
    Section,
    Table,
    Words,
)
from project.whole_files import finite, replace_bytes, replace_text

KINDS: tuple[type[Block], ...] = (Figures, Table, Picture, Words, Passage)


def keep(folder: Path, about: dict[str, Any], sections: list[Section]) -> None:
    """Write `results.json` and the pictures into the folder of a report.

    Pictures of earlier sections that are not there any more are deleted.
    """
    pictures = {f"{b.name}.png": b for s in sections for b in s.blocks if isinstance(b, Picture)}
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        path = folder / "figures" / name
        if not path.is_file() or path.read_bytes() != picture.png:  # kept after every section
            replace_bytes(path, picture.png)
    content = about | {"sections": {section.name: as_json(section) for section in sections}}
    replace_text(folder / "results.json", json_text(content))
    for path in (folder / "figures").glob("*.png"):
        if path.name not in pictures:
            path.unlink()


def json_text(content: dict[str, Any]) -> str:
    """Return JSON for a file; numbers that are not finite are null."""
    return json.dumps(finite(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def as_json(section: Section) -> dict[str, Any]:
    blocks = []
    for block in section.blocks:
        fields = asdict(block)
        if isinstance(block, Picture):
            del fields["png"]
            fields["file"] = f"figures/{block.name}.png"
        blocks.append({"kind": type(block).__name__, **fields})
    return asdict(section) | {"title": section.title, "blocks": blocks}


def kept(folder: Path, about: dict[str, Any]) -> dict[str, Section]:
    """Return the sections of an earlier report on the same checkpoint and data, by name.

    Data that could not be opened now are taken for those of then. None where there is no such
    report, or it cannot be read.
    """
    try:
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        then, now = content["subject"], about["subject"]
        if then["checkpoint_sha256"] != now["checkpoint_sha256"]:
            return {}
        if now.get("data") and then.get("data") != now["data"]:
            return {}
        return {
            name: from_json(fields, folder)
            for name, fields in content["sections"].items()
            if fields["mark"] != "not run"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        return {}


def from_json(fields: dict[str, Any], folder: Path) -> Section:
    del fields["title"]
    return Section(**fields | {"blocks": [block_of(dict(b), folder) for b in fields["blocks"]]})


def block_of(fields: dict[str, Any], folder: Path) -> Block:
    kind = {kind.__name__: kind for kind in KINDS}[fields.pop("kind")]
    if kind is Picture:
        fields["png"] = (folder / fields.pop("file")).read_bytes()
    if kind is Figures:
        measures = []
        for measure in fields["measures"]:
            ends = measure["interval_95"]
            is_whole = ends and None not in ends  # not finite, of a failed resample
            measures.append(Measure(**measure | {"interval_95": tuple(ends) if is_whole else None}))
        fields["measures"] = measures
    block: Block = kind(**fields)
    return block
