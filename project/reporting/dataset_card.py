"""The data of a run as a dataset card in the form of Hugging Face: DATASET_CARD.md.

What was measured is filled in; what only a person can say stands there as a TODO.
"""

from collections.abc import Sequence
from typing import Any

from project.reporting.dataset_facts import KNOWN, LICENCES, NOT_OF_THE_HUB, UNKNOWN, Facts
from project.reporting.findings import Section
from project.reporting.markdown import table
from project.reporting.recorded import opened_name, saved_data
from project.reporting.subject import Subject

TODO = "**TODO: only a person can say.**"
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
TASKS = {  # as the Hub names them
    "images": "image-classification",
    "text": "text-generation",
}


def described(subject: Subject) -> dict[str, Any]:
    """Return what is known of the data: from the data, else from the run's record or checkpoint."""
    if subject.data is None:
        return {}
    if not subject.closed and hasattr(subject.data, "describe"):
        return dict(subject.data.describe())
    return {**saved_data(subject), **subject.record.get("data", {})}


def facts_of(subject: Subject) -> Facts:
    """Return what is published about the data; of your own, that a person must say it."""
    name = opened_name(subject)
    nothing = Facts(name, "", UNKNOWN, "say under which licence it may be used", (), TODO)
    return KNOWN.get(name, nothing)


def sizes_of(subject: Subject) -> dict[str, int]:
    """Return the images, or tokens, of each split."""
    known = described(subject)
    return dict(known.get("images") or known.get("tokens") or {})


def dataset_card(subject: Subject, sections: Sequence[Section]) -> str:
    """Return the Markdown of the card, with its metadata as YAML at the top.

    Args:
        sections: Of the report; of them the one named `data` is told.
    """
    facts, known = facts_of(subject), described(subject)
    return "\n".join(
        [
            f"---\n{metadata(subject, facts)}\n---\n",
            f"# Dataset card of {facts.title}\n",
            "Written by `python -m project.report` from the data that a model was trained on and "
            f"tested with. What is measured is filled in; look for {TODO}\n",
            *description(subject, facts),
            "## Uses\n\n### Direct use\n",
            f"{TASKS.get(subject.kind, 'other')}, as in the run of this report.\n",
            f"### Out-of-scope use\n\n{TODO}\n",
            *structure(subject, known),
            *creation(subject, facts, known),
            *limitations(sections, subject.closed),
            f"## Citation\n\n```bibtex\n{facts.citation or 'TODO'}\n```\n",
        ]
    )


def metadata(subject: Subject, facts: Facts) -> str:
    """Return the YAML of the card."""
    from huggingface_hub import DatasetCardData

    number = sum(sizes_of(subject).values()) if subject.kind == "images" else 0
    size = next((name for limit, name in SIZES if number < limit), "n>10M") if number else None
    named: dict[str, Any] = {"license": facts.licence}
    if facts.licence in NOT_OF_THE_HUB:
        link = LICENCES[facts.licence]
        named = {"license": "other", "license_name": facts.licence, "license_link": link}
    data = DatasetCardData(
        pretty_name=facts.title,
        **named,
        language=[facts.language] if facts.language else None,
        task_categories=[TASKS[subject.kind]] if subject.kind in TASKS else None,
        size_categories=[size] if size else None,
    )
    return data.to_yaml()


def description(subject: Subject, facts: Facts) -> list[str]:
    return [
        "## Dataset details\n",
        f"- **Curated by:** {', '.join(facts.creators) or TODO}",
        f"- **Funded by:** {TODO}",
        f"- **Language:** {facts.language or ('none' if subject.kind == 'images' else TODO)}",
        f"- **License:** {facts.licence} ({facts.licence_note})"
        + (f" {TODO}" if facts.licence == UNKNOWN else ""),
        f"- **Source:** {facts.url or TODO}\n",
    ]


def structure(subject: Subject, known: dict[str, Any]) -> list[str]:
    """Return what the splits are, with their hashes."""
    unit = "images" if subject.kind == "images" else "tokens"
    hashes = known.get("sha256", {})
    rows = [
        [split, f"{number:,}", hashes.get(split, "")] for split, number in sizes_of(subject).items()
    ]
    parts = ["## Dataset structure\n"]
    if not rows:
        return [
            *parts,
            f"Not recorded: {subject.closed or 'the data do not describe themselves'}.\n",
        ]
    parts += [table(["split", unit, "SHA-256"], rows), ""]
    if "classes" in known:
        size, channels = known["image_size"], known["in_channels"]
        parts += [
            f"Each example is an image of {channels} x {size} x {size} bytes and one of "
            f"{len(known['classes'])} labels: {', '.join(known['classes'])}. A hash is that of the "
            "images of the split (uint8, one after the other), then its labels (int64).\n"
        ]
    if "tokens" in hashes:
        parts += [
            f"The splits lie one after the other in one file of tokens, SHA-256 "
            f"`{hashes['tokens']}`.\n"
        ]
    for split, digest in known.get("made_from", {}).get("documents", {}).items():
        parts += [f"SHA-256 of the SHA-256 of the documents of {split}: `{digest}`.\n"]
    return [*parts, f"{splits_words(subject)}\n"]


def splits_words(subject: Subject) -> str:
    """Say how the splits were made."""
    data = subject.data
    if subject.kind == "images":
        share = f"fold {data.fold} of {data.num_folds}" if data.num_folds else data.val_fraction
        return (
            "The test split is the official one, or a stratified fifth where there is none. "
            f"Validation ({share}) is cut from the training images, stratified, by seed "
            f"{data.split_seed}."
        )
    if subject.kind == "text":
        made = data.preparation
        return (
            f"Splits without documents of their own are cut from the end of the training text: "
            f"{made.val_fraction} for validation, {made.test_fraction} for test."
        )
    return TODO


def rounded(numbers: list[float]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)


def processing(known: dict[str, Any]) -> str:
    """Say what is done to the data before a model sees them."""
    if known.get("mean"):
        return (
            f"Pixels in [0, 255] are shifted and scaled by the mean {rounded(known['mean'])} and "
            f"the standard deviation {rounded(known['std'])} of the training split."
        )
    if made := known.get("made_from"):
        options = ", ".join(f"{key} {value}" for key, value in made["cleaning"].items())
        return f"Read as {made['encoding']}, cleaned ({options}), tokens by {made['tokenizer']}."
    return "Not recorded."


def creation(subject: Subject, facts: Facts, known: dict[str, Any]) -> list[str]:
    sensitive = TODO
    if subject.kind == "text":
        sensitive += " The patterns of the data section find hints in a text, and no persons."
    return [
        f"## Dataset creation\n\n### Curation rationale\n\n{TODO}\n",
        f"### Data collection and processing\n\n{facts.collected} {processing(known)}\n",
        *([f"### Annotation process\n\n{TODO}\n"] if subject.kind == "images" else []),
        f"### Personal and sensitive information\n\n{sensitive}\n",
    ]


def limitations(sections: Sequence[Section], closed: str) -> list[str]:
    """Tell what the data section found, each figure with its interval."""
    found = next((section for section in sections if section.name == "data"), None)
    parts = ["## Bias, risks and limitations\n"]
    if found is None:
        return [*parts, f"Not measured: {closed or 'the data section was not run'}. {TODO}\n"]
    rows = [
        [measure.title, measure.how if measure.value is None else measure.shown()]
        for measure in found.measures()
    ]
    return [
        *parts,
        f"{found.verdict}\n",
        *([table(["measured", "value"], rows), ""] if rows else []),
        f"Whom the data leave out, and whom they may harm: {TODO}\n",
    ]
