"""What goes wrong with a run, and what the project answers: one line, an exit code, nothing lost.

    python tests/reliability/test_fault_cases.py     prints the table of the cases

Each test is a case; its docstring says what happens and, after the arrow, what must follow.
"""

import contextlib
import dataclasses
import errno
import hashlib
import http.server
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import only_run, record_of
from filelock import FileLock
from kill_matrix import ROWS, as_bytes, differences, prepare, strip
from lightning.pytorch import LightningModule, Trainer

from project import generate, provenance
from project.checkpoints import checkpoint_file, resume_point
from project.checkpoints.checkpoint_file import read, write
from project.checkpoints.interruption import StopRequest
from project.checkpoints.loading import imports_limited_to, instantiate, rebuild
from project.checkpoints.resume import open_run
from project.configuration import CONFIGS, ProjectCLI
from project.messages import UsageError
from project.tasks.image_classification import ImageClassification
from project.training.command import command as train
from project.training.run import is_as_wide

resource = pytest.importorskip("resource", reason="Windows has neither these limits nor fork")
MLP = next(row for row in ROWS if row.name == "MLP")
SHORT = ("--config", "config.yaml", "--trainer.max_epochs=2")  # 16 steps
STEP = ImageClassification.training_step


def at_step(number: int, action: Callable[[], Any]) -> Callable[..., Any]:
    """Return a training step that does something before step `number`, counted from 1."""

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.global_step + 1 == number:
            action()
        return STEP(self, batch, batch_idx)

    return step


