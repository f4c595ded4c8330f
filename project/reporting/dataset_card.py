"""The data of a run as a dataset card in the form of Hugging Face: DATASET_CARD.md.

What was measured is filled in; what only a person can say stands there as a TODO.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from project.reporting.findings import Section
from project.reporting.markdown import table
from project.reporting.subject import Subject

TODO = "**TODO: only a person can say.**"
UNKNOWN = "unknown"  # Hugging Face's word for a licence that nobody states
LICENCES = {  # the pages of those below
    "mit": "https://spdx.org/licenses/MIT.html",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "bsd-3-clause": "https://spdx.org/licenses/BSD-3-Clause.html",
    "psf-2.0": "https://spdx.org/licenses/PSF-2.0.html",
}
NOT_OF_THE_HUB = ("psf-2.0",)  # Hugging Face has no word for these
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
TASKS = {"images": "image-classification", "text": "text-generation"}


@dataclass(frozen=True)
class Facts:
    """What is published about a set.

    Attributes:
        title: Its name for a reader.
        url: Where it is described.
        licence: As SPDX names it, small; `unknown` where none is stated, or sources disagree.
        licence_note: Where the licence is stated, or why it is unknown.
        creators: Who made it.
        collected: From what, and how.
        published: Year; nothing where it has none.
        citation: BibTeX; nothing where none is known.
        language: ISO 639-1, of a text.
    """

    title: str
    url: str
    licence: str
    licence_note: str
    creators: tuple[str, ...]
    collected: str
    published: str = ""
    citation: str = ""
    language: str = ""


KNOWN = {
    "Digits": Facts(
        "Optical Recognition of Handwritten Digits (8 x 8, as in scikit-learn)",
        "https://archive.ics.uci.edu/dataset/80",
        UNKNOWN,
        "look at the page of the UCI repository before it is passed on",
        ("E. Alpaydin", "C. Kaynak"),
        "Digits of 43 people from preprinted forms, as 32 x 32 bitmaps by the programs of NIST, "
        "counted in blocks of 4 x 4: 0 to 16. scikit-learn ships the 1,797 of the test part, by 13 "
        "people; the test split here is a stratified fifth, so its writers were trained on.",
        "1998",
        "@misc{alpaydin1998optical, title={Optical Recognition of Handwritten Digits}, "
        "author={Alpaydin, E. and Kaynak, C.}, year={1998}, "
        "howpublished={UCI Machine Learning Repository}}",
    ),
    "MNIST": Facts(
        "MNIST handwritten digits",
        "http://yann.lecun.com/exdb/mnist/",
        UNKNOWN,
        "its authors' page states none, and others who pass it on name different ones",
        ("Yann LeCun", "Corinna Cortes", "Christopher J. C. Burges"),
        "Digits of employees of the US Census Bureau and of high-school students, from Special "
        "Databases 1 and 3 of NIST, scaled to 20 x 20, centred in 28 x 28 by their centre of mass.",
        "1998",
        "@article{lecun1998gradient, title={Gradient-based learning applied to document "
        "recognition}, author={LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, "
        "Patrick}, journal={Proceedings of the IEEE}, volume={86}, number={11}, "
        "pages={2278--2324}, year={1998}}",
    ),
    "FashionMNIST": Facts(
        "Fashion-MNIST",
        "https://github.com/zalandoresearch/fashion-mnist",
        "mit",
        "LICENSE of its repository",
        ("Han Xiao", "Kashif Rasul", "Roland Vollgraf"),
        "Product pictures of Zalando's shop, made grey and 28 x 28.",
        "2017",
        "@misc{xiao2017fashion, title={Fashion-MNIST: a Novel Image Dataset for Benchmarking "
        "Machine Learning Algorithms}, author={Xiao, Han and Rasul, Kashif and Vollgraf, Roland}, "
        "year={2017}, eprint={1708.07747}, archivePrefix={arXiv}}",
    ),
    "KMNIST": Facts(
        "Kuzushiji-MNIST",
        "https://github.com/rois-codh/kmnist",
        "cc-by-sa-4.0",
        "README of its repository; it asks for the words: KMNIST Dataset (created by CODH), "
        "adapted from Kuzushiji Dataset (created by NIJL and others), doi:10.20676/00000341",
        ("Center for Open Data in the Humanities (CODH)",),
        "Hiragana out of scanned books of the Kuzushiji Dataset, 28 x 28.",
        "2018",
        "@misc{clanuwat2018deep, title={Deep Learning for Classical Japanese Literature}, "
        "author={Clanuwat, Tarin and Bober-Irizar, Mikel and Kitamoto, Asanobu and Lamb, Alex and "
        "Yamamoto, Kazuaki and Ha, David}, year={2018}, eprint={1812.01718}, "
        "archivePrefix={arXiv}}",
    ),
    "EMNIST": Facts(
        "EMNIST letters and digits",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        UNKNOWN,
        "the project found none stated",
        ("Gregory Cohen", "Saeed Afshar", "Jonathan Tapson", "Andr\u00e9 van Schaik"),
        "Letters and digits of NIST Special Database 19, made as MNIST's, 28 x 28.",
        "2017",
        "@misc{cohen2017emnist, title={EMNIST: an extension of MNIST to handwritten letters}, "
        "author={Cohen, Gregory and Afshar, Saeed and Tapson, Jonathan and van Schaik, "
        "Andr{\\'e}}, year={2017}, eprint={1702.05373}, archivePrefix={arXiv}}",
    ),
    "QMNIST": Facts(
        "QMNIST",
        "https://github.com/facebookresearch/qmnist",
        "bsd-3-clause",
        "README of its repository; its LICENSE speaks of the software",
        ("Chhavi Yadav", "L\u00e9on Bottou"),
        "MNIST made again from NIST Special Database 19, with all 60,000 test images.",
        "2019",
        "@inproceedings{yadav2019cold, title={Cold Case: The Lost MNIST Digits}, author={Yadav, "
        "Chhavi and Bottou, L{\\'e}on}, booktitle={Advances in Neural Information Processing "
        "Systems 32}, year={2019}}",
    ),
    "CIFAR10": Facts(
        "CIFAR-10",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        UNKNOWN,
        "its page states none",
        ("Alex Krizhevsky", "Vinod Nair", "Geoffrey Hinton"),
        "Photographs of the web out of the 80 million tiny images, labelled by paid students; that "
        "collection has been withdrawn by its authors.",
        "2009",
        "@techreport{krizhevsky2009learning, title={Learning Multiple Layers of Features from "
        "Tiny Images}, author={Krizhevsky, Alex}, institution={University of Toronto}, "
        "year={2009}}",
    ),
    "PythonDocs": Facts(
        "Help topics of CPython",
        "https://docs.python.org/3/",
        "psf-2.0",
        "the documentation of Python is under the PSF License Version 2, and code in it also "
        "under the Zero-Clause BSD License",
        ("Python Software Foundation",),
        "The topics of pydoc_data in the Python that prepared them, in the order of their names; "
        "the text differs a little between versions of Python.",
        language="en",
    ),
    "TinyShakespeare": Facts(
        "Tiny Shakespeare",
        "https://github.com/karpathy/char-rnn",
        UNKNOWN,
        "the plays are in the public domain; nothing is stated for this selection of them",
        ("Andrej Karpathy",),
        "40,000 lines out of Shakespeare's plays, joined to one file.",
        "2015",
        "@misc{karpathy2015charrnn, title={char-rnn}, author={Karpathy, Andrej}, year={2015}, "
        "howpublished={https://github.com/karpathy/char-rnn}}",
        language="en",
    ),
}


def described(subject: Subject) -> dict[str, Any]:
    """Return what is known of the data: from the data, else from the run's record or checkpoint."""
    if subject.data is None:
        return {}
    if not subject.closed and hasattr(subject.data, "describe"):
        return dict(subject.data.describe())
    saved = subject.content.get(type(subject.data).__qualname__, {})
    return {**saved, **subject.record.get("data", {})}


def name_of(subject: Subject) -> str:
    """Return the class of the set or corpus, such as `MNIST`."""
    source = getattr(subject.data, "dataset", None) or getattr(subject.data, "corpus", None)
    if source is None:
        return "unknown data" if subject.data is None else type(subject.data).__name__
    return type(source).__name__


def facts_of(subject: Subject) -> Facts:
    """Return what is published about the data; of your own, that a person must say it."""
    name = name_of(subject)
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
