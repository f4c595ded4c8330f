"""What a report holds: sections of figures with n, seed and interval, tables, pictures and words.

A section measures and fills these; `page.py` and `markdown.py` show them; `results.py` keeps them.
Nothing here needs torch.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["holds", "caution", "fails", "told", "not run"]
MARKS: dict[Mark, str] = {  # in the order of the first screen
    "holds": "Holds",
    "fails": "Fails",
    "caution": "With care",
    "told": "To know",
    "not run": "Not run",
}
SECTIONS = {  # in the order of a report, with their titles
    "identity": "Identity",
    "data": "Data",
    "performance": "Performance",
    "calibration": "Calibration",
    "robustness": "Robustness",
    "out_of_distribution": "Out of distribution",
    "interpretability": "Interpretability",
    "energy": "Energy",
    "limits": "Limits and evidence",
}
WITHIN_A_MARK = (  # the order of the first screen; what the model is, is told above it
    "performance",
    "robustness",
    "out_of_distribution",
    "calibration",
    "interpretability",
    "data",
    "energy",
    "limits",
)
PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6))


@dataclass(frozen=True)
class Measure:
    """One number, with what it takes to believe it.

    Attributes:
        key: Its name in `results.json`, unique in its section, such as `pgd_0.3`.
        title: Its name for a reader.
        value: None where it was not run; `how` then says why.
        unit: `%` for a share, which is kept in [0, 1]; else `nats`, `bits/byte`, `kWh`, or nothing.
        n: Examples (images, tokens, windows) that it was measured on; None for a plain fact.
        interval_95: Of an estimate; None for a count or a fact.
        seed: Of what was drawn to measure it; None where nothing was.
        how: Kind of interval, or why there is none.
    """

    key: str
    title: str
    value: float | int | None
    unit: str = ""
    n: int | None = None
    interval_95: tuple[float, float] | None = None
    seed: int | None = None
    how: str = ""

    def __post_init__(self) -> None:
        assert self.value is not None or self.how, f"{self.key}: says not why it was not run"
        is_estimate = self.value is not None and self.n is not None
        assert not is_estimate or self.interval_95 or self.how, f"{self.key}: has no interval"

    def number(self) -> str:
        """Return the value with its unit, or `not run`."""
        return "not run" if self.value is None else with_unit(self.value, self.unit, self.decimals)

    def interval(self) -> str:
        """Return the ends of the interval, without the unit; nothing where there is none."""
        ends = self.interval_95 or ()
        return " to ".join(without_unit(end, self.unit, self.decimals) for end in ends)

    @property
    def decimals(self) -> int | None:
        """Return those that the interval can tell apart: its width has two digits."""
        if self.interval_95 is None:
            return None
        width = (self.interval_95[1] - self.interval_95[0]) * (100 if self.unit == "%" else 1)
        if not 1e-6 < width < math.inf:
            return None
        return max(0, 1 - math.floor(math.log10(width)))

    def shown(self) -> str:
        """Return value, interval and n in words, for a sentence."""
        if self.interval_95 is None:
            return self.number()
        n = f", n = {self.n:,}" if self.n else ""
        return f"{self.number()} (95 % interval {self.interval()}{n})"


@dataclass(frozen=True)
class Figures:
    """Measures, one below the other."""

    measures: list[Measure]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of plain text; numbers in them are in `results.json` as they stand here."""

    head: list[str]
    rows: list[list[str]]
    title: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG, kept as `figures/<name>.png`.

    Attributes:
        caption: What it shows and how to read it, shown below.
        alt: The same for who cannot see it, with the main finding.
    """

    name: str
    png: bytes = field(repr=False)
    caption: str
    alt: str


@dataclass(frozen=True)
class Words:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Passage:
    """Text to be shown letter for letter, such as a sample of a language model."""

    text: str
    title: str = ""


Block = Figures | Table | Picture | Words | Passage


@dataclass
class Section:
    """One question of the report, and its answer.

    Attributes:
        name: Of `SECTIONS`.
        mark: What the first screen says of it; its rule is told in the section's words.
        verdict: The answer in one or two sentences, with its figures.
        seconds: That it took.
    """

    name: str
    mark: Mark
    verdict: str
    blocks: list[Block] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def title(self) -> str:
        return SECTIONS[self.name]

    def measures(self) -> list[Measure]:
        return [m for block in self.blocks if isinstance(block, Figures) for m in block.measures]

    def measure(self, key: str) -> Measure | None:
        return next((m for m in self.measures() if m.key == key), None)


@dataclass
class Part:
    """One of several questions of a section.

    Attributes:
        blocks: That answer it.
        says: Sentences for the verdict; nothing where it needs none.
        mark: What it alone would give the section.
    """

    blocks: list[Block] = field(default_factory=list)
    says: str = ""
    mark: Mark = "holds"


def section_of(name: str, parts: list[Part], *last: Block) -> Section:
    """Return a section that is marked as its worst part, of which its verdict tells first."""
    worst_first = sorted(parts, key=lambda part: ("fails", "caution", "holds").index(part.mark))
    verdict = " ".join(part.says for part in worst_first if part.says)
    blocks = [block for part in parts for block in part.blocks]
    return Section(name, worst_first[0].mark, verdict, [*blocks, *last])


def not_run(name: str, why: str) -> Section:
    """Return a section that says why it is empty."""
    return Section(name, "not run", why)


def share(key: str, title: str, right: int, n: int, seed: int | None = None) -> Measure:
    """Return the share `right` of `n`, with Wilson's interval."""
    from project.intervals import wilson_interval

    return Measure(key, title, right / n, "%", n, wilson_interval(right, n), seed, "Wilson")