def signalled(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The last bits depend on the number of threads, and a fork has none of OpenMP's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a run that was not stopped, and of one that SIGTERM stopped at step 11."""
    folders = {}
    before = Path.cwd()
    for name in ("whole", "stopped"):
        folders[name] = tmp_path_factory.mktemp("case") / name
        prepare(MLP, folders[name])
        os.chdir(folders[name])
        if name == "stopped":
            ImageClassification.training_step = at_step(11, signalled(signal.SIGTERM))
        try:
            assert train([*SHORT]) == (143 if name == "stopped" else 0)
        finally:
            ImageClassification.training_step = STEP
            os.chdir(before)
    return folders


class Case:
    """A folder of its own with a stopped run in it, and the command."""

    def __init__(self, folder: Path, whole: Path, capfd: Any, record: Any) -> None:
        self.folder, self.whole, self.capfd, self.record = folder, whole, capfd, record
        self.run = only_run(folder / "runs")
        self.last = self.run / "checkpoints" / "last.ckpt"
        self.previous = self.run / "checkpoints" / "previous.ckpt"

    def ask(self, *arguments: str, command: Callable[..., int] = train) -> tuple[int, str]:
        """Return the exit code and the last line of errors."""
        self.capfd.readouterr()
        code = command(list(arguments))
        printed = self.capfd.readouterr()
        lines = [line for line in printed.err.splitlines() if line.strip()]
        shown = [line for line in lines if line.startswith(("error", "warning", "\nSIG", "SIG"))]
        text = (shown or lines or printed.out.splitlines() or [""])[-1]
        self.record("code", code)
        self.record("answer", text.replace(str(self.folder) + "/", ""))
        assert "Traceback" not in printed.err
        return code, text if code else printed.err + printed.out

    def resume(self, *arguments: str) -> tuple[int, str]:
        return self.ask("--resume", f"runs/{self.run.name}", *arguments)

    def refused(self, *arguments: str, command: Callable[..., int] = train) -> str:
        """Ask for what cannot be; it must change nothing. Return the line."""
        before = self.fingerprint()
        code, text = self.ask(*arguments, command=command)
        assert code == 2, text
        assert text.startswith("error: ")
        assert self.fingerprint() == before
        return text

    def not_built(self, content: dict[str, Any]) -> str:
        """Ask for the objects in a checkpoint that names what it may not. Return the line."""
        with pytest.raises(UsageError) as refusal:
            rebuild(content, [])
        self.record("code", 2)
        self.record("answer", f"error: {refusal.value}")
        return str(refusal.value)

    def resume_refused(self, *arguments: str) -> str:
        return self.refused("--resume", f"runs/{self.run.name}", *arguments)

    def fingerprint(self) -> dict[str, str]:
        files = [p for p in self.folder.rglob("*") if p.is_file() and p.name != ".lock"]
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    def ends_as_if_never_stopped(self) -> None:
        assert self.resume()[0] == 0
        assert self.is_as_if_never_stopped()

    def is_as_if_never_stopped(self) -> bool:
        other = only_run(self.whole / "runs")
        name = Path("checkpoints", "last.ckpt")
        found = differences(strip(read(other / name)), strip(read(self.run / name)))
        same_rows = [(d / "metrics.csv").read_text() for d in (other, self.run)]
        return not found and same_rows[0] == same_rows[1]

    def state(self) -> dict[str, Any]:
        return record_of(self.run)


@pytest.fixture
def case(runs, tmp_path, monkeypatch, capfd, record_property) -> Case:
    folder = tmp_path / "case"
    shutil.copytree(runs["stopped"], folder)
    monkeypatch.chdir(folder)
    return Case(folder, runs["whole"], capfd, record_property)


def edit(path: Path, place: int, change: Callable[[int], int]) -> None:
    content = bytearray(path.read_bytes())
    content[place] = change(content[place])
    path.write_bytes(content)


# ---------------------------------------------------------------- going on with a run


def test_no_such_run(case) -> None:
    """--resume of a run that is not there -> its name, exit code 2"""
    assert "there is no such run directory" in case.refused("--resume", "runs/nothing")


def test_a_folder_that_is_no_run(case) -> None:
    """--resume of a folder that is no run -> what it lacks, exit code 2"""
    (case.folder / "runs" / "other").mkdir()
    assert "it has no config.yaml" in case.refused("--resume", "runs/other")


def test_a_checkpoint_in_place_of_a_run(case) -> None:
    """--resume of a checkpoint file -> give the run directory, exit code 2"""
    assert "give the run directory" in case.refused("--resume", str(case.last))


def test_killed_before_the_first_checkpoint(case) -> None:
    """killed before its first checkpoint -> begins again in its directory, the same run"""
    shutil.rmtree(case.run / "checkpoints")
    (case.run / "metrics.csv").unlink()
    case.ends_as_if_never_stopped()


def test_rows_but_no_checkpoint(case) -> None:
    """metrics are there and the checkpoints are gone -> refused, metrics kept, exit code 2"""
    shutil.rmtree(case.run / "checkpoints")
    assert "has no checkpoint to go on from" in case.resume_refused()


def test_the_newest_checkpoint_is_cut_short(case) -> None:
    """last.ckpt is cut short -> warning, goes on from previous.ckpt, the same run"""
    os.truncate(case.last, case.last.stat().st_size // 2)
    code, text = case.resume()
    assert code == 0
    assert "warning" in text
    assert "previous.ckpt, which is older" in text
    assert case.is_as_if_never_stopped()


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 0.9999, 1.0])
def test_a_bit_is_flipped(case, place) -> None:
    """one bit of last.ckpt is flipped, anywhere -> found; goes on from previous.ckpt"""
    size = case.last.stat().st_size
    edit(case.last, min(int(place * size), size - 1), lambda byte: byte ^ 0x10)
    code, text = case.resume()
    assert code == 0
    assert "is damaged" in text
    assert case.is_as_if_never_stopped()


def test_all_checkpoints_are_damaged(case) -> None:
    """both checkpoints are damaged -> refused, nothing changed, exit code 2"""
    for path in (case.last, case.previous):
        edit(path, 1000, lambda byte: byte ^ 1)
    assert "no whole checkpoint" in case.resume_refused()


def test_a_newer_file_with_a_name_alike(case) -> None:
    """a newer file lastfoo.ckpt lies beside -> it is not taken"""
    (case.run / "checkpoints" / "lastfoo.ckpt").write_bytes(b"something else")
    case.ends_as_if_never_stopped()


