"""What other systems have not, or do otherwise, as far as it can be seen on this one."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.study import StudyDirection

from project import whole_files
from project.command_line import exit_code_of
from project.configuration import PACKAGE, read_yaml
from project.messages import UsageError
from project.provenance import without_home, written
from project.sweeping import study

# As on Windows: these modules and functions are not there.
WITHOUT = """
import importlib, multiprocessing, os, pkgutil, signal, sys
import torch, lightning.pytorch, project.models  # whose own business it is
for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None
names = ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "pthread_sigmask", "pause", "setitimer")
for module, gone in ((signal, names), (os, ("fork", "killpg", "sched_getaffinity", "getloadavg",
                                            "geteuid", "getuid", "setsid", "uname"))):
    for name in gone:
        if hasattr(module, name):
            delattr(module, name)
import project
for found in pkgutil.walk_packages(project.__path__, "project."):
    if not found.name.startswith("project.benchmarks.processes"):
        importlib.import_module(found.name)
"""


@pytest.mark.slow
def test_every_module_can_be_imported_without_what_windows_lacks() -> None:
    variables = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=variables, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_a_command_prints_what_a_pipe_has_no_character_for(monkeypatch) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="ascii"))
    assert exit_code_of(lambda: print("98.7 ± 0.2 %")) == 0
    sys.stdout.flush()
    assert pipe.getvalue().decode().strip() == r"98.7 \xb1 0.2 %"


def test_a_configuration_is_not_read_as_other_letters(tmp_path, monkeypatch) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("experiment: größe\n", encoding="utf-8")
    assert read_yaml(path) == {"experiment": "größe"}
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale: "cp1252")
    with pytest.raises(UsageError, match=r"own.yaml.* as cp1252 here; set .*PYTHONUTF8 to 1"):
        read_yaml(path)
    path.write_text("experiment: size\n", encoding="utf-8")
    assert read_yaml(path) == {"experiment": "size"}


@pytest.mark.parametrize("refusals", [3, 10_000])
def test_on_windows_a_file_that_is_open_elsewhere_is_waited_for(
    refusals, tmp_path, monkeypatch
) -> None:
    left = iter([PermissionError(13, "open elsewhere")] * refusals)
    replace = Path.replace

    def refused(made: Path, path: Path) -> Path:
        if error := next(left, None):
            raise error
        return replace(made, path)

    monkeypatch.setattr(Path, "replace", refused)
    monkeypatch.setattr(whole_files, "os", SimpleNamespace(name="nt", fsync=os.fsync))
    monkeypatch.setattr(whole_files, "SECONDS_TO_WAIT", 0.5)
    if refusals == 3:
        whole_files.replace_text(tmp_path / "run.json", "new")
        assert (tmp_path / "run.json").read_text() == "new"
    else:
        with pytest.raises(PermissionError):
            whole_files.replace_text(tmp_path / "run.json", "new")


def test_elsewhere_a_refusal_is_said_at_once(tmp_path, monkeypatch) -> None:
    refusals = []

    def refused(made: Path, path: Path) -> None:
        refusals.append(path)
        raise PermissionError

    monkeypatch.setattr(Path, "replace", refused)
    monkeypatch.setattr(whole_files, "os", SimpleNamespace(name="posix", fsync=os.fsync))
    with pytest.raises(PermissionError):
        whole_files.replace_text(tmp_path / "run.json", "new")
    assert len(refusals) == 1


def test_code_is_written_alike_by_every_version_of_python() -> None:
    tree = ast.parse("def f(x: int, n=1):\n    return f'{x:<{n}} m'\n")
    assert written(tree) == (
        "Module(body=[FunctionDef(name='f', args=arguments(args=[arg(arg='x', annotation="
        "Name(id='int', ctx=Load())), arg(arg='n')], defaults=[Constant(value=1)]), body=["
        "Return(value=JoinedStr(values=[FormattedValue(value=Name(id='x', ctx=Load()), "
        "conversion=-1, format_spec=JoinedStr(values=[Constant(value='<'), FormattedValue("
        "value=Name(id='n', ctx=Load()), conversion=-1)])), Constant(value=' m')]))])])"
    )


def test_a_home_folder_of_windows_is_hidden(monkeypatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: r"C:\Users\ada")
    typed = [r"C:\Users\ada\data", r"C:\Users\adam\data"]
    assert without_home({"a": typed}) == {"a": [r"~\data", r"C:\Users\adam\data"]}


def test_a_search_needs_no_right_to_make_links(tmp_path, monkeypatch) -> None:
    def refused(*names: str, **options: object) -> None:
        raise OSError(1314, "a required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refused)
    sweep = SimpleNamespace(asked=SimpleNamespace(storage="journal"))
    storage = study.storage_of(sweep, tmp_path)
    storage.create_new_study([StudyDirection.MAXIMIZE], "x")
    assert len(storage.get_all_studies()) == 1


def test_no_file_has_a_name_that_windows_refuses() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=PACKAGE.parent, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository: its files cannot be listed")
    names = listed.stdout.splitlines()
    assert len(names) > 100
    assert len({name.lower() for name in names}) == len(names)  # nor one that macOS mixes up
    for name in names:
        assert not set(name) & set('<>:"\\|?* ')
        assert len(name) < 120
        assert Path(name).stem.lower() not in ("con", "prn", "aux", "nul")
