"""Weights & Biases without surprises: it never asks, never waits for long, and never ends a run.

Without a login, or where its server cannot be reached, the run is kept offline and says so. All
offline runs lie in `<runs_dir>/wandb`, where `wandb leet` shows them together.
"""

import netrc
import os
import socket
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger

from project.distributed.processes import process_rank
from project.messages import UsageError

REACH_SECONDS = 5.0
SETTINGS: dict[str, Any] = {
    # Nothing of the machine but its hardware: no user, host, folder, e-mail or remote.
    "x_disable_meta": True,
    "disable_git": True,
    "disable_code": True,
    "console": "off",
    "silent": True,
    "init_timeout": 30.0,
    "finish_timeout": 120.0,  # for what is still to be sent; the rest stays on disk
}


def wandb_logger(settings: Any, directory: Path) -> WandbLogger | None:
    """Return the logger that `--wandb.mode` asks for, not started yet; None for none."""
    if settings.mode in (None, "disabled"):
        return None
    return WandbLogger(
        project=settings.project,
        save_dir=directory.parent,
        log_model={"none": False, "best": True, "all": "all"}[settings.checkpoints],  # type: ignore[arg-type]
        mode=settings.mode,
        entity=settings.entity,
        tags=settings.tags,
    )


def start(logger: WandbLogger, directory: Path) -> bool:
    """Start a run of W&B, offline if need be; return False where not even that is possible.

    It has the name of the directory, so that a resumed run is the same one there.
    """
    import wandb

    given = logger._wandb_init
    if logger.version is None and "WANDB_SWEEP_ID" not in os.environ:  # an agent has its own id
        given["id"] = logger._id = directory.name
    given["name"] = given["name"] or directory.name
    given.pop("anonymous", None)  # does nothing but warn
    asked = given.get("mode") or ("offline" if logger._offline else os.environ.get("WANDB_MODE"))
    given["mode"], reason = possible_mode(asked or "online")
    logger._offline = False  # which would set a variable, too late
    given["settings"] = wandb.Settings(**SETTINGS | as_dict(given.get("settings")))
    if process_rank() != 0:
        return True
    folder = Path(given["dir"])
    folder.mkdir(parents=True, exist_ok=True)
    given["dir"] = str(folder.resolve())  # W&B's service may have been started elsewhere
    if logger._log_model:  # what is to be sent is kept with the runs, and not in the home folder
        os.environ.setdefault("WANDB_DATA_DIR", str(Path(given["dir"], "wandb")))
    if not reason:
        reason = begun(logger)
    if reason and given["mode"] == "online":
        say(f"W&B: {reason}, so this run is kept offline")
        given["mode"] = "offline"
        wandb.teardown()  # its service still has the run that it could not begin
        reason = begun(logger)
    if reason:
        say(f"W&B: {reason}, so this run is not in W&B; its own files have everything")
        return False
    if given["mode"] == "offline":
        folder /= "wandb"
        say(f"W&B: offline in {folder}; `wandb leet {folder}` shows it, `wandb sync` sends it")
    elif given["mode"] == "online":
        say(f"W&B: {logger.experiment.url}")
    return True


def begun(logger: WandbLogger) -> str:
    """Start the run; return why that was not possible."""
    try:
        logger.experiment  # noqa: B018 - starts it
    except Exception as error:  # of many kinds, and none may end the run
        return str(error).strip().splitlines()[0][:120] or type(error).__name__
    return ""


def possible_mode(asked: str) -> tuple[str, str]:
    """Return a mode, and why one that was asked for is not possible.

    Raises:
        UsageError: If there is no such mode.
    """
    asked = {"dryrun": "offline", "run": "online"}.get(asked, asked)  # older names
    if asked not in ("online", "offline", "disabled", "shared"):
        raise UsageError(f"W&B mode {asked!r} is not one of online, offline, disabled")
    if asked != "online":
        return asked, ""
    import wandb

    settings = wandb.setup().settings
    address = urlparse(os.environ.get("WANDB_BASE_URL") or str(settings.base_url))
    key = os.environ.get("WANDB_API_KEY") or settings.api_key or settings.identity_token_file
    if not key and not key_on_disk(address.hostname):
        return asked, "not logged in (`wandb login`)"
    if urllib.request.getproxies():
        return asked, ""  # a proxy is reached otherwise; W&B's own limits must do
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), REACH_SECONDS).close()
    except OSError as error:
        return asked, f"{address.hostname} cannot be reached ({error})"
    return asked, ""


def key_on_disk(host: str | None) -> bool:
    """Return whether `wandb login` has left a key, in the file that it keeps them in."""
    for file in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            keys = netrc.netrc(file).hosts if file else {}
            if keys.keys() & {host, "api.wandb.ai"}:
                return True
    return False


def as_dict(settings: Any) -> dict[str, Any]:
    if settings is None:
        return {}
    return dict(settings) if isinstance(settings, dict) else settings.model_dump(exclude_unset=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
