"""`project.compare` as a user has it: on real runs, in a terminal, in files and in a browser."""

import csv
import html
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from project.compare import main
from project.comparison.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Curve,
    plot,
    ticks,
)
from project.configuration import CONFIGS
from project.training.command import command

NASTY = "a <b>&'c\" |d"
TINY = ["--trainer.accelerator=cpu", "--trainer.max_epochs=3", "--trainer.limit_train_batches=4",
        "--trainer.log_every_n_steps=1", "--trainer.precision=32-true",
        "--trainer.logger=false"]  # fmt: skip
TEXT = ["--config", str(CONFIGS / "docs_transformer.yaml"), "--model.network", "MLPLanguageModel",
        "--model.network.width=8", "--model.network.depth=1", "--trainer.max_steps=4",
        "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--model.sample_tokens=0",
        "--trainer.logger=false", "--data.corpus=TextCorpus"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a CNN and one run of an MLP on Digits, and one of a text."""
    folder = tmp_path_factory.mktemp("compare")
    text = folder / "text.txt"
    text.write_text("the cat sat on the mat and the rat sat on the cat\n" * 100)
    place = ["--runs_dir", str(folder / "runs")]
    for seed in ("0", "1"):
        typed = [*TINY, "--model.network.width=4", "--seed_everything", seed]
        assert command([*typed, *place]) == 0
    assert command([*TINY, "--model.network=MLP", "--experiment", NASTY, *place]) == 0
    where = ["--data.corpus.path", str(text), "--data.cache_dir", str(folder / "cache")]
    assert command([*TEXT, *where, *place]) == 0
    return folder / "runs"


def records(runs: Path) -> list[dict[str, Any]]:
    """Return the record of each run, in the order in which they were begun."""
    found = [json.loads(path.read_text()) for path in runs.glob("*/run.json")]
    order = ["default", NASTY, "docs_transformer"]
    return sorted(found, key=lambda record: (order.index(record["experiment"]), record["seed"]))


@pytest.fixture(scope="module")
def written(runs: Path) -> Path:
    """A folder with compare.html, .md and .csv."""
    folder = runs.with_name("written")
    folder.mkdir()
    files = [str(folder / f"compare.{kind}") for kind in ("html", "md", "csv")]
    assert main([str(runs), "--write", *files]) == 0
    return folder


def test_the_terminal_shows_ranks_costs_verdicts_and_differences(runs, capsys) -> None:
    assert main([str(runs)]) == 0
    output = capsys.readouterr().out
    lines = output.splitlines()
    long = [line for line in lines if len(line) > 80 and "python -m project.train" not in line]
    assert not long
    images = lines[: lines.index("TextCorpus: loss, nats; the best validation first")]
    accuracies = [record["metrics"]["test"]["accuracy"]["value"] for record in records(runs)[:2]]
    mean, deviation = statistics.fmean(accuracies), statistics.stdev(accuracies)
    (row,) = [line for line in images if f"{100 * mean:.2f} ± {100 * deviation:.2f}" in line]
    assert row.split()[1:3] == ["default", "2"]
    first, *others = records(runs)
    for record in others:
        assert f"{record['parameters']:,}" in output
    commands = {line[3:] for line in lines if "python -m project.train" in line}
    assert commands - {first["command"]} <= {record["command"] for record in others}
    assert len(commands) == 3
    assert any(line.startswith("1 against 2: ") for line in images)
    assert re.search(r"^model\.network +(CNN +MLP|MLP +CNN)$", "\n".join(images), re.MULTILINE)
    assert re.search(r"images/s .* [0-9a-f]{7}\*?$", "\n".join(images), re.MULTILINE)
    assert "tokens/s" in output


def test_one_run_and_two_runs_can_be_named(runs, capsys) -> None:
    first, second = sorted(runs.glob("*_default_*"))
    assert main([str(first)]) == 0
    assert " against " not in capsys.readouterr().out
    assert main([str(first), str(second)]) == 0
    assert "default        2 " in capsys.readouterr().out


def test_the_command_starts_without_torch(runs) -> None:
    script = "import sys, project.compare as c; c.main(sys.argv[1:]); print('torch' in sys.modules)"
    begun = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", script, str(runs)],
                           capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert shown.stdout.splitlines()[-1] == "False"
    assert time.perf_counter() - begun < 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no finished run in nowhere. python -m project.train makes one"),
        ([], "no finished run in runs"),
        (["RUNS", "nowhere"], "'nowhere' is neither a run directory nor a folder of runs"),
        (["RUNS", "--write", "a.pdf"], "--write a.pdf: the name must end in .html, .md, .csv"),
        (["RUNS", "--write", "nowhere/a.md"], "nowhere/a.md: No such file or directory"),
    ],
)
def test_what_is_not_possible_is_one_line(arguments, message, runs, capsys) -> None:
    assert main([str(runs) if word == "RUNS" else word for word in arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_csv_holds_the_numbers_of_the_records(runs, written) -> None:
    with (written / "compare.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    first, second, nasty, text = records(runs)
    for name, metric, found in (
        ("default", "accuracy", [first, second]),
        (NASTY, "accuracy", [nasty]),
        ("docs_transformer", "loss", [text]),
    ):
        row = rows[name]
        for split in ("val", "test"):
            values = [record["metrics"][split][metric]["value"] for record in found]
            assert float(row[f"{split}_mean"]) == statistics.fmean(values)
        assert int(row["parameters"]) == found[0]["parameters"]
        assert row["command"] in [record["command"] for record in found]
        times = [record["training_seconds"] for record in found]
        assert float(row["training_seconds"]) == statistics.fmean(times)
    ends = [float(rows[NASTY][key]) for key in ("interval_low", "interval_high")]
    assert ends == nasty["metrics"]["test"]["accuracy"]["interval_95"]
    assert [rows[name]["seeds"] for name in rows] in (["0 1", "0", "0"], ["0", "0 1", "0"])


def test_markdown_is_valid_tables(written) -> None:
    rows = [line for line in (written / "compare.md").read_text().splitlines() if "|" in line]
    assert len(rows) == (2 + 2) + (2 + 1)
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {15}  # 13 cells between 14 |
    assert "<b>" not in "".join(re.sub("`[^`]*`", "", row) for row in rows)


class Elements(HTMLParser):
    """Collects the elements of a page, and checks that they are nested."""

    VOID = ("meta", "line", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_whole_and_asks_for_nothing_else(runs, written) -> None:
    page = (written / "compare.html").read_text()
    elements = Elements(page)
    assert elements.open == []
    tags = {tag for tag, _ in elements.found}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "b"})
    attributes = {name for _, attrs in elements.found for name in attrs}
    assert attributes.isdisjoint({"src", "href", "srcset", "onload", "onclick"})
    assert not re.search(r"https?://|url\(|@import", page)
    assert any(NASTY in text for text in elements.texts)
    assert html.escape(NASTY) in page
    assert all(str(run) in "".join(elements.texts) for run in runs.iterdir())


def test_curves_are_those_of_the_runs_inside_their_plots(runs, written) -> None:
    page = (written / "compare.html").read_text()
    figures = re.findall(r"<figcaption>(.*?)</figcaption>.*?</figure>", page, re.DOTALL)
    assert figures == ["val/accuracy, %", "train/loss", "val/loss", "train/loss"]
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    num_points = []
    for svg in plots:
        lines = re.findall(r'<polyline points="([^"]*)"', svg)
        points = [[tuple(map(float, p.split(","))) for p in line.split()] for line in lines]
        num_points.append([len(line) for line in points])
        for x, y in (point for line in points for point in line):
            assert LEFT <= x <= WIDTH - RIGHT
            assert TOP <= y <= HEIGHT - BOTTOM
        for line in points:
            assert [x for x, _ in line] == sorted(x for x, _ in line)
    # A validation for each epoch, a loss for each step; three runs of images, one of text.
    assert num_points == [[3] * 3, [12] * 3, [2], [4]]


def test_a_better_value_is_drawn_higher_and_a_later_one_further_right() -> None:
    drawn = plot("a", [Curve("x", "#000", [(1, 0.25), (10, 0.5)])], percent=True)
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    (x1, y1), (x2, y2) = [tuple(map(float, point.split(","))) for point in points.split()]
    assert x2 > x1
    assert y2 < y1
    (label,) = [float(y) for y in re.findall(r'y="([\d.]+)">50<', drawn)]
    assert label - 4 == pytest.approx(y2, abs=0.11)  # the label 50 stands beside 0.5


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_three_to_eight_round_numbers_inside(low, width) -> None:
    found = ticks(low, low + width)
    assert 3 <= len(found) <= 8
    step = found[1] - found[0]
    assert f"{step:.0e}"[0] in "125"
    assert low - 1e-9 <= found[0] < found[-1] <= low + width + 1e-9


def test_the_start_of_a_run_does_not_squeeze_its_end() -> None:
    steep = [
        (1.0, 1000.0),
        (2.0, 900.0),
        *((float(step), 1.0 + 1 / step) for step in range(100, 1001)),
    ]
    short = [(1.0, 500.0), (10.0, 1.05), (30.0, 1.02)]  # ended before a tenth of the other
    drawn = plot("loss", [Curve("a", "#000", steep), Curve("b", "#000", short)])
    labels = [float(text) for text in re.findall(r'class="end"[^>]*>([^<]*)<', drawn)]
    assert max(labels) < 2
    (other, line) = re.findall(r'points="([^"]*)"', drawn)
    assert [point.split(",")[1] for point in other.split()].count(f"{TOP:.1f}") == 1
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert heights[0] == pytest.approx(TOP)
    assert heights[1] < heights[2] < HEIGHT - BOTTOM


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("the page is tested in a browser that is not here: apt-get install chromium")
    return found


def browse(chromium: str, page: Path, *options: str) -> str:
    """Open a page in a browser of its own that reaches no network; return what it prints."""
    profile = page.with_name("profile")
    answer = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
         f"--user-data-dir={profile}", *options, page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    shutil.rmtree(profile, ignore_errors=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


MEASURE = """<script>
addEventListener("load", () => setTimeout(() => {
  const box = e => { const r = e.getBoundingClientRect();
                     return [r.left, r.top, r.right, r.bottom]; };
  const all = (selector, f) => [...document.querySelectorAll(selector)].map(f);
  const found = {
    requests: performance.getEntriesByType("resource").map(entry => entry.name),
    width: innerWidth, page: document.documentElement.scrollWidth,
    tables: all("table", t => [...t.rows].map(row => [...row.cells].map(c => c.innerText))),
    plots: all("svg", s => ({svg: box(s), texts: [...s.querySelectorAll("text")].map(box),
                             lines: [...s.querySelectorAll("polyline, circle")].map(box)})),
    ink: getComputedStyle(document.body).color,
    paper: getComputedStyle(document.body).backgroundColor,
    textSize: Math.min(...all("svg text", t => t.getBoundingClientRect().height)),
  };
  const place = parent.document.createElement("pre");
  place.id = "measured"; place.textContent = JSON.stringify(found);
  parent.document.body.append(place);
}, 100));
</script></body>"""


def measured(chromium: str, written: Path, tmp_path: Path, width: int) -> Any:
    """Return where a browser puts what is on the page.

    In a frame of the width, since a window of Chromium is at least 500 pixels wide.
    """
    page = (written / "compare.html").read_text(encoding="utf-8").replace("</body>", MEASURE)
    frame = tmp_path / "frame.html"
    style = f"width:{width}px;height:900px;border:0"
    frame.write_text(
        f'<!doctype html><meta charset="utf-8"><body>'
        f'<iframe style="{style}" srcdoc="{html.escape(page)}"></iframe></body>',
        encoding="utf-8",
    )
    shown = browse(chromium, frame, f"--window-size={width + 50},1000",
                   "--virtual-time-budget=2000", "--dump-dom")  # fmt: skip
    (found,) = re.findall(r'<pre id="measured">(.*?)</pre>', shown, re.DOTALL)
    return json.loads(html.unescape(found))


def inside(inner: list[float], outer: list[float], room: float = 1.0) -> bool:
    left, top, right, bottom = outer
    return (
        left - room <= inner[0] <= inner[2] <= right + room
        and top - room <= inner[1] <= inner[3] <= bottom + room
    )


@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_the_page_on_a_screen_and_on_a_phone(
    chromium, written, tmp_path, width
) -> None:
    found = measured(chromium, written, tmp_path, width)
    assert found["requests"] == []
    assert found["width"] == width
    assert found["page"] <= width  # it is not to be pushed sideways
    names = [row[0].strip() for table in found["tables"] for row in table]
    assert any(NASTY in name for name in names)
    assert found["tables"][0][0][:4] == ["experiment", "runs", "validation", "test"]
    assert [len(drawn["lines"]) for drawn in found["plots"]] == [3, 3, 1, 1]
    for drawn in found["plots"]:
        left, top, right, bottom = drawn["svg"]
        assert right - left > 300
        assert right <= width
        assert bottom - top > 150
        assert all(inside(box, drawn["svg"]) for box in drawn["lines"] + drawn["texts"])
    assert found["textSize"] >= 10  # pixels: it can be read


@pytest.mark.parametrize(("scheme", "is_dark"), [("0", True), ("1", False)])
def test_the_page_is_dark_where_the_reader_is(chromium, written, tmp_path, scheme, is_dark) -> None:
    picture = tmp_path / "page.png"
    page = tmp_path / "page.html"
    shutil.copy(written / "compare.html", page)
    scheme = f"--blink-settings=preferredColorScheme={scheme}"
    browse(chromium, page, "--window-size=800,1000", scheme, f"--screenshot={picture}")
    with Image.open(picture) as image:
        grey = image.convert("L")
        counts = grey.histogram()
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    paper = counts.index(max(counts))
    ink = max(range(256), key=lambda value: abs(value - paper) if counts[value] > 20 else 0)
    assert (paper < 64) == is_dark
    assert abs(ink - paper) > 128  # what is written can be read
    assert (0x00, 0x72, 0xB2) in colours  # the first curve and its swatch
    assert (0xD5, 0x5E, 0x00) in colours
