"""The package under another name: nothing is left of the old one, all works, runs go on."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import copy_repository

from project import provenance, rename
from project.checkpoints import former_names
from project.checkpoints.checkpoint_file import read, write
from project.checkpoints.loading import rebuild
from project.checkpoints.resume import open_run
from project.comparison.runs import read_run
from project.configuration import PACKAGE, ProjectCLI
from project.messages import UsageError
from project.training.command import command

OLD = PACKAGE.name
NEW = "my_research" if OLD != "my_research" else "other_research"


def git(folder: Path, *arguments: str) -> str:
    words = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> None:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=x")


def python(folder: Path, *arguments: str) -> str:
    """Run Python on a tree alone: a module of the old name answers with an error."""
    block = folder.parent / "block"
    block.mkdir(exist_ok=True)
    (block / f"{OLD}.py").write_text("raise ImportError('the old name')\n")
    places = [str(folder), *([] if (folder / OLD).is_dir() else [str(block)])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=variables,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if ".git" not in path.parts and path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def mentions_of(name: str, folder: Path, package: str) -> list[str]:
    """Return where a tree still names a package, but for the list of former names."""
    parts = {path.stem for path in (folder / package).iterdir()}
    part = rf"(?:{'|'.join(sorted(parts))})\b"
    pattern = re.compile(
        rf"(?<![\w.-]){name}(?:\.(?:{part}|{{)|/(?:{part}|<))|(?:from|import) {name}\b"
        rf"|(?<!\w)\[\"{name}|-m {name}"
    )
    found = []
    for path in git(folder, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (folder / path).is_file():
            lines = (folder / path).read_text(errors="replace").splitlines()
            found += [f"{path}: {line}" for line in lines
                      if pattern.search(line) and not line.startswith("FORMER_NAMES")]  # fmt: skip
    return found


@pytest.fixture(scope="module")
def renamed(tmp_path_factory) -> Path:
    """A copy of this repository, renamed by the command."""
    folder = tmp_path_factory.mktemp("renamed") / "repository"
    try:
        copy_repository(folder)
    except UsageError:
        pytest.skip("there is no git repository to copy")
    commit(folder)
    said = python(folder, "-m", f"{OLD}.rename", NEW)
    assert f"{OLD} -> {NEW}" in said
    assert "make test" in said
    return folder


def test_nothing_is_left_of_the_old_name(renamed) -> None:
    assert not (renamed / OLD).exists()
    assert mentions_of(OLD, renamed, NEW) == []
    assert f'name = "{NEW}"' in (renamed / "pyproject.toml").read_text()
    for path in renamed.glob("notebooks/*.ipynb"):
        json.loads(path.read_text())


def test_style_is_as_it_was(renamed) -> None:
    python(renamed, "-m", "ruff", "check", ".")
    python(renamed, "-m", "ruff", "format", "--check", ".")


def test_code_is_the_same_recipe(renamed, monkeypatch) -> None:
    before = provenance.code_hash(f"class_path: {OLD}.models.cnn.CNN")
    monkeypatch.setattr(provenance, "__file__", str(renamed / NEW / "provenance.py"))
    assert provenance.code_hash(f"class_path: {NEW}.models.cnn.CNN") == before
    assert provenance.code_hash(f"class_path: {NEW}.models.mlp.MLP") != before


def test_it_trains_and_its_tests_pass(renamed) -> None:
    script = (  # in one process: an import of torch takes longer than the rest
        f"import sys, pytest, {NEW}.train as train\n"
        "code = train.main(['--trainer.fast_dev_run=true', '--model.network=MLP',\n"
        "    '--trainer.accelerator=cpu', '--trainer.precision=32-true'])\n"
        "told = 'test_a_mistake_in_a_file_of_ones_own_is_told_with_its_place'\n"
        "tests = ['tests/test_structure.py', 'tests/training/test_run_directory.py',\n"
        "    f'tests/test_configuration.py::{told}']\n"
        "sys.exit(code or pytest.main(['-q', '-p', 'no:cacheprovider', *tests]))"
    )
    said = python(renamed, "-c", script)
    assert "test/accuracy" in said
    assert "[100%]" in said


def test_it_can_be_renamed_again(renamed, tmp_path) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(renamed, folder)
    commit(folder)
    python(folder, "-m", f"{NEW}.rename", "third")
    assert mentions_of(OLD, folder, "third") == mentions_of(NEW, folder, "third") == []
    text = (folder / "third" / "checkpoints" / "former_names.py").read_text()
    former = [*former_names.FORMER_NAMES.split(), OLD, NEW]
    assert f'FORMER_NAMES = "{" ".join(former)}"' in text


@pytest.mark.slow
def test_all_its_tests_pass(renamed) -> None:
    python(renamed, "-m", "pytest", "-q", "-m", "not slow")


# ---------------------------------------------------------------- what is a mention


@pytest.mark.parametrize(
    "text",
    [
        "from @.models.cnn import CNN",
        "from @ import export",
        "import @.train as train",
        r'"import sys, @.compare as c; c.main()"',
        r'    "from @.data.images import ImageData\n",',
        "python -m @.train --config x.yaml",
        'f"@.{name}"',
        'module.startswith("@.")',
        "class_path: @.models.cnn.CNN",
        "`@.train`, as @/train.py says",
        "| the network | `@/models/<name>.py` |",
        "a file in `@/`",
        "/home/me/code/@/models",
        'ROOT / "@" / folder',
        r'"path = copy / \"@\" / \"models\"\n"',
        'for folder in ("@", "tests"):',
        r're.search(r"@/\S+\.py", text)',
        r're.search(r"@\.\w+\.train", text)',
        r"`((?:@|tests|docs)/[\w/.]+)`",
        "Path(@.__file__).parents[1]",
        "the package `@`",
    ],
)
@pytest.mark.parametrize("has_values", [False, True])
def test_the_package_is_found(text, has_values) -> None:
    found = rename.mentions(has_values).sub("!", text.replace("@", OLD))
    assert OLD not in found


@pytest.mark.parametrize(
    "text",
    [
        'name = "@"',
        'include = ["@*"]',
        'packages = ["other", "@"]',
        "  experiment_name: @",
        "#SBATCH --job-name=@",
    ],
)
def test_values_of_settings_are_found(text) -> None:
    text = text.replace("@", OLD)
    assert OLD not in rename.mentions(has_values=True).sub("!", text)
    assert rename.mentions().sub("!", text) == text


@pytest.mark.parametrize(
    "text",
    [
        "what this @ does; the @. Data of a @/team, and its @: good",
        "WandbLogger(@=settings.@, entity=e)",
        "--wandb.@ NAME, settings.@.data, cfg.@.train",
        "wandb.ai/entity/@/runs",
        "[@]\n[@.optional-dependencies]\n[@.scripts]",
        "py@.train @_classes() @s.train my-@/data re@.data",
        '{"@": 1, "wandb.@": 2}',
        'PYPROJECT["@"]["version"] a|@|b',
        "@ = 'x'\n@: x",
    ],
)
@pytest.mark.parametrize("has_values", [False, True])
def test_other_things_are_left_alone(text, has_values) -> None:
    text = text.replace("@", OLD)
    assert rename.mentions(has_values).sub("!", text) == text


# ---------------------------------------------------------------- a small repository


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A repository with a package of two files, of which nothing is executed."""
    folder = tmp_path / "repository"
    package = folder / "old"
    (package / "models").mkdir(parents=True)
    (package / "models" / "net.py").write_bytes(b"import old.models\r\nx = 'old'\r\n")
    (package / "train.py").write_text("from old.models.net import x\n")
    (folder / "run.sh").write_text("python -m old.train\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "picture").write_bytes(b"\xff\xfeold.train")
    (folder / ".gitignore").write_text("/ignored/\nsecret.py\n")
    (folder / "secret.py").write_text("import old.train\n")
    (folder / "taken").mkdir()
    (folder / "taken" / "file").write_text("")
    (folder / "link.py").symlink_to("old/train.py")
    commit(folder)
    monkeypatch.setattr(rename, "PACKAGE", package)
    monkeypatch.setattr(rename, "REPOSITORY", folder)
    monkeypatch.setattr(rename, "tidy", lambda paths: None)
    return folder


def test_files_of_git_are_changed_and_nothing_else(small) -> None:
    assert rename.main(["new"]) == 0
    assert (small / "new" / "models" / "net.py").read_bytes() == (
        b"import new.models\r\nx = 'old'\r\n"
    )
    assert (small / "run.sh").read_text() == "python -m new.train\n"
    assert os.access(small / "run.sh", os.X_OK)
    assert (small / "picture").read_bytes() == b"\xff\xfeold.train"
    assert (small / "secret.py").read_text() == "import old.train\n"
    assert (small / "link.py").is_symlink()


def test_dry_run_shows_each_line_and_changes_nothing(small, capsys) -> None:
    (small / "note.md").write_text("`old/models`\n")  # not committed: nothing is lost
    before = contents(small)
    assert rename.main(["new", "--dry_run"]) == 0
    assert contents(small) == before
    shown = capsys.readouterr().out
    assert "run.sh:1: python -m new.train" in shown
    assert "note.md:1: `new/models`" in shown
    assert "old -> new: 4 lines in 4 files" in shown


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my-research", "no name that Python can import"),
        ("1st", "no name that Python can import"),
        ("class", "no name that Python can import"),
        ("naïve", "no name that Python can import"),
        ("a/b", "no name that Python can import"),
        ("", "no name that Python can import"),
        ("old", "called 'old' already"),
        ("taken", "is there already"),
        ("json", "is a module of Python"),
        ("torch", "or an installed package"),
        ("ignored", "git ignores a folder"),
    ],
)
def test_a_name_that_cannot_be(small, name, reason, capsys) -> None:
    before = contents(small)
    assert rename.main([name]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert contents(small) == before


def test_changes_that_are_not_committed_stop_it_unless_forced(small, capsys) -> None:
    (small / "run.sh").write_text("python -m old.train --fast\n")
    before = contents(small)
    assert rename.main(["new"]) == 2
    assert "not committed" in capsys.readouterr().err
    assert contents(small) == before
    assert rename.main(["new", "--force"]) == 0
    assert (small / "run.sh").read_text() == "python -m new.train --fast\n"
    assert "git reset" not in capsys.readouterr().out  # it would lose the change


def test_without_git_it_says_how_to_begin(small, monkeypatch, capsys) -> None:
    shutil.rmtree(small / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(small.parent))
    before = contents(small)
    assert rename.main(["new"]) == 2
    assert "git init" in capsys.readouterr().err
    assert contents(small) == before


@pytest.mark.parametrize("failing", ["net.py", "run.sh", "train.py"])
def test_a_file_that_cannot_be_written_leaves_all_as_it_was(
    small, failing, monkeypatch, capsys
) -> None:
    before, write_bytes = contents(small), Path.write_bytes
    failures = [OSError(28, "No space left on device")]

    def full(path: Path, data: bytes) -> int:
        if path.name == failing and failures:
            write_bytes(path, data[:5])
            raise failures.pop()
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert rename.main(["new"]) == 1
    assert f"{failing}' cannot be written: No space left" in capsys.readouterr().err
    assert contents(small) == before


# ---------------------------------------------------------------- runs from before


@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        ("", "new", "old"),
        ("older", "new", "older old"),
        ("new older", "new", "older old"),  # it has its name back
    ],
)
def test_former_names_are_kept(before, name, after, monkeypatch) -> None:
    monkeypatch.setattr(rename, "PACKAGE", Path("old"))
    for text in ('FORMER_NAMES = "{}"  # a comment\n', 'FORMER_NAMES = (\n    "{}"\n)\n'):
        assert rename.with_former_name(text.format(before), name) == text.format(after)