def test_a_finished_run(case, runs) -> None:
    """--resume of a finished run -> says so, changes nothing, exit code 0"""
    assert case.resume()[0] == 0
    before = case.fingerprint()
    code, text = case.resume()
    assert code == 0
    assert "is finished: nothing to do" in text
    assert case.fingerprint() == before


def test_stopped_again_after_a_damaged_checkpoint(case, monkeypatch) -> None:
    """killed in the first write after last.ckpt was damaged -> previous.ckpt is still there"""
    os.truncate(case.last, 1000)
    child = os.fork()
    if child == 0:
        try:
            checkpoint_file.fsync_directory = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            checkpoint_file.keep_as = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            train(["--resume", f"runs/{case.run.name}"])
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert read(case.previous, must_have_hash=True)
    case.ends_as_if_never_stopped()


def test_a_checkpoint_that_another_wrote(case) -> None:
    """last.ckpt is there, but no place to resume from -> previous.ckpt is taken, logs are kept"""
    content = read(case.last)
    del content["resume"]
    write(content, case.last)
    code, text = case.resume()
    assert code == 0
    assert "is not one to resume from" in text
    assert case.is_as_if_never_stopped()


def test_metrics_that_are_gone(case) -> None:
    """metrics.csv is shorter than at the checkpoint -> refused, nothing changed, exit code 2"""
    path = case.run / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert "metrics.csv of" in case.resume_refused()


def test_code_that_was_changed(case) -> None:
    """the code was changed since the run was begun -> a warning, and it goes on"""
    (case.run / "code.patch").write_text("another change")
    code, text = case.resume()
    assert code == 0
    assert "warning: the code is not what it was" in text


def test_a_finished_run_with_other_flags(case) -> None:
    """--resume of a finished run with another number -> refused, not ignored, exit code 2"""
    assert case.resume()[0] == 0
    text = case.resume_refused("--data.batch_size=8")
    assert "data.batch_size was 16 and is 8" in text


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--resume"], "--resume needs a value"),
        (["--resume="], "needs the directory of a run"),
        (["--resume", "RUN", "--trainer.fast_dev_run=true"], "fast_dev_run keeps nothing"),
        (["--resume", "RUN", "--model.network=CNN", "--force"], "is in its checkpoint"),
        (["--resume", "RUN", "--checkpoint_minutes=-1"], "must be 0 or more"),
    ],
)
def test_resume_with_what_cannot_be(case, arguments, answer) -> None:
    """--resume without a run, with a trial, another network, negative minutes -> one line"""
    arguments = [f"runs/{case.run.name}" if a == "RUN" else a for a in arguments]
    assert answer in case.refused(*arguments)


def test_force_without_a_run(case) -> None:
    """--force without --resume -> what it is for, exit code 2"""
    assert "add --resume RUN" in case.refused(*SHORT, "--force")


def test_a_run_with_a_fixed_schedule_made_longer(case) -> None:
    """a run whose OneCycleLR ends with it is made longer -> refused, nothing changed"""
    prepare(next(row for row in ROWS if row.name == "MLP, OneCycle"), case.folder / "cycle")
    os.chdir(case.folder / "cycle")
    assert train([*SHORT]) == 0
    text = case.refused("--resume", str(only_run("runs")), "--trainer.max_epochs=3")
    assert "ends at a step that was fixed" in text


def test_another_batch_size(case) -> None:
    """--data.batch_size is another than it was -> refused, exit code 2"""
    text = case.resume_refused("--data.batch_size=8")
    assert "data.batch_size was 16 and is 8" in text


def test_another_batch_size_by_force(case) -> None:
    """the same with --force -> goes on, with a warning"""
    code, text = case.resume("--data.batch_size=8", "--force")
    assert code == 0
    assert "warning: data.batch_size was 16 and is 8" in text
    assert case.state()["status"] == "finished"


