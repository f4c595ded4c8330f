"""What a report did not look at, and which questions of regulators its figures speak to.

The evidence names articles; whether they apply, and whether they are met, is for people to say.
"""

from typing import NamedTuple

from project.reporting.findings import MARKS, SECTIONS, Measure, Section, Table, Words
from project.reporting.markdown import table
from project.reporting.recorded import data_name, is_own_data
from project.reporting.subject import Subject

NAME = "limits"
RULE = (
    "Nothing is judged here. The first table follows from what was run and what was not; the "
    "second lists what no section of this report asks, whatever is run."
)
NEVER_ASKED = (  # of models of every kind
    ("Other seeds", "one run does not say how far another would come out: project.compare does"),
    ("Fairness", "the report knows of no groups of people, so it cannot compare them"),
    ("Privacy", "whether somebody who may ask can tell which examples were trained on"),
    ("The use of it", "what people do with the answers, and what a wrong one costs"),
    ("Change over time", "how the world that the data are from has changed since"),
)
NEVER_ASKED_OF = {
    "images": (
        ("Physical changes", "prints, cameras, light, stickers: every change here is of pixels"),
        ("Other attacks", "of other norms, made for a defence, or on the training data"),
        ("Other sources", "the same classes from other devices, places and people"),
    ),
    "text": (
        ("Other languages", "and other kinds of text than the few in this report"),
        ("What it writes", "truth, harm, bias: of its samples, only what is copied is measured"),
        ("Other attacks", "instructions in the text, several tokens at once, poisoned training"),
    ),
}


def section(subject: Subject, sections: list[Section]) -> Section:
    """Return what was not looked at.

    Args:
        sections: Those that were made before this one.
    """
    run = {s.name for s in sections if s.mark != "not run"}
    left_out = [title for name, title in others().items() if name not in run]
    unseen = never_asked(subject)
    verdict = (
        f"This is one run with one seed, {data_in_words(subject)}. "
        + (f"Not run: {', '.join(left_out)}. " if left_out else "")
        + f"Not looked at: {', '.join(what[0].lower() + what[1:] for what, _ in unseen)}."
    )
    return Section(
        NAME,
        "told",
        verdict,
        [
            Words(RULE),
            Table(["Limit", "What"], found_limits(subject, sections), "Of this report"),
            Table(["Not asked", "What that is"], [list(row) for row in unseen], "Of any report"),
        ],
    )


def others() -> dict[str, str]:
    """Return names and titles of all sections but this one."""
    return {name: title for name, title in SECTIONS.items() if name != NAME}


def data_in_words(subject: Subject) -> str:
    if subject.closed:
        return "and its data could not be opened"
    is_same = is_own_data(subject)
    if is_same is None:
        return "measured on data that may not be those of its training: no hash is recorded"
    if not is_same:
        return "measured on other data than in its training, which it may have been trained on"
    return "measured on data from the source of its training data"


def found_limits(subject: Subject, sections: list[Section]) -> list[list[str]]:
    """Return the limits that follow from what was run."""
    made = {s.name: s for s in sections}
    rows = []
    for name, title in others().items():
        if name not in made:
            rows.append([title, f"not run: python -m project.report RUN --sections {name}"])
        elif made[name].mark == "not run":
            rows.append([title, f"not run: {made[name].verdict}"])
    for s in sections:
        gaps = [f"{m.title} ({m.how})" for m in s.measures() if m.value is None]
        if gaps and s.mark != "not run":
            rows.append([f"Gaps in: {s.title}", "not run: " + "; ".join(gaps)])
    rows += [["Data", note] for note in subject.notes]
    if subject.closed:
        rows.append(["Data", subject.closed])
    if subject.record.get("git", {}).get("changed"):
        rows.append(["Code", "it was changed after its commit; code.patch in the run has how"])
    return rows + [["Examples", told] for told in examples_in_words(sections)]


def examples_in_words(sections: list[Section]) -> list[str]:
    """Return on how many examples figures rest, and the widest interval of a share."""
    estimates = [m for s in sections for m in s.measures() if m.interval_95 and m.n]
    if not estimates:
        return []
    told = f"the estimates rest on {min(m.n or 0 for m in estimates):,} or more each"
    if shares := [m for m in estimates if m.unit == "%"]:
        widest = max(shares, key=width)
        told += f"; the least certain share is {widest.title}: {widest.shown()}"
    return [told + ". A difference smaller than an interval is not seen"]


def width(measure: Measure) -> float:
    low, high = measure.interval_95 or (0.0, 0.0)
    return high - low


def never_asked(subject: Subject) -> list[tuple[str, str]]:
    return [*NEVER_ASKED, *NEVER_ASKED_OF.get(subject.kind, ())]


class Row(NamedTuple):
    """A section, and what it speaks to.

    After each: [R] when its text was read, [S] when a secondary source was, [M] for from memory.
    """

    name: str
    annex_iv: str = ""
    annex_xi: str = ""
    china: str = ""
    nist: str = ""


