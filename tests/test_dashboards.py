"""What dashboards show of a run, read back from what they wrote; no account, no network."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import posix, wandb_records
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from project.dashboard import main
from project.tracking.pictures import confusion_picture, mistakes_picture
from project.training.command import command

REPOSITORY = Path(__file__).parents[1]
SHORT = ["--model.network.width=8", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"]
TEXT = [
    "--config", str(REPOSITORY / "configs" / "docs_transformer.yaml"),
    "--model.network.width=16", "--model.network.depth=1", "--trainer.max_steps=4",
    "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1", "--trainer.accelerator=cpu", "--model.sample_tokens=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """An image run and a text run, in TensorBoard and in W&B offline."""
    folder = tmp_path_factory.mktemp("dashboards") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder.parent))
        patch.setenv("MY_SECRET", "do-not-record-me")
        cache = f"--data.cache_dir={folder.parent / 'cache'}"
        for arguments in ([*SHORT, "--wandb.checkpoints=best"], [*TEXT, cache]):
            assert command([*arguments, "--wandb.mode=offline", "--runs_dir", str(folder)]) == 0
            time.sleep(1.1)  # W&B names its folders by the second
    return folder


def run_in(runs: Path, name: str) -> Path:
    (run,) = runs.glob(f"2*_{name}_*")
    return run


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0, "tensors": 0})
    return accumulator.Reload()


def test_tensorboard_shows_curves_rates_pictures_and_configuration(runs) -> None:
    run = run_in(runs, "default")
    shown = events(run)
    tags = shown.Tags()
    wanted = {"train/loss", "train/learning_rate", "val/accuracy", "val/loss", "test/accuracy"}
    assert wanted <= set(tags["scalars"])
    assert set(tags["images"]) == {"val/confusion", "val/mistakes", "test/confusion"}
    record = json.loads((run / "run.json").read_text())
    best = shown.Scalars("best/test_accuracy")[0].value
    assert best == pytest.approx(record["metrics"]["test"]["accuracy"]["value"])
    assert "configuration/text_summary" in tags["tensors"]
    text = shown.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    config = yaml.safe_load(text.strip("`\n"))
    assert config["model"]["init_args"]["network"]["init_args"]["width"] == 8


def test_tensorboard_shows_hyper_parameters_beside_results(runs) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = run_in(runs, "default")
    accumulator = events(run)
    plugin = accumulator.PluginTagToContent("hparams")
    content = {tag: HParamsPluginData.FromString(data) for tag, data in plugin.items()}
    start = content["_hparams_/session_start_info"].session_start_info.hparams
    assert start["model.network"].string_value == "CNN"
    assert start["model.network.width"].number_value == 8
    assert start["data.batch_size"].number_value == 64
    assert len(start) < 40
    metrics = content["_hparams_/experiment"].experiment.metric_infos
    assert "best/val_accuracy" in [info.name.tag for info in metrics]


def test_tensorboard_shows_written_text(runs) -> None:
    shown = events(run_in(runs, "docs_transformer"))
    samples = shown.Tensors("val/sample/text_summary")
    assert [sample.step for sample in samples] == [2, 4]
    assert "|" in samples[0].tensor_proto.string_val[0].decode()


def test_pictures_are_files_of_the_run_too_and_no_copy_of_the_configuration_is(runs) -> None:
    run = run_in(runs, "default")
    names = sorted(path.name for path in (run / "figures").iterdir())
    assert names == ["test_confusion.png", "val_confusion.png", "val_mistakes.png"]
    assert Image.open(run / "figures" / "val_confusion.png").size >= (400, 400)
    assert not (run / "hparams.yaml").exists()


def of_wandb(runs: Path, name: str) -> tuple[dict, list[dict], Path]:
    """Return the configuration, the logged rows and the folder of an offline run of W&B."""
    (path,) = runs.glob(f"wandb/offline-run-*_{name}_*/*.wandb")
    config: dict = {}
    rows = []
    for record in wandb_records(path):
        for holder in (record.run.config, record.config):
            for item in holder.update:
                key = item.key or item.nested_key[0]
                config[key] = json.loads(item.value_json)
        if record.HasField("history"):
            rows.append({
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            })  # fmt: skip
    return config, rows, path.parent


def test_wandb_offline_has_the_same_content(runs) -> None:
    config, rows, folder = of_wandb(runs, "default")
    assert config["model"]["init_args"]["network"]["init_args"]["width"] == 8
    assert config["run"]["command"].startswith("python -m project.train")
    logged = {name for row in rows for name in row}
    wanted = {"train/loss", "train/learning_rate", "val/accuracy", "test/accuracy"}
    assert wanted <= logged
    record = json.loads((run_in(runs, "default") / "run.json").read_text())
    tested = [row["test/accuracy"] for row in rows if "test/accuracy" in row]
    assert tested == [pytest.approx(record["metrics"]["test"]["accuracy"]["value"])]
    pictures = {path.name.split("_")[0] for path in folder.glob("files/media/images/*/*.png")}
    assert pictures == {"confusion", "mistakes"}
    _, rows, folder = of_wandb(runs, "docs_transformer")
    assert len(list(folder.glob("files/media/html/val/*.html"))) == 2


def test_wandb_keeps_checkpoints_by_choice(runs) -> None:
    (path,) = runs.glob("wandb/offline-run-*_default_*/*.wandb")
    artifacts = [
        record.request.log_artifact.artifact if record.HasField("request") else record.artifact
        for record in wandb_records(path)
        if record.HasField("artifact")
        or (record.HasField("request") and record.request.HasField("log_artifact"))
    ]
    (artifact,) = [a for a in artifacts if a.type == "model"]
    assert "best" in artifact.aliases


def test_no_secret_home_folder_or_variable_is_recorded(runs) -> None:
    """The runs of the fixture lie in what was the home folder then, whose name is looked for."""
    home = str(runs.parent).encode()
    for path in (p for p in runs.rglob("*") if p.is_file()):
        is_checkpoint = {"checkpoints", "staging"} & set(path.parts)
        if is_checkpoint or path.name in ("config.yaml", "code.patch"):
            continue  # where data lie must be known there, to repeat and resume the run
        if path.suffix == ".wandb" and "default" in path.name:
            continue  # a checkpoint that is to be sent is named by where it lies
        content = path.read_bytes()
        assert b"do-not-record-me" not in content, path
        assert path.suffix == ".log" or home not in content, path


def test_without_a_login_or_a_server_a_run_goes_on_offline(tmp_path, monkeypatch, capfd) -> None:
    online = [*SHORT, "--trainer.max_epochs=1", "--wandb.mode=online", "--runs_dir"]
    assert command([*online, str(tmp_path / "no_login")]) == 0
    assert "not logged in (`wandb login`), so this run is kept offline" in capfd.readouterr().err
    assert list((tmp_path / "no_login" / "wandb").glob("offline-run-*/*.wandb"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    started = time.perf_counter()
    assert command([*online, str(tmp_path / "no_server")]) == 0
    assert time.perf_counter() - started < 30
    assert "127.0.0.1 cannot be reached" in capfd.readouterr().err
    (path,) = (tmp_path / "no_server").glob("*/run.json")
    assert json.loads(path.read_text())["status"] == "finished"


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """A server of W&B that knows no key."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b'{"errors": [{"message": "unauthorized"}]}')

        do_GET = do_POST  # noqa: N815

        def log_message(self, *arguments) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