def test_another_learning_rate(case) -> None:
    """another learning rate, which the checkpoint would undo -> refused, even with --force"""
    for force in ([], ["--force"]):
        text = case.resume_refused("--model.optimizer.lr=0.5", *force)
        assert "model.optimizer.lr was 0.003 and is 0.5" in text


def test_fewer_epochs(case) -> None:
    """fewer epochs than it was begun with -> refused, exit code 2"""
    text = case.resume_refused("--trainer.max_epochs=1")
    assert "trainer.max_epochs was 2 and is 1" in text


def test_another_number_of_processes(case) -> None:
    """more processes than it was begun with -> refused, exit code 2"""
    more = ("--trainer.devices=2", "--trainer.strategy=ddp_spawn")
    text = case.resume_refused(*more)
    assert "was auto and is ddp_spawn" in text
    stopped = open_run(case.run, [])

    class TwoProcesses:
        world_size = 2

    with pytest.raises(UsageError, match="the run had 1 processes and now has 2"):
        is_as_wide(TwoProcesses(), stopped)  # type: ignore[arg-type]
    forced = dataclasses.replace(stopped, is_forced=True)
    assert not is_as_wide(TwoProcesses(), forced)  # type: ignore[arg-type]


def test_other_data(case, monkeypatch) -> None:
    """the data files hold other data than before -> refused by their SHA-256, exit code 2"""
    load_before = ProjectCLI.instantiate_classes

    def with_another_pixel(self: Any) -> None:
        load_before(self)
        load_images = self.datamodule.dataset.load

        def load_changed(root: Path) -> Any:
            train, test = load_images(root)
            train.images[0, 0, 0, 0] += 1
            return train, test

        self.datamodule.dataset.load = load_changed

    monkeypatch.setattr(ProjectCLI, "instantiate_classes", with_another_pixel)
    text = case.resume_refused()
    assert "data have SHA-256" in text


def test_a_run_that_is_still_going_on(case) -> None:
    """--resume of a run that goes on in another process -> refused, exit code 2"""
    other = FileLock(case.run / ".lock")
    with other:
        text = case.resume_refused()
    assert "still going on in another process" in text


# ---------------------------------------------------------------- loading a stranger's file


class Danger:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["DANGER"],)


@pytest.fixture
def danger(tmp_path, monkeypatch) -> Path:
    """A folder that is there once the code of a checkpoint has run."""
    monkeypatch.setenv("DANGER", str(tmp_path / "danger"))
    return tmp_path / "danger"


def test_a_checkpoint_with_code(case, danger) -> None:
    """a checkpoint that holds code -> refused, the code is not run, exit code 2"""
    torch.save({"state_dict": {}, "more": Danger()}, case.folder / "bad.ckpt")
    assert "could run code" in case.refused("bad.ckpt", command=generate.main)
    assert not danger.exists()


def test_a_checkpoint_with_code_whatever_the_environment_says(case, danger, monkeypatch) -> None:
    """the same under TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 -> refused, the code is not run"""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"state_dict": {}, "more": Danger()}, case.folder / "bad.ckpt")
    assert "could run code" in case.refused("bad.ckpt", command=generate.main)
    torch.save({"state_dict": {}, "more": Danger()}, case.last)
    shutil.copy(case.last, case.previous)
    assert "no whole checkpoint" in case.resume_refused()
    io = checkpoint_file.DurableCheckpointIO()
    with pytest.raises(UsageError, match="could run code"):
        io.load_checkpoint(case.last, weights_only=False)
    assert not danger.exists()