ROWS = (
    Row(
        "identity",
        "1(a), 1(c), 1(e) [R]; 2(a) to 2(c) [R]",
        "1, 2(a), 2(b) [M]",
        "",
        "MAP [M]; MEASURE 2.1 [S]",
    ),
    Row(
        "data",
        "2(d) [R]",
        "2(c) [M]",
        "Interim Measures, Art. 7 [S], Art. 8 [M]; GB/T 45652-2025, GB/T 45674-2025 [S]",
        "MAP 2.3, MEASURE 2.10 [M]",
    ),
    Row("performance", "2(g) [R]; 3, 4 [S]", "", "", "MEASURE 2.3 [S], 2.5 [M]"),
    Row("calibration", "2(g) [R]; 3, 4 [S]", "", "", "MEASURE 2.3 [S], 2.5 [M]"),
    Row("robustness", "2(g), 2(h) [R]; Art. 15 [M]", "", "", "MEASURE 2.7 [S]"),
    Row("out_of_distribution", "2(g), 2(h) [R]; Art. 15 [M]", "", "", "MEASURE 2.7 [S]"),
    Row(
        "interpretability",
        "2(e) [R]; Art. 13, 14 [M]",
        "",
        "Interim Measures, Art. 4 [M]",
        "MEASURE 2.9 [M]",
    ),
    Row("energy", "2(c), compute [R]", "2(d), 2(e) [R]", "", "MEASURE 2.12 [S]"),
    Row("limits", "3 [S]", "", "", "MEASURE 2.13 [M]"),
)
FOR_PEOPLE = (
    ("Intended purpose, who provides it, form, instructions", "Annex IV 1(b), 1(d), 1(f-h) [R]"),
    ("Human oversight of its use", "Annex IV 2(e) [R]"),
    ("Changes that are planned beforehand", "Annex IV 2(f) [R]"),
    ("Date and signature of those who tested", "Annex IV 2(g) [R]"),
    ("Security of where it runs", "Annex IV 2(h) [R]"),
    ("Risks, life cycle, standards, declaration, monitoring", "Annex IV 5 to 9 [S]"),
    ("Acceptable use; whom it is given to", "Annex XI 1(b) [M]"),
    ("Lawful source, consent and rights in the data", "Interim Measures, Art. 7 [S]"),
    ("Fairness across groups of people", "Annex IV 2(g) [R]; NIST MEASURE 2.11 [S]"),
    ("Who is answerable; what is done about what was found", "NIST GOVERN, MANAGE [M]"),
)
SOURCES = """\
- Regulation (EU) 2024/1689 (AI Act) of 13 June 2024 [M]: Annex IV is the technical documentation \
of high-risk systems and is asked of no others; Annex XI is that of general-purpose models. The \
dates for high-risk systems were moved to 2 December 2027 (Annex III) and 2 August 2028 (Annex I) \
by the Digital Omnibus, adopted by the Council on 29 June 2026 [S]. Systems for research alone \
are out of scope by Art. 2(6) [M].
- NIST AI Risk Management Framework 1.0, NIST AI 100-1, January 2023: voluntary.
- Interim Measures for the Management of Generative AI Services \
(生成式人工智能服务管理暂行办法), in force since 15 August 2023; Art. 2 leaves out \
research that is not offered to the public [R].
- GB/T 45654-2025, GB/T 45652-2025 and GB/T 45674-2025, effective 1 November 2025 [S]."""


def evidence(subject: Subject, sections: list[Section]) -> str:
    """Return `evidence.md`: for each question of a regulator, what was found, or that nothing was.

    Args:
        sections: All of the report; those that are not in it are named as not run.
    """
    made = {s.name: s for s in sections}
    head = ["Section", "Found", "EU Annex IV", "EU Annex XI", "China", "NIST AI RMF"]
    found = [
        [f"{SECTIONS[row.name]} (`{row.name}`)", found_by(made.get(row.name)), *row[1:]]
        for row in ROWS
    ]
    limits = [*found_limits(subject, sections), *map(list, never_asked(subject))]
    return "\n\n".join(
        [
            f"# Evidence: {type(subject.network).__name__} on {data_name(subject)}",
            "Which parts of the EU AI Act, of NIST's AI Risk Management Framework and of China's "
            "measures the figures of this report speak to. It is no legal advice and claims no "
            "conformity: a figure is evidence for whoever judges. [R]: the text of that part was "
            "read; [S]: a secondary source was; [M]: from memory, to be looked up before use.",
            table(head, found),
            "## For people to fill in",
            table(["What", "Asked by", "Answer"], [[*row, "TODO"] for row in FOR_PEOPLE]),
            "## Limits of the figures",
            "\n".join(f"- {what}: {why}" for what, why in limits),
            "## Sources",
            SOURCES + "\n",
        ]
    )


def found_by(section: Section | None) -> str:
    if section is None:
        return "not run: not part of this report"
    mark = MARKS[section.mark].lower()
    return f"{mark}: {section.verdict}"
