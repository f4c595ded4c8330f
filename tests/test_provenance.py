"""The patch beside a run."""

import subprocess
from pathlib import Path

from project import provenance


def test_patch_brings_a_fresh_clone_to_the_code_that_ran(tmp_path, monkeypatch) -> None:
    def git(*arguments: str, cwd: Path) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        answer = subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True,
                                capture_output=True, text=True)  # fmt: skip
        return answer.stdout

    repository = tmp_path / "repository"
    package = repository / "project"
    package.mkdir(parents=True)
    git("init", "-q", cwd=repository)
    (repository / ".gitignore").write_text("secret\n")
    (package / "old.py").write_text("a = 1\n")
    git("add", "-A", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    git("clone", "-q", str(repository), str(tmp_path / "clone"), cwd=tmp_path)
    (package / "old.py").write_text("a = 2\n")
    (repository / "new.py").write_text("b = 3\n")
    (repository / "secret").write_text("password\n")
    before = git("status", "--porcelain", cwd=repository)

    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    provenance.write_patch(tmp_path)
    assert git("status", "--porcelain", cwd=repository) == before
    patch = tmp_path / "code.patch"
    assert "password" not in patch.read_text()
    git("apply", str(patch), cwd=tmp_path / "clone")
    assert (tmp_path / "clone" / "new.py").read_text() == "b = 3\n"
    assert (tmp_path / "clone" / "project" / "old.py").read_text() == "a = 2\n"