def test_a_server_that_refuses_the_key_does_not_end_the_run(tmp_path, refusing_server) -> None:
    """In a process of its own: W&B reads its variables once."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": refusing_server,
    }
    train = [sys.executable, "-m", "project.train", *SHORT, "--wandb.mode=online"]
    result = subprocess.run(
        train, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "so this run is kept offline" in result.stderr
    assert "not logged in" not in result.stderr
    assert list((tmp_path / "runs" / "wandb").glob("offline-run-*/*.wandb"))


def test_disabled_wandb_leaves_nothing(tmp_path) -> None:
    arguments = [*SHORT, "--trainer.max_epochs=1", "--wandb.mode=disabled", "--runs_dir"]
    assert command([*arguments, str(tmp_path / "runs")]) == 0
    assert not (tmp_path / "runs" / "wandb").exists()


def test_a_wrong_mode_is_one_line(tmp_path, capsys) -> None:
    assert command(["--wandb.mode=sometimes", "--runs_dir", str(tmp_path / "runs")]) == 2
    assert "not one of online, offline, disabled" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_agent_of_wandb_keeps_its_own_run_id(monkeypatch, tmp_path) -> None:
    from lightning.pytorch.loggers import WandbLogger

    from project.tracking import weights_and_biases

    monkeypatch.setattr(weights_and_biases, "begun", lambda logger: "")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    for wanted in (None, "run"):
        logger = WandbLogger(mode="disabled", save_dir=tmp_path)
        assert weights_and_biases.start(logger, tmp_path / "run")
        assert logger._wandb_init["id"] == wanted
        monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)


def test_mlflow_is_a_config_and_says_what_is_missing(tmp_path, capsys) -> None:
    config = str(REPOSITORY / "configs" / "logger" / "mlflow.yaml")
    default = str(REPOSITORY / "configs" / "default.yaml")
    arguments = ["--config", default, "--config", config, "--runs_dir", str(tmp_path / "runs")]
    code = command([*arguments, *SHORT])
    if code == 0:  # where it is installed
        return
    assert code == 2
    assert "mlflow" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("2*"))


def test_a_confusion_matrix_is_drawn_for_few_and_for_many_classes() -> None:
    for num_classes, names in ((2, ["cat", "a long name"]), (47, list(map(str, range(47))))):
        confusion = torch.eye(num_classes, dtype=torch.int64) * 5
        picture = confusion_picture(confusion, names, "val split")
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert len(np.unique(picture)) > 10


def test_mistakes_are_drawn_the_most_confident_first_and_none_is_no_picture() -> None:
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    labels = torch.zeros(40, dtype=torch.int64)
    confidence = torch.linspace(0, 1, 40)
    names = ["a", "b"]
    picture = mistakes_picture(images, labels, labels + 1, confidence, names, "val split")
    assert picture.ndim == 3
    assert mistakes_picture(images, labels, labels, confidence, names, "val split") is None


@posix
def test_the_dashboard_command_serves_the_runs(runs) -> None:
    command_line = [sys.executable, "-m", "project.dashboard", str(runs), "--port=0"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [*command_line, "--no_browser"], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stdout.readline()
        address = line.split()[0]
        assert f"shows {runs}" in line
        wanted = {run_in(runs, name).name for name in ("default", "docs_transformer")}
        names: set[str] = set()
        deadline = time.monotonic() + 30
        while names != wanted and time.monotonic() < deadline:
            time.sleep(0.5)
            with urllib.request.urlopen(f"{address}data/runs", timeout=10) as answer:
                names = set(json.loads(answer.read()))
        assert names == wanted
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_dashboard_of_no_folder_or_a_taken_port_is_one_line(tmp_path, capsys) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    server = http.server.ThreadingHTTPServer(("localhost", 0), http.server.SimpleHTTPRequestHandler)
    assert main([str(tmp_path), "--port", str(server.server_port), "--no_browser"]) == 1
    assert "take another --port" in capsys.readouterr().err
    server.server_close()


def test_a_picture_that_cannot_be_drawn_does_not_end_a_run(tmp_path, monkeypatch, capsys) -> None:
    def broken(*arguments, **options) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("project.tracking.dashboards.confusion_picture", broken)
    assert command([*SHORT, "--runs_dir", str(tmp_path / "runs")]) == 0
    assert "the pictures of the val split cannot be shown: no font" in capsys.readouterr().err
    (path,) = (tmp_path / "runs").glob("*/run.json")
    assert json.loads(path.read_text())["status"] == "finished"


def test_the_home_folder_alone_is_hidden_and_the_command_can_be_typed_again(monkeypatch) -> None:
    from project.provenance import typed_command, without_home

    monkeypatch.setenv("HOME", "/home/ada")
    assert without_home({"a": ["/home/ada/data", "/home/adam", "/x/home/ada"]}) == {
        "a": ["~/data", "/home/adam", "/x/home/ada"]
    }
    typed = typed_command(
        "train", ["--data.root", "/home/ada/my data", "--config=/home/ada/x.yaml"]
    )
    assert typed.endswith("""--data.root "$HOME"'/my data' --config="$HOME"/x.yaml""")