@pytest.fixture
def address(case) -> Iterator[str]:
    """The address of a server that has the files of the case."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_checkpoint_with_code_from_an_address(case, danger, address) -> None:
    """a checkpoint that holds code, by its address -> refused, the code is not run"""
    torch.save({"state_dict": {}, "more": Danger()}, case.folder / "bad.ckpt")
    assert "could run code" in case.refused(f"{address}/bad.ckpt", command=generate.main)
    io = checkpoint_file.DurableCheckpointIO()  # by which Trainer(ckpt_path=address) reads
    with pytest.raises(UsageError, match="could run code"):
        io.load_checkpoint(f"{address}/bad.ckpt")
    assert not danger.exists()
    good = f"{address}/runs/{case.run.name}/checkpoints/last.ckpt"
    assert not differences(io.load_checkpoint(good), read(case.last))


def test_an_address_that_does_not_answer(case, address) -> None:
    """an address without a checkpoint -> what it answered, exit code 2"""
    assert "404" in case.refused(f"{address}/nothing.ckpt", command=generate.main)


@pytest.mark.parametrize(
    "content", [b"", b"<html>Not found</html>", bytes(5000), b"PK\3\4" + bytes(300)]
)
def test_a_file_that_is_no_checkpoint(case, content) -> None:
    """an empty file, a web page, zeros, half a zip -> damaged, exit code 2, no bad advice"""
    (case.folder / "page.ckpt").write_bytes(content)
    text = case.refused("page.ckpt", command=generate.main)
    assert "is damaged or not a checkpoint" in text
    assert "weights_only=False" not in text


@pytest.mark.parametrize("content", [{"weights": torch.ones(2)}, [1, 2], {"state_dict": 3}])
def test_a_checkpoint_of_something_else(case, content) -> None:
    """a file of torch that is no checkpoint -> it has no state_dict, exit code 2"""
    torch.save(content, case.folder / "other.ckpt")
    assert "it has no state_dict" in case.refused("other.ckpt", command=generate.main)


def test_weights_that_are_nan(case) -> None:
    """a checkpoint whose weights are NaN -> refused with the name of the weight, exit code 2"""
    content = read(case.last)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name][0] = torch.nan
    write(content, case.folder / "nan.ckpt")
    assert f"holds {name} with NaN" in case.refused("nan.ckpt", command=generate.main)


HANDLER = "torch.distributed.elastic.multiprocessing.subprocess_handler"  # starts programs


def names_class(content: dict[str, Any], key: str, path: str) -> None:
    """Put the name of another class into a checkpoint."""
    arguments = content["hyper_parameters"]
    if key == "task":
        arguments["_class_path"] = path
    else:
        arguments[key] = {"class_path": path, "init_args": {}}


@pytest.mark.parametrize("key", ["task", "network", "optimizer"])
def test_a_class_of_another_package(case, key, monkeypatch) -> None:
    """a checkpoint that names a class of another package -> refused, not even imported"""
    package = case.folder / "stranger.py"
    package.write_text("import pathlib\npathlib.Path('danger').mkdir()\nclass Net: pass\n")
    monkeypatch.syspath_prepend(case.folder)
    content = read(case.last)
    names_class(content, key, "stranger.Net")
    assert "add --allow stranger" in case.not_built(content)
    assert not (case.folder / "danger").exists()
    content["config"] = content["config"].replace("project.models.mlp.MLP", "stranger.Net")
    write(content, case.last)
    assert "add --allow stranger" in case.resume_refused()
    assert not (case.folder / "danger").exists()


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("optimizer", "torch.hub.load"),  # a function
        ("optimizer", "torch.nn.Linear"),  # a class of another type
        ("network", "torch.optim.SGD"),
        ("task", "project.models.mlp.MLP"),
        ("scheduler", "project.data.image_sets.Digits"),
        ("network", f"{HANDLER}.SubprocessHandler"),
        ("network", "project.checkpoints.checkpoint_file.Path"),  # not a class of ours
    ],
)
def test_something_that_its_place_does_not_take(case, key, path) -> None:
    """a checkpoint that names a function, or a class of another type -> refused"""
    content = read(case.last)
    names_class(content, key, path)
    assert path.rpartition(".")[2] in case.not_built(content)


def test_a_callable_by_name_in_an_argument(case, monkeypatch) -> None:
    """a name of another package as an argument that takes a callable -> not imported"""
    (case.folder / "stranger.py").write_text("import pathlib\npathlib.Path('danger').mkdir()\n")
    monkeypatch.syspath_prepend(case.folder)
    content = read(case.last)
    arguments = {"d_model": 8, "nhead": 2, "activation": "stranger.f"}
    content["hyper_parameters"]["network"] = {
        "class_path": "torch.nn.TransformerEncoderLayer",
        "init_args": arguments,
    }
    case.not_built(content)
    assert not (case.folder / "danger").exists()


def test_a_class_in_an_argument_without_a_type(case) -> None:
    """a class of torch that starts programs, in an argument without a type -> not built"""
    handler = {
        "class_path": f"{HANDLER}.SubprocessHandler",
        "init_args": {"entrypoint": "touch", "args": ["danger"], "env": {}, "stdout": None,
                      "stderr": None, "local_rank_id": 0, "numa_options": None},
    }  # fmt: skip
    content = read(case.last)
    arguments = {"in_features": 2, "out_features": 2, "device": handler}
    content["hyper_parameters"]["network"] = {
        "class_path": "torch.nn.Linear",
        "init_args": arguments,
    }
    case.not_built(content)
    handler["class_path"] = "logging.FileHandler"
    handler["init_args"] = {"filename": "danger"}
    with imports_limited_to(["logging"]), contextlib.suppress(Exception):  # not even if trusted
        instantiate(LightningModule, content["hyper_parameters"])
    time.sleep(0.5)
    assert not (case.folder / "danger").exists()


def test_the_same_checkpoint_is_built_when_it_is_trusted(case) -> None:
    """a checkpoint of ours -> its task and data are built, with equal weights"""
    content = read(case.last)
    task, data = rebuild(content, [])
    weights = task.state_dict()
    same = [
        torch.equal(as_bytes(w), as_bytes(weights[n])) for n, w in content["state_dict"].items()
    ]
    assert all(same)
    assert type(data).__name__ == "ImageData"
    case.record("code", 0)
    case.record("answer", f"{len(same)} weights equal")


# ---------------------------------------------------------------- writing


def test_a_full_disk(case, monkeypatch) -> None:
    """the disk is full while a checkpoint is written -> exit code 1, the one before is kept"""
    monkeypatch.setattr(provenance, "code_patch", lambda: None)  # it may be larger than that
    before = hashlib.sha256(case.last.read_bytes()).hexdigest()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        code, text = case.resume()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert code == 1
    assert "cannot be written: File too large; last.ckpt is as it was" in text
    assert hashlib.sha256(case.last.read_bytes()).hexdigest() == before
    assert not list(case.run.glob("checkpoints/.*"))
    assert case.state()["status"] == "failed"
    case.ends_as_if_never_stopped()


def test_no_permission(case, monkeypatch) -> None:
    """writing a checkpoint is not permitted -> exit code 1 (Lightning trains on in silence)"""

    open_before = Path.open

    def refuse(self: Path, *arguments: Any, **keywords: Any) -> Any:
        if self.name.startswith(".last.ckpt"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_before(self, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    code, text = case.resume()
    assert code == 1
    assert "Permission denied" in text
    assert not list(case.run.glob("checkpoints/.*"))


def test_runs_cannot_be_created(case) -> None:
    """--runs_dir cannot be written -> exit code 2, nothing begun"""
    (case.folder / "file").write_text("")
    assert "no run can be created" in case.refused(*SHORT, "--runs_dir", "file")


def test_tmpdir_is_elsewhere(case, monkeypatch) -> None:
    """$TMPDIR is on another disk -> checkpoints do not pass through it"""
    seen = []
    replace = Path.replace

    def watch(self: Path, target: Path) -> Path:
        seen.append(self.parent == Path(target).parent)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    (case.folder / "small").mkdir()
    monkeypatch.setenv("TMPDIR", str(case.folder / "small"))
    assert case.resume()[0] == 0
    assert seen
    assert all(seen)


def test_what_a_power_cut_leaves(case) -> None:
    """half a file is left by a power cut -> ignored, and removed when the run goes on"""
    half = case.run / "checkpoints" / ".last.ckpt.123.tmp"
    half.write_bytes(case.last.read_bytes()[:1000])
    assert case.resume()[0] == 0
    assert not half.exists()
    assert case.is_as_if_never_stopped()


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)]
)
def test_a_signal(case, monkeypatch, signum, code) -> None:
    """SIGTERM, SIGUSR1, Ctrl-C -> saved after the step, exit code 143 or 130, the same run"""
    monkeypatch.setattr(ImageClassification, "training_step", at_step(14, signalled(signum)))
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    assert case.resume()[0] == code
    assert handlers == [
        signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    ]
    state = case.state()
    assert (state["status"], state["exit_code"]) == ("interrupted", code)
    assert read(case.last)["global_step"] == 14  # that step was finished, and no other begun
    monkeypatch.setattr(ImageClassification, "training_step", STEP)
    case.ends_as_if_never_stopped()
    assert case.state()["status"] == "finished"


def test_a_second_ctrl_c(case) -> None:
    """Ctrl-C twice -> the process ends at once with 130, and run.json says interrupted"""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            stuck = at_step(13, lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60)))
            ImageClassification.training_step = stuck
            code = train(["--resume", f"runs/{case.run.name}"])
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    while "running" not in (case.run / "run.json").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)  # it sleeps in the step, with one Ctrl-C behind it
    started = time.monotonic()
    os.kill(child, signal.SIGINT)
    _, status = os.waitpid(child, 0)
    assert time.monotonic() - started < 2
    assert os.waitstatus_to_exitcode(status) == 130
    assert case.state()["status"] == "interrupted"
    case.record("code", 130)
    case.record("answer", "ended at once")
    case.ends_as_if_never_stopped()


def test_an_exit_by_the_users_code(case, monkeypatch) -> None:
    """sys.exit("text") in one's own code -> exit code 1, run.json says failed"""
    monkeypatch.setattr(ImageClassification, "training_step", at_step(13, lambda: sys.exit("no")))
    assert case.resume()[0] == 1
    assert case.state()["status"] == "failed"


