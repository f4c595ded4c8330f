"""What a section measured is shown whole on the page and in Markdown, and read back as it was."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from project.intervals import wilson_interval
from project.reporting import results
from project.reporting.findings import (
    SECTIONS,
    WITHIN_A_MARK,
    Figures,
    Measure,
    Passage,
    Picture,
    Section,
    Table,
    Words,
    by_mark,
    digits,
    fact,
    missing,
    not_run,
    share,
    what_it_is,
    with_unit,
)
from project.reporting.markdown import markdown_of
from project.reporting.page import page_of

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
    return Section("robustness", "fails", "90 % & less.", blocks, 1.5)


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


@pytest.mark.parametrize(
    ("right", "n", "shown"),
    [(350, 359, "97.5 % (95 % interval 95.3 to 98.7, n = 359)"),
     (9916, 10_000, "99.16 % (95 % interval 98.96 to 99.32, n = 10,000)"),
     (10, 10, "100 % (95 % interval 72 to 100, n = 10)"),
     (49_999, 50_000, "99.998 % (95 % interval 99.989 to 100.000, n = 50,000)")],
)  # fmt: skip
def test_a_share_has_the_digits_that_its_examples_can_tell(right: int, n: int, shown: str) -> None:
    measure = share("a", "a", right, n)
    assert measure.interval_95 == wilson_interval(right, n)
    assert measure.shown() == shown


def test_an_estimate_has_the_digits_of_its_interval() -> None:
    loss = Measure("a", "a", 0.03675, "nats", 359, (-0.00213, 0.0756))
    assert loss.shown() == "0.037 nats (95 % interval -0.002 to 0.076, n = 359)"
    assert (
        Measure("a", "a", 0.5, "%", 3, (0.5, 0.5)).shown()
        == "50.0 % (95 % interval 50.0 to 50.0, n = 3)"
    )
    infinite = Measure("a", "a", 2.0, "", 3, (-float("inf"), float("inf")))
    assert infinite.interval() == "-inf to inf"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12345, "12,345"), (12345.6, "12,346"), (45.25, "45.2"), (1.234, "1.23"), (0.0, "0"),
     (0.01234, "0.0123"), (4.2e-06, "4.2e-06"), (999.7, "1,000"),
     (-0.25, "-0.25"), (float("nan"), "nan"), (float("inf"), "inf")],
)  # fmt: skip
def test_numbers_have_the_digits_that_people_read(value: float, shown: str) -> None:
    assert digits(value) == shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(0.9916, "%", "99.16 %"), (0.9, "%", "90.0 %"), (1.0, "%", "100 %"), (0, "%", "0 %"),
     (-0.2, "%", "-20.0 %"), (3_651_584, "FLOP", "3.65 MFLOP"),
     (277_820_211_200.0, "FLOP", "278 GFLOP"),
     (12, "FLOP", "12 FLOP"), (3, "", "3"), (0.25, "J", "0.25 J")],
)  # fmt: skip
def test_facts_have_their_unit(value: float, unit: str, shown: str) -> None:
    assert with_unit(value, unit) == shown


def test_the_first_screen_begins_with_what_it_is_good_for_and_leaves_out_what_it_is() -> None:
    names = ["identity", "data", "performance", "calibration", "robustness", "limits"]
    marks = ["told", "holds", "holds", "fails", "fails", "told"]
    made = [Section(n, mark, "Said.") for n, mark in zip(names, marks, strict=True)]
    screen = [(mark, [s.name for s in group]) for mark, group in by_mark(made)]
    assert screen == [
        ("holds", ["performance", "data"]), ("fails", ["robustness", "calibration"]),
        ("told", ["limits"]),
    ]  # fmt: skip
    assert {*WITHIN_A_MARK, "identity"} == set(SECTIONS)
    assert what_it_is(made) == ["Said."]
    assert what_it_is([not_run("identity", "Not chosen")]) == []


def test_the_page_holds_everything_and_nothing_that_acts() -> None:
    page = page_of("CNN on <Digits>", ["about"], [some_section(), not_run("data", "No.")])
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "&lt;attack&gt;" in page
    assert "<attack>" not in page
    assert "<script" not in page
    assert "http" not in page
    assert "one␀two" in page  # a control character is not swallowed
    screen = page[page.index('class="look"') : page.index("<nav>")]
    assert "90&nbsp;% &amp; less." in screen
    assert "Not run" in screen


def test_markdown_tables_stay_tables() -> None:
    text = markdown_of("CNN on Digits", ["about"], [some_section()])
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.replace("\\|", "").count("|") for line in tables}
    assert widths == {7, 3}  # figures have six columns, the table two
    assert "| --- | ---: |" in text  # numbers stand on the right
    assert "not run" in text
    assert "\n````text\none␀two" in text  # longer than the fence inside
    assert "![a curve that falls](figures/curve.png)" in text


def test_sections_are_read_back_as_they_were(tmp_path: Path) -> None:
    section = some_section()
    results.keep(tmp_path, ABOUT, [section, not_run("data", "Why.")])
    assert results.kept(tmp_path, ABOUT) == {
        "robustness": section
    }  # what was not run is asked again
    assert json.loads((tmp_path / "results.json").read_text())["sections"]["data"]["verdict"]


def test_sections_of_another_checkpoint_are_not_taken(tmp_path: Path) -> None:
    results.keep(tmp_path, ABOUT, [some_section()])
    assert results.kept(tmp_path, {"subject": {"checkpoint_sha256": "bb"}}) == {}
    (tmp_path / "results.json").write_text("{ broken")
    assert results.kept(tmp_path, ABOUT) == {}


def test_a_number_that_is_not_finite_does_not_break_a_later_report(tmp_path: Path) -> None:
    none = float("nan")
    measures = [Measure("a", "a", 1.0, "", 3, (none, none), 0, "bootstrap")]
    section = Section("performance", "told", "So.", [Figures(measures)])
    results.keep(tmp_path, ABOUT, [section])
    (read,) = results.kept(tmp_path, ABOUT).values()
    assert read.measures()[0].shown() == "1"
    results.keep(
        tmp_path, ABOUT, [Section(**vars(section) | {"blocks": [Figures([fact("a", "a", none)])]})]
    )
    assert results.kept(tmp_path, ABOUT) == {}  # a fact without its number is measured again


def test_pictures_that_no_section_has_any_more_are_deleted(tmp_path: Path) -> None:
    results.keep(tmp_path, ABOUT, [some_section()])
    results.keep(tmp_path, ABOUT, [Section("data", "told", "Sound.", [Words("a")])])
    assert list((tmp_path / "figures").iterdir()) == []
