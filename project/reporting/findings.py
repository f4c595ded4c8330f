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
        return "not run" if self.value is None else with_unit(self.value, self.unit)

    def interval(self) -> str:
        """Return the ends of the interval, without the unit; nothing where there is none."""
        if self.interval_95 is None:
            return ""
        low, high = (percent(e) if self.unit == "%" else digits(e) for e in self.interval_95)
        return f"{low} to {high}"

    def shown(self) -> str:
        """Return value, interval and n in words, for a sentence."""
        parts = [self.number()]
        if self.interval_95 is not None:
            parts.append(
                f"(95 % interval {self.interval()}" + (f", n = {self.n:,})" if self.n else ")")
            )
        return " ".join(parts)


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
        name: As it is chosen by `--sections`.
        mark: What the first screen says of it; its rule is told in the section's words.
        verdict: The answer in one or two sentences, with its figures.
        seconds: That it took.
    """

    name: str
    title: str
    mark: Mark
    verdict: str
    blocks: list[Block] = field(default_factory=list)
    seconds: float = 0.0

    def measures(self) -> list[Measure]:
        return [m for block in self.blocks if isinstance(block, Figures) for m in block.measures]

    def measure(self, key: str) -> Measure | None:
        return next((m for m in self.measures() if m.key == key), None)


def not_run(name: str, title: str, why: str) -> Section:
    """Return a section that says why it is empty."""
    return Section(name, title, "not run", why)


def share(key: str, title: str, right: int, n: int, seed: int | None = None) -> Measure:
    """Return the share `right` of `n`, with Wilson's interval."""
    from project.training.intervals import wilson_interval

    return Measure(key, title, right / n, "%", n, wilson_interval(right, n), seed, "Wilson")


def fact(key: str, title: str, value: float | int, unit: str = "", how: str = "") -> Measure:
    """Return a number that is counted or recorded and not estimated."""
    return Measure(key, title, value, unit, how=how)


def missing(key: str, title: str, why: str) -> Measure:
    """Return the place of a number that was not measured."""
    return Measure(key, title, None, how=why)


def with_unit(value: float | int, unit: str) -> str:
    if unit == "%":
        return f"{percent(value)} %"
    return f"{digits(value)} {unit}".rstrip()


def percent(share: float) -> str:
    """Return a share in percent, with two decimals near its ends, where they count."""
    return f"{100 * share:.{1 if 0.1 <= share < 0.9 else 2}f}"


def digits(value: float | int) -> str:
    """Return a number as people read it: counts whole, others to about four digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    if size >= 0.001:
        return f"{value:.4f}"
    return f"{value:.2e}"