def test_a_signal_while_measuring(case, monkeypatch) -> None:
    """SIGTERM while the best checkpoint is measured -> 143; resumed, it is measured and no more"""
    validation_step = ImageClassification.validation_step

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.trainer.state.fn == "validate":
            os.kill(os.getpid(), signal.SIGTERM)
        return validation_step(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassification, "validation_step", step)
    assert case.resume()[0] == 143
    monkeypatch.setattr(ImageClassification, "validation_step", validation_step)

    def no_step(*_: Any) -> None:
        raise AssertionError("a finished training goes on")

    monkeypatch.setattr(ImageClassification, "training_step", no_step)
    case.ends_as_if_never_stopped()


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(case, monkeypatch, value) -> None:
    """the loss is NaN or infinite -> stops at that step, exit code 1, the good checkpoint kept"""

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = STEP(self, batch, batch_idx)
        return loss * value if self.global_step == 12 else loss

    monkeypatch.setattr(ImageClassification, "training_step", step)
    code, text = case.resume()
    assert code == 1
    parts = ["the loss is nan" if value != value else "the loss is inf", "at step 13"]
    parts += ["learning rate", "gradient norm nan", "--trainer.gradient_clip_val 1"]
    for part in parts:
        assert part in text, text
    assert case.state()["status"] == "failed"
    assert f"checkpoints/last.ckpt is kept, of step {read(case.last)['global_step']}" in text
    assert read(case.last)["global_step"] == 12
    monkeypatch.setattr(ImageClassification, "training_step", STEP)
    case.ends_as_if_never_stopped()