@pytest.fixture(scope="module")
def former_run(tmp_path_factory) -> Path:
    """A run as it was under the name `former`; what is in a package of that name now is foreign."""
    folder = tmp_path_factory.mktemp("before")
    small = ["--model.network=MLP", "--model.network.width=8", "--trainer.precision=32-true",
             "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]  # fmt: skip
    assert command([*small, f"--runs_dir={folder / 'runs'}"]) == 0
    (run,) = (folder / "runs").iterdir()
    for path in (run / "checkpoints").glob("*.ckpt"):
        content = read(path)
        for part in ("hyper_parameters", "datamodule_hyper_parameters"):
            content[part] = json.loads(json.dumps(content[part]).replace(f'"{OLD}.', '"former.'))
        if "config" in content:
            content["config"] = content["config"].replace(f" {OLD}.", " former.")
        write(content, path)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(f" {OLD}.", " former."))
    assert "class_path: former." in config.read_text()
    foreign = folder / "foreign" / "former"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("raise AssertionError('a foreign package is imported')\n")
    return run


@pytest.fixture
def after_a_rename(former_run, monkeypatch) -> Path:
    monkeypatch.setattr(former_names, "FORMER_NAMES", "older former")
    monkeypatch.syspath_prepend(former_run.parents[1] / "foreign")
    return former_run