def fact(key: str, title: str, value: float | int, unit: str = "", how: str = "") -> Measure:
    """Return a number that is counted or recorded and not estimated."""
    return Measure(key, title, value, unit, how=how)


def missing(key: str, title: str, why: str) -> Measure:
    """Return the place of a number that was not measured."""
    return Measure(key, title, None, how=why)


def columns(measures: list[Measure]) -> dict[str, list[str]]:
    """Return the cells of a table of measures by its heads, without a column that nobody fills."""
    found = {
        "value": [m.number() for m in measures],
        "95 % interval": [m.interval() for m in measures],
        "n": ["" if m.n is None else f"{m.n:,}" for m in measures],
        "seed": ["" if m.seed is None else str(m.seed) for m in measures],
    }
    return {head: cells for head, cells in found.items() if any(cells)}


def what_it_is(sections: list[Section]) -> list[str]:
    """Return the sentence above the first screen; none where the identity was not run."""
    return [s.verdict for s in sections if s.name == "identity" and s.mark != "not run"]


def by_mark(sections: list[Section]) -> list[tuple[Mark, list[Section]]]:
    """Return the first screen: the sections that have each mark, without what the model is."""
    judged = [section for section in sections if section.name in WITHIN_A_MARK]
    judged.sort(key=lambda section: WITHIN_A_MARK.index(section.name))
    groups = [(mark, [s for s in judged if s.mark == mark]) for mark in MARKS]
    return [(mark, group) for mark, group in groups if group]


def with_unit(value: float | int, unit: str, decimals: int | None = None) -> str:
    if unit == "FLOP":
        prefix, size = next(((p, s) for p, s in PREFIXES if value >= s), ("", 1))
        return f"{digits(value / size if prefix else value)} {prefix}FLOP"
    return f"{without_unit(value, unit, decimals)} {unit}".rstrip()


def without_unit(value: float | int, unit: str, decimals: int | None = None) -> str:
    if decimals is not None and isinstance(value, float):
        return f"{100 * value if unit == '%' else value:,.{decimals}f}"
    return percent(value) if unit == "%" else digits(value)


def percent(share: float) -> str:
    """Return a share in percent, with two decimals within 1 % of its ends, where they count."""
    if share in (0, 1):
        return f"{100 * share:.0f}"
    return f"{100 * share:.{1 if 0.01 <= abs(share) <= 0.99 else 2}f}"


def digits(value: float | int) -> str:
    """Return a number as people read it: counts whole, others to three digits."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def capital(text: str) -> str:
    """Return text with its first letter large, the others as they are."""
    return text[0].upper() + text[1:]