# ---------------------------------------------------------------- data and configuration


def test_no_images(case) -> None:
    """a data set without images -> refused, no run created, exit code 2"""
    for name in ("a", "b"):
        (case.folder / "pictures" / name).mkdir(parents=True)
    flags = ("--data.dataset", "ImageFolder", "--data.dataset.path", "pictures")
    assert "no images in" in case.refused(*SHORT, *flags)


def test_no_text(case) -> None:
    """an empty text -> refused, no run created, exit code 2"""
    (case.folder / "empty.txt").write_text("")
    config = str(CONFIGS / "docs_transformer.yaml")
    flags = ("--data.corpus", "TextCorpus", "--data.corpus.path", "empty.txt")
    assert "is empty" in case.refused("--config", config, *flags, "--data.cache_dir", "cache")


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("model: [1, 2", "cannot be read"),
        ("model: !!python/object/apply:os.mkdir [danger]\n", "cannot be read"),
        ("", "holds no keys"),
        ("model: {class_path: ImageClassification, init_args: {network: 3}}", "model"),
    ],
)
def test_a_configuration_that_is_none(case, content, answer) -> None:
    """a config that is broken, tagged with code, or empty -> exit code 2, code not run"""
    (case.folder / "broken.yaml").write_text(content)
    assert answer in case.refused("--config", "broken.yaml")
    assert not (case.folder / "danger").exists()


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("--trainer.max_epoch=3", "did you mean --trainer.max_epochs"),
        ("--trainer.max_epochs=three", "expected int, got 'three'"),
        ("--model.network=torch.optim.SGD", "model.network"),
        ("--model.optimizer=os.system", "model.optimizer"),
    ],
)
def test_a_key_that_is_none(case, flag, answer) -> None:
    """a wrong key, a wrong type, a class of another kind -> the key, exit code 2"""
    assert answer in case.refused(*SHORT, flag)


