"""What a repository host reads: workflows, forms, licence and citation are valid and agree."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from project.configuration import PACKAGE

REPOSITORY = PACKAGE.parent
HOST = REPOSITORY / ".github"
WORKFLOWS = sorted(HOST.glob("workflows/*.yml"))
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "custom.github-workflows-require-timeout": WORKFLOWS,
    "vendor.dependabot": [HOST / "dependabot.yml"],
    "vendor.github-issue-config": [HOST / "ISSUE_TEMPLATE/config.yml"],
    "vendor.github-issue-forms": [
        path for path in HOST.glob("ISSUE_TEMPLATE/*.yml") if path.stem != "config"
    ],
    "vendor.citation-file-format": [REPOSITORY / "CITATION.cff"],
}
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def complaint(schema: str, *paths: Path) -> str:
    """Return what the schema, which ships with the package, has against files; "" if nothing."""
    checker = pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    from click.testing import CliRunner

    typed = ["--builtin-schema", schema, *map(str, paths)]
    answer = CliRunner().invoke(checker.main, typed)
    assert answer.exit_code in (0, 1), answer.output
    return answer.output if answer.exit_code else ""


@pytest.mark.parametrize("schema", SCHEMAS)
def test_valid_by_the_schema_of_its_kind(schema: str) -> None:
    assert SCHEMAS[schema]
    assert complaint(schema, *SCHEMAS[schema]) == ""


def test_a_broken_workflow_is_refused(tmp_path) -> None:
    text = (HOST / "workflows/test.yml").read_text(encoding="utf-8")
    broken = tmp_path / "broken.yml"
    for right, wrong in (
        ("runs-on: ubuntu-latest", "run-on: ubuntu-latest"),
        ("contents: read", "contents: sometimes"),
        ("      - run: make lint TORCH=cpu PYTHON=python", "      - make lint"),
    ):
        assert right in text
        broken.write_text(text.replace(right, wrong, 1), encoding="utf-8")
        assert complaint("vendor.github-workflows", broken), wrong


def workflow(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(job: dict[str, Any]) -> list[str]:
    """Return what the steps of a job run, once for each value of a variable of its matrix."""
    found = [step["run"] for step in job["steps"] if "run" in step]
    matrix = dict(job.get("strategy", {}).get("matrix", {}))
    for more in matrix.pop("include", []):
        matrix = {name: [value] for name, value in more.items()} | matrix
    for name, values in matrix.items():
        place = f"${{{{ matrix.{name} }}}}"
        found = [line.replace(place, value) for line in found for value in values]
    return found


@every_workflow
def test_what_a_workflow_runs_is_there(path: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^(\w+) \?=", makefile, re.MULTILINE))
    markers = {text.split(":")[0] for text in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    lines = [line for job in workflow(path)["jobs"].values() for line in commands(job)]
    assert lines
    for line in lines:
        program, *words = line.split()
        if program == "make":
            assert words[0] in targets
            assert {word.split("=")[0] for word in words[1:]} <= variables
        for marker in re.findall(r"-m \"(?:not )?(\w+)\"", line):
            assert marker in markers
        for place in re.findall(r"(?:project|tests|configs)/[\w/.]+", line):
            assert (REPOSITORY / place).exists()
        for extra in re.findall(r"\.\[(\w+)\]", line):
            assert extra in PYPROJECT["project"]["optional-dependencies"]


@every_workflow
def test_a_workflow_names_what_it_has_and_asks_for_little(path: Path) -> None:
    found = workflow(path)
    assert found["permissions"] == {"contents": "read"}
    assert found["concurrency"]["cancel-in-progress"] is True
    for job in found["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        known = {*matrix, *(key for more in matrix.get("include", []) for key in more)}
        text = yaml.safe_dump(job)
        assert set(re.findall(r"matrix\.([\w-]+)", text)) == known - {"include"}
        for action in (step["uses"] for step in job["steps"] if "uses" in step):
            assert re.fullmatch(r"(actions|astral-sh)/[\w-]+@v\d+", action)


def test_every_version_of_python_is_tested_that_is_promised() -> None:
    low, high = re.findall(r"3\.(\d+)", PYPROJECT["project"]["requires-python"])
    promised = [f"3.{minor}" for minor in range(int(low), int(high))]  # <3.15
    matrix = workflow(HOST / "workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == promised
    assert {"ubuntu-latest", "macos-latest", "windows-latest"} == set(matrix["os"])
    named = [line for line in PYPROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert named == [f"Programming Language :: Python :: {version}" for version in promised]


def test_versions_and_licence_agree() -> None:
    project = PYPROJECT["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = next(name for name in re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE)
                  if name != "Unreleased")  # fmt: skip
    assert project["version"] == citation["version"] == newest
    assert project["license"] == citation["license"] == "Apache-2.0"
    licence = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in licence
    assert licence.rstrip().endswith("limitations under the License.")
    assert project["license-files"] == ["LICENSE"]
