"""A report is made from a checkpoint alone, holds every file, and says what it did not run."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import small_digits_run

from project.report import main
from project.reporting import writing
from project.reporting.findings import SECTIONS
from project.training.command import command

FILES = {
    "index.html", "report.md", "results.json", "README.md", "DATASET_CARD.md", "croissant.json",
    "energy.json", "evidence.md", "figures",
}  # fmt: skip
QUICK = ["--device", "cpu", "--n", "20"]


@pytest.fixture(scope="module")
def image_run(tmp_path_factory) -> Path:
    return small_digits_run(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def image_report(image_run) -> Path:
    assert main([str(image_run), *QUICK]) == 0
    return image_run / "report"


@pytest.fixture(scope="module")
def text_report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    arguments = [
        "--config", str(Path(__file__).parents[1] / "configs" / "docs_transformer.yaml"),
        "--data.root", str(folder / "data"), "--runs_dir", str(folder / "runs"),
        "--model.network.width", "16", "--model.network.depth", "1",
        "--model.network.context_length", "32", "--data.context_length", "32",
        "--trainer.max_steps", "10", "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    assert command(arguments) == 0
    (run,) = (folder / "runs").iterdir()
    assert main([str(run), *QUICK]) == 0
    return run / "report"


@pytest.mark.parametrize("kind", ["image_report", "text_report"])
def test_a_report_holds_every_file_and_section(kind, request) -> None:
    report = request.getfixturevalue(kind)
    assert {path.name for path in report.iterdir()} == FILES
    found = json.loads((report / "results.json").read_text())
    assert list(found["sections"]) == list(SECTIONS)
    page = (report / "index.html").read_text()
    markdown = (report / "report.md").read_text()
    for section in found["sections"].values():
        assert section["mark"] != "not run", section
        assert section["verdict"] in markdown
    assert page.count("<section") == len(SECTIONS)
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,|#)", page)  # needs no other file
    for picture in (report / "figures").iterdir():
        assert f"figures/{picture.name}" in markdown


@pytest.mark.parametrize("kind", ["image_report", "text_report"])
def test_every_number_has_an_interval_or_says_why_not(kind, request) -> None:
    found = json.loads((request.getfixturevalue(kind) / "results.json").read_text())
    measures = [
        measure
        for section in found["sections"].values()
        for block in section["blocks"]
        if block["kind"] == "Figures"
        for measure in block["measures"]
    ]
    assert len(measures) > 50
    for measure in measures:
        if measure["n"] is not None and measure["value"] is not None:
            assert measure["interval_95"] or measure["how"], measure
        if measure["interval_95"]:
            low, high = measure["interval_95"]
            assert low <= high, measure
            assert measure["n"], measure
    for section in found["sections"].values():
        keys = [m["key"] for b in section["blocks"] for m in b.get("measures", [])]
        assert len(keys) == len(set(keys)), section["name"]


@pytest.mark.parametrize("kind", ["image_report", "text_report"])
def test_nothing_in_a_report_names_the_users_folders(kind, request, tmp_path_factory) -> None:
    report = request.getfixturevalue(kind)
    for path in report.rglob("*"):
        if path.suffix in (".html", ".md", ".json"):
            assert str(Path.home()) + "/" not in path.read_text(), path.name


def test_a_second_report_gives_the_same_numbers(image_run, image_report, tmp_path) -> None:
    names = ["performance", "calibration", "robustness", "out_of_distribution"]
    again = tmp_path / "again"
    assert main([str(image_run), *QUICK, "--output", str(again), "--sections", *names]) == 0
    first, second = (
        json.loads((folder / "results.json").read_text())["sections"]
        for folder in (image_report, again)
    )
    for name in names:
        assert first[name]["blocks"] == second[name]["blocks"]
    assert second["energy"]["mark"] == "not run"
    assert "--sections energy" in second["energy"]["verdict"]


def test_chosen_sections_are_put_beside_those_that_were_there(image_run, image_report) -> None:
    before = json.loads((image_report / "results.json").read_text())["sections"]
    assert main([str(image_run), *QUICK, "--seed", "1", "--sections", "robustness"]) == 0
    after = json.loads((image_report / "results.json").read_text())["sections"]
    assert after["performance"] == before["performance"]
    assert after["robustness"] != before["robustness"]


def test_limits_of_an_earlier_report_do_not_deny_what_was_run_since(image_run, tmp_path) -> None:
    for names in (["limits"], ["identity"]):
        output = ["--output", str(tmp_path), "--sections", *names]
        assert main([str(image_run), *QUICK, *output]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert "Not run: Data, Performance" in found["limits"]["verdict"]


def test_a_report_changes_nothing_of_the_run(image_run, tmp_path) -> None:
    def content() -> dict[str, bytes]:
        files = [p for p in image_run.rglob("*") if p.is_file() and "report" not in p.parts]
        return {str(path): path.read_bytes() for path in files}

    before = content()
    assert main([str(image_run), *QUICK, "--sections", "performance"]) == 0
    assert content() == before


def test_a_checkpoint_alone_has_a_report_beside_it(image_run, tmp_path) -> None:
    shutil.copy(image_run / "checkpoints" / "best.ckpt", tmp_path / "only.ckpt")
    names = ["identity", "energy", "limits"]
    assert main([str(tmp_path / "only.ckpt"), *QUICK, "--sections", *names]) == 0
    assert (tmp_path / "report" / "index.html").is_file()


def test_without_its_data_a_report_says_so(text_report, tmp_path, capsys) -> None:
    run = text_report.parent
    change = ["--data.corpus", "TextCorpus", "--data.corpus.path", str(tmp_path / "none.txt")]
    output = tmp_path / "out"
    assert main([str(run), *QUICK, *change, "--output", str(output)]) == 1
    assert "none.txt" in capsys.readouterr().err
    found = json.loads((output / "results.json").read_text())["sections"]
    assert found["performance"]["mark"] == "not run"
    assert "none.txt" in found["performance"]["verdict"]
    assert found["identity"]["mark"] == "told"


def test_what_was_measured_outlives_its_data(text_report, tmp_path) -> None:
    output = tmp_path / "copy"
    shutil.copytree(text_report, output)
    change = ["--data.corpus", "TextCorpus", "--data.corpus.path", str(tmp_path / "none.txt")]
    names = ["--sections", "performance", "--output", str(output)]
    assert main([str(text_report.parent), *QUICK, *change, *names]) == 1
    before, after = (
        json.loads((folder / "results.json").read_text())["sections"]
        for folder in (text_report, output)
    )
    assert after["performance"] == before["performance"]
    assert after["calibration"] == before["calibration"]


def test_a_section_that_fails_is_named_and_the_others_are_kept(
    image_run, tmp_path, monkeypatch, capsys
) -> None:
    import project.reporting.images.calibration as calibration

    def broken(subject: object) -> None:
        raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(calibration, "section", broken)
    names = ["--sections", "calibration", "identity", "--output", str(tmp_path / "r")]
    assert main([str(image_run), *QUICK, *names]) == 1
    assert "RuntimeError: no memory at all" in capsys.readouterr().err
    found = json.loads((tmp_path / "r" / "results.json").read_text())["sections"]
    assert found["calibration"]["mark"] == "not run"
    assert found["identity"]["mark"] == "told"


def test_a_folder_of_other_files_is_not_written_over(image_run, tmp_path, capsys) -> None:
    (tmp_path / "README.md").write_text("my own")
    assert main([str(image_run), *QUICK, "--sections", "limits", "--output", str(tmp_path)]) == 2
    assert "is not empty and holds no report" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "neither a run directory nor a checkpoint"),
        (["nowhere", "--n", "1"], "--n 1 must be at least 2"),
        (["nowhere", "--trainer.max_epochs", "3"], "unknown option --trainer.max_epochs"),
    ],
)
def test_what_is_not_possible_is_said_in_one_line(arguments, said, capsys) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_first_screen_fits_a_terminal(image_report) -> None:
    found = writing.results.kept(
        image_report, json.loads((image_report / "results.json").read_text())
    )
    screen = writing.first_screen("CNN on Digits", list(found.values()))
    assert max(map(len, screen.splitlines())) <= 80
