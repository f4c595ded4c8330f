"""Is the text sound? Sizes, characters, repetitions within and across splits, personal data."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from project.reporting.findings import (
    Block,
    Figures,
    Mark,
    Measure,
    Part,
    Section,
    Table,
    Words,
    fact,
    missing,
    section_of,
)
from project.reporting.subject import Subject
from project.reporting.text.characters import (
    KINDS,
    by_category,
    by_kind,
    by_script,
    character_counts,
    lines_not_in,
)
from project.reporting.text.excerpts import PIECE, excerpts, pieces
from project.reporting.text.opened import Text
from project.reporting.text.personal import KINDS as PERSONAL
from project.reporting.text.personal import hints
from project.reporting.text.repetition import (
    MOST_SEARCHED,
    SPAN,
    copied_from_training,
    repeated_lines,
    same_documents,
)

COPIED_FAILS, COPIED_CARE = 0.1, 0.01  # of the measured split, also in train
UNSEEN_CARE = 0.001  # of its tokens, never seen in training
STRANGE = ("bidirectional", "private", "unassigned", "replacement", "invalid")  # ask for care
MOST_TOKENS = 10_000_000  # of a split are read for lines, words, forms and hints
EXAMPLES = 3  # of each kind of hint, masked
ROWS = 12  # of a table
LINE = 60  # characters of a repeated line that are shown

RULE = Words(
    f"The mark: fails where {100 * COPIED_FAILS:.0f} % or more of the measured split stands in the "
    f"training text, in spans of {SPAN} bytes or more, or a document is in both, since the test "
    f"then measures memory; with care from {100 * COPIED_CARE:.0f} % on, and where "
    f"{100 * UNSEEN_CARE:.1f} % of its tokens were never trained on, any pattern of personal data "
    "is found, or there are bidirectional controls, lost characters, private use or bytes that are "
    "not UTF-8; else it holds."
)


def section(subject: Subject) -> Section:
    assert subject.text is not None
    text = subject.text
    read = {
        split: excerpts(text.tokens(split), text.tokenizer, MOST_TOKENS) for split in text.splits
    }
    counts = {
        split: character_counts(
            subject.track(
                pieces(text.tokens(split), text.tokenizer),
                f"counting characters of {split}",
                -(-len(text.tokens(split)) // PIECE),
            )
        )
        for split in text.splits
    }
    parts = [
        sizes(text, counts),
        overlap(text),
        documents(text),
        characters(counts, read),
        lines(read),
        vocabulary(text, read),
        personal(read),
    ]
    notes: list[Block] = [RULE]
    if long := [split for split in text.splits if len(text.tokens(split)) > MOST_TOKENS]:
        notes.insert(
            0,
            Words(
                f"Of {' and '.join(long)}, excerpts of {MOST_TOKENS:,} tokens, spread evenly, were "
                "read for lines, words, normal forms and personal data; characters and tokens are "
                "those of the whole text."
            ),
        )
    return section_of("data", parts, *notes)


def sizes(text: Text, counts: dict[str, NDArray[np.int64]]) -> Part:
    """Tell how much text there is, and what cleaning took from it."""
    info = text.data.info
    given = text.data.corpus.documents(text.data.root)
    rows = [
        [
            split,
            f"{info['bytes'][split]:,}",
            f"{int(counts[split].sum()):,}",
            f"{info['tokens'][split]:,}",
            f"{len(given[split]):,}" if split in given else "cut from the end of train",
        ]
        for split in text.splits
    ]
    cleaned = info["characters"]
    titles = {
        "read": "characters read",
        "kept": "characters kept",
        "newlines_merged": "carriage returns merged into newlines",
        "control_dropped": "control characters dropped",
        "marks_dropped": "byte order marks dropped",
    }
    options = info["made_from"]["cleaning"]
    changes = [
        "lower case" if options["lower_case"] else "",
        f"normal form {options['normal_form']}" if options["normal_form"] else "",
    ]
    words = (
        f"Read as {info['made_from']['encoding']}; a byte that does not belong to it would have "
        "been refused. Besides newlines and control characters cleaning changed: "
        f"{', '.join(filter(None, changes)) or 'nothing'}."
    )
    measures = [fact(key, title, cleaned[key]) for key, title in titles.items()]
    head = ["split", "bytes", "characters", "tokens", "documents"]
    return Part([Table(head, rows, "Sizes"), Figures(measures, "Cleaning"), Words(words)])


def overlap(text: Text) -> Part:
    """Tell how much of the measured split the training text says too."""
    measured = text.measured_split
    title = f"{measured} text that stands in train, in spans of {SPAN} bytes or more"
    copied = copied_from_training(text, measured)
    if len(copied) < SPAN:
        why = f"{measured} has {len(copied)} bytes, and one span {SPAN}"
        return Part([Figures([missing("copied", title, why)], "Overlap")])
    found = float(copied.mean())
    how = "every byte was looked at"
    measure = Measure("copied", title, found, "%", len(copied), how=how)
    words = (
        "Letter for letter; long rows of spaces or dashes count like any other text. The section "
        "on performance tells how well the model does on this text and on the rest."
    )
    if len(text.tokens("train")) > MOST_SEARCHED:
        words += f" Only the last {MOST_SEARCHED:,} training tokens were searched."
    says = (
        f"{measure.number()} of the {measured} text stands in the training text, in spans of "
        f"{SPAN} bytes or more"
    )
    mark: Mark = "holds"
    if found >= COPIED_CARE:
        mark = "fails" if found >= COPIED_FAILS else "caution"
        says += ": the test measures memory too"
    return Part([Figures([measure], "Overlap"), Words(words)], f"{says}.", mark)


def documents(text: Text) -> Part:
    """Find documents that are the same byte for byte."""
    given = text.data.corpus.documents(text.data.root)
    number = sum(len(part) for part in given.values())
    if number < 2:
        return Part([Words("The corpus is a single document, so none can be there twice.")])
    groups = same_documents(given)
    across = [group for group in groups if len({split for split, _ in group}) > 1]
    repeats = sum(len(group) - 1 for group in groups)
    blocks: list[Block] = [
        Figures(
            [
                fact("documents", "documents", number),
                fact("repeated_documents", "documents that repeat another", repeats),
                fact("documents_across", "groups of the same in more than one split", len(across)),
            ],
            "Documents, equal in every byte (SHA-256)",
        )
    ]
    if groups:
        telling = sorted(groups, key=lambda group: group not in across)
        rows = [
            [", ".join(f"{split}: {Path(name).name}" for split, name in group[:6]), str(len(group))]
            for group in telling[:ROWS]
        ]
        blocks.append(Table(["the same", "copies"], rows))
    if across:
        return Part(blocks, f"{len(across):,} documents are in more than one split.", "fails")
    return Part(blocks)


def characters(counts: dict[str, NDArray[np.int64]], read: dict[str, list[str]]) -> Part:
    """Tell what kinds of characters there are, and which of them are not seen."""
    everything = sum(counts.values(), np.zeros_like(counts["train"]))
    total = int(everything.sum())
    kinds = by_kind(everything)
    changed = Counter[str]()
    for texts in read.values():
        changed.update(lines_not_in(texts))
    measures = [
        fact("distinct_characters", "different characters", int((everything > 0).sum())),
        *(fact(f"characters_{kind}", title, kinds[kind]) for kind, title in KINDS.items()),
        *(fact(f"not_{form}", f"lines that are not in {form}", n) for form, n in changed.items()),
    ]
    tables = [
        Table([head, "characters", "share"], shares_of(found, total))
        for head, found in (("kind", by_category(everything)), ("script", by_script(everything)))
    ]
    words = Words(
        "Scripts are those of the letters, by their Unicode names. A line in NFC that is not in "
        "NFKC holds characters such as ligatures or full-width letters that mean another; one in "
        "NFC that is not in NFD is ordinary text with accents."
    )
    blocks: list[Block] = [Figures(measures, "Characters of all splits"), *tables, words]
    if found := {kind: kinds[kind] for kind in STRANGE if kinds[kind]}:
        listed = " and ".join(f"{n:,} of {KINDS[kind].split(',')[0]}" for kind, n in found.items())
        return Part(blocks, f"Among its characters are {listed}.", "caution")
    return Part(blocks)


def shares_of(found: Counter[str], total: int) -> list[list[str]]:
    shown = found.most_common(ROWS)
    if rest := found.total() - sum(n for _, n in shown):
        shown.append((f"{len(found) - ROWS} others", rest))
    return [[name, f"{n:,}", f"{100 * n / total:.3g} %"] for name, n in shown]


def lines(read: dict[str, list[str]]) -> Part:
    """Tell which lines are said again, within each split."""
    measures, rows = [], []
    for split, texts in read.items():
        found = repeated_lines(texts)
        title = f"lines of {split} that were said before"
        if not found.total:
            measures.append(missing(f"repeated_{split}", title, "it has no lines"))
            continue
        how = "every line that was read is counted"
        repeated = found.repeats / found.total
        measures.append(Measure(f"repeated_{split}", title, repeated, "%", found.total, how=how))
        if split == "train":
            rows = [[shortened(line), f"{count:,}"] for line, count in found.most]
    blocks: list[Block] = [Figures(measures, "Lines, without blank ones")]
    if rows:
        blocks.append(Table(["the most frequent of train", "times"], rows))
    return Part(blocks)


def shortened(line: str) -> str:
    """Return the start of a line as it may be shown: hints masked, what is not seen as its code."""
    for hint in sorted(hints(line), key=lambda hint: -hint.start):
        line = line[: hint.start] + hint.masked + line[hint.start + hint.length :]
    shown = line if len(line) <= LINE else line[: LINE - 3] + "..."
    return "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in shown)


def vocabulary(text: Text, read: dict[str, list[str]]) -> Part:
    """Tell how much of the vocabulary is used, and what the measured split has of unknown."""
    measured = text.measured_split
    size = len(text.tokenizer.vocabulary)
    trained = np.array(text.data.info["occurrences"])
    asked = np.bincount(text.tokens(measured), minlength=size)
    n = int(asked.sum())
    unseen = int(asked[trained == 0].sum())
    words_trained = Counter(word for part in read["train"] for word in words_of(part))
    words_asked = Counter(word for part in read[measured] for word in words_of(part))
    new = sum(count for word, count in words_asked.items() if word not in words_trained)
    counted = "every one that was read is counted"
    title = f"tokens of {measured} never seen in training"
    measures = [
        fact("vocabulary", "tokens that there are", size),
        fact("vocabulary_used", "of them, seen in training", int((trained > 0).sum())),
        Measure("unseen_tokens", title, unseen / n, "%", n, how=counted),
        fact("distinct_words", "different words of train", len(words_trained)),
        fact("words", "words of train", words_trained.total()),
    ]
    if total := words_asked.total():
        title = f"words of {measured} that are not in train"
        measures.append(Measure("new_words", title, new / total, "%", total, how=counted))
    words = Words("Words are runs of letters, digits and underscores, in small letters.")
    if unseen < UNSEEN_CARE * n:
        return Part([Figures(measures, "Tokens and words"), words])
    says = f"{unseen:,} of the {n:,} {measured} tokens were never seen in training."
    return Part([Figures(measures, "Tokens and words"), words], says, "caution")


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def personal(read: dict[str, list[str]]) -> Part:
    """Count what is written like personal data, with masked examples."""
    found: dict[str, list[str]] = {kind: [] for kind in PERSONAL}
    for texts in read.values():
        for text in texts:
            for hint in hints(text):
                found[hint.kind].append(hint.masked)
    titles = {kind: PERSONAL[kind].title for kind in found}
    measures = [fact(f"personal_{kind}", titles[kind], len(found[kind])) for kind in found]
    rows = [
        [titles[kind], f"{len(masked):,}", ", ".join(list(dict.fromkeys(masked))[:EXAMPLES])]
        for kind, masked in found.items()
        if masked
    ]
    words = Words(
        "Patterns find what is written like an address or a number, and not persons: names, places "
        "and stories are missed, and examples in a manual are found. Nothing found does not mean "
        "that there are no personal data."
    )
    blocks: list[Block] = [Figures(measures, "Hints of personal data, all splits")]
    if not rows:
        return Part([*blocks, words], "No pattern of personal data was found in it.")
    blocks.append(Table(["kind", "found", "masked examples"], rows))
    kinds = ", ".join(f"{number} {title.partition(' (')[0]}" for title, number, _ in rows)
    return Part([*blocks, words], f"Patterns find hints of personal data: {kinds}.", "caution")