def test_a_damaged_run_record(case) -> None:
    """run.json is damaged -> named, exit code 2"""
    (case.run / "run.json").write_text('{"status": ')
    assert "run.json" in case.resume_refused()


# ---------------------------------------------------------------- what all this stands on


def test_the_private_fields_of_lightning_are_there(monkeypatch) -> None:
    """a Lightning without a field that exact resume needs -> stops before the first step"""
    trainer = Trainer(logger=False, enable_checkpointing=False)
    resume_point.check_lightning(trainer)
    monkeypatch.setattr(resume_point, "PRIVATE", ("fit_loop._renamed",))
    with pytest.raises(RuntimeError, match=r"has no Trainer\.fit_loop\._renamed"):
        resume_point.check_lightning(trainer)


def test_a_request_is_heard_by_the_main_thread_alone() -> None:
    """a run in another thread, as in a notebook's -> trains, without listening to signals"""
    before = signal.getsignal(signal.SIGTERM)
    heard = []

    def listen() -> None:
        with StopRequest().listening(at_once=lambda: None):
            heard.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [True]


# ---------------------------------------------------------------- the table


class Table:
    """Collects (docstring, exit code, answer, outcome) of each case."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {}
        self.texts: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            self.texts[item.nodeid] = item.function.__doc__.splitlines()[0]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.failed:
            properties = dict(reversed(report.user_properties))  # the first answer
            row = self.rows.setdefault(self.texts[report.nodeid], [0, 0, properties])
            row[0] += report.passed
            row[1] += 1

    def lines(self) -> Iterator[str]:
        for number, (text, (passed, asked, properties)) in enumerate(self.rows.items(), 1):
            happens, _, follows = text.partition(" -> ")
            verdict = "ok" if passed == asked else "FAILED"
            times = f" ({asked} ways)" if asked > 1 else ""
            yield f"{number:>2} {verdict:<6} {happens}{times}"
            yield f"          -> {follows}"
            if "answer" in properties:
                yield f"          {properties['code']}: {properties['answer'][:160]}"


def main() -> int:
    table = Table()
    code = pytest.main([__file__, "-q", "--no-header", "-p", "no:warnings"], plugins=[table])
    print("\n".join(table.lines()))
    failed = sum(asked - passed for passed, asked, _ in table.rows.values())
    print(f"{len(table.rows)} cases, {failed} failed")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