def test_a_former_run_is_rebuilt(after_a_rename) -> None:
    content = read(after_a_rename / "checkpoints" / "best.ckpt")
    task, data = rebuild(content, [])
    for thing in (task, task.network, data):
        assert type(thing).__module__.startswith(f"{OLD}.")
    assert "former." not in json.dumps([dict(task.hparams), dict(data.hparams)], default=str)


def test_a_former_run_is_resumed(after_a_rename, tmp_path, capsys) -> None:
    run = tmp_path / "copy"
    shutil.copytree(after_a_rename, run)
    assert command(["--resume", str(run), "--trainer.max_epochs", "2"]) == 0
    assert "going on from step 20" in capsys.readouterr().out
    assert "former." not in (run / "config.yaml").read_text()


def test_a_former_configuration_is_repeated_and_compared(after_a_rename) -> None:
    cli = ProjectCLI(["--config", str(after_a_rename / "config.yaml")])
    assert "former." not in cli.parser.dump(cli.config)
    found = read_run(after_a_rename)
    assert found is not None
    assert "former." not in json.dumps(found.recipe)


def test_a_name_that_it_never_had_is_foreign(former_run) -> None:
    with pytest.raises(UsageError, match="--allow former"):
        rebuild(read(former_run / "checkpoints" / "best.ckpt"), [])
    with pytest.raises(UsageError, match="--allow former"):
        open_run(former_run, [])


def test_only_class_paths_are_read_anew(monkeypatch) -> None:
    monkeypatch.setattr(former_names, "FORMER_NAMES", "older former")
    tree = yaml.safe_load("""
        class_path: former.models.cnn.CNN
        init_args: {root: former.data, names: [former.x, {_class_path: former.a.B}]}
        other: {class_path: formerly.models.cnn.CNN, name: {class_path: former}}
    """)
    assert former_names.with_current_paths(tree) == yaml.safe_load(f"""
        class_path: {OLD}.models.cnn.CNN
        init_args: {{root: former.data, names: [former.x, {{_class_path: {OLD}.a.B}}]}}
        other: {{class_path: formerly.models.cnn.CNN, name: {{class_path: former}}}}
    """)
