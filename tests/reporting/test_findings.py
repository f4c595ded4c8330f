"""What a section measured is shown whole on the page and in Markdown, and read back as it was."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from project.reporting import results
from project.reporting.findings import (
    Figures,
    Measure,
    Passage,
    Picture,
    Section,
    Table,
    Words,
    digits,
    fact,
    missing,
    not_run,
    share,
)
from project.reporting.markdown import markdown_of
from project.reporting.page import page_of
from project.training.intervals import wilson_interval

PNG = b"\x89PNG pixels"
ABOUT = {"subject": {"checkpoint_sha256": "aa"}, "report": {}}


def some_section() -> Section:
    measures = [
        share("accuracy", "right under <attack>", 90, 100, seed=3),
        fact("parameters", "parameters", 1234),
        missing("pgd", "PGD", "no gradient"),
    ]
    blocks = [
        Figures(measures, "Figures"),
        Table(["kind", "n"], [["a|b", "1"], ["<i>", "2"]]),
        Picture("curve", PNG, "How to read it", "a curve that falls"),
        Words("Marked so by a rule."),
        Passage("one\x00two ``` three\n", "Sample"),
    ]
    return Section("robustness", "Robustness", "fails", "90 % & less.", blocks, 1.5)


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_an_estimate_without_an_interval_is_refused_unless_it_says_why() -> None:
    with pytest.raises(AssertionError, match="has no interval"):
        Measure("a", "a", 0.5, "%", n=10)
    with pytest.raises(AssertionError, match="not why"):
        Measure("a", "a", None)
    assert Measure("a", "a", 0.5, n=10, how="an exact count").interval() == ""


def test_shares_are_shown_in_percent_with_wilsons_interval() -> None:
    measure = share("a", "a", 350, 359)
    low, high = wilson_interval(350, 359)
    assert measure.interval() == f"{100 * low:.2f} to {100 * high:.2f}"
    assert measure.shown() == f"97.49 % (95 % interval {measure.interval()}, n = 359)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12345, "12,345"), (12345.6, "12,346"), (45.25, "45.2"), (1.234, "1.23"), (0.0, "0"),
     (0.01234, "0.0123"), (4.2e-06, "4.20e-06"), (float("nan"), "nan")],
)  # fmt: skip
def test_numbers_have_the_digits_that_people_read(value: float, shown: str) -> None:
    assert digits(value) == shown


def test_the_page_holds_everything_and_nothing_that_acts() -> None:
    page = page_of("CNN on <Digits>", ["about"], [some_section(), not_run("data", "Data", "No.")])
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "&lt;attack&gt;" in page
    assert "<attack>" not in page
    assert "<script" not in page
    assert "http" not in page
    assert "one␀two" in page  # a control character is not swallowed
    screen = page[page.index('class="look"') : page.index("<nav>")]
    assert "90 % &amp; less." in screen
    assert "Not run" in screen


def test_markdown_tables_stay_tables() -> None:
    text = markdown_of("CNN on Digits", ["about"], [some_section()])
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.replace("\\|", "").count("|") for line in tables}
    assert widths == {7, 3}  # figures have six columns, the table two
    assert "not run" in text
    assert "\n````text\n" in text  # longer than the fence inside
    assert "![a curve that falls](figures/curve.png)" in text


def test_sections_are_read_back_as_they_were(tmp_path: Path) -> None:
    section = some_section()
    results.keep(tmp_path, ABOUT, [section, not_run("data", "Data", "Why.")])
    assert results.kept(tmp_path, ABOUT) == {
        "robustness": section
    }  # what was not run is asked again
    assert json.loads((tmp_path / "results.json").read_text())["sections"]["data"]["verdict"]


def test_sections_of_another_checkpoint_are_not_taken(tmp_path: Path) -> None:
    results.keep(tmp_path, ABOUT, [some_section()])
    assert results.kept(tmp_path, {"subject": {"checkpoint_sha256": "bb"}}) == {}
    (tmp_path / "results.json").write_text("{ broken")
    assert results.kept(tmp_path, ABOUT) == {}


def test_pictures_that_no_section_has_any_more_are_deleted(tmp_path: Path) -> None:
    results.keep(tmp_path, ABOUT, [some_section()])
    results.keep(tmp_path, ABOUT, [Section("data", "Data", "told", "Sound.", [Words("a")])])
    assert list((tmp_path / "figures").iterdir()) == []
