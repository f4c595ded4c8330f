"""A checkpoint as a file: whole at every moment, verified when it is read, and never code.

The SHA-256 of a file is the comment of its zip archive: it travels with the file, cannot disagree
with a second one, and `torch.load` reads the file as any other.
"""

import hashlib
import http.client
import io
import os
import pickle
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from project.messages import RunError, UsageError

MARK = b"sha256:"  # begins the comment; the hash follows in hexadecimal
COMMENT_BYTES = len(MARK) + 64
LENGTH_BYTES = 2  # of the comment, just before it; 0 where there is none, and in what is hashed


def write(content: dict[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint so that a crash at any moment leaves the old file or the new one.

    Temporary file in the same directory, fsync, rename, fsync of the directory.

    Args:
        previous: Where the file that was at `path` is kept.

    Raises:
        OSError: If it cannot be written; what was at `path` is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            hashed = HashedFile(file)
            try:
                torch.save(content, hashed)  # type: ignore[arg-type]
            except RuntimeError as error:  # torch's own words for what the file answered
                raise hashed.error or error from None
            comment = MARK + hashed.digest.hexdigest().encode()
            file.seek(-LENGTH_BYTES, os.SEEK_END)
            file.write(len(comment).to_bytes(LENGTH_BYTES, "little") + comment)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            keep_as(path, previous)
        temporary.replace(path)
        fsync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class HashedFile:
    """Passes bytes on to a file, and hashes them on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def keep_as(path: Path, previous: Path) -> None:
    """Give the file at `path` a second name, in the place of what had it before."""
    link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: for a moment there is no file at `path`
        path.replace(previous)
        return
    link.replace(previous)
    link.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def fsync_directory(directory: Path) -> None:
    """Make renames in a directory durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems know of no such thing
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(source: Path | str, must_have_hash: bool = False) -> dict[str, Any]:
    """Return what is in a checkpoint, on the CPU: tensors, numbers and text, never code.

    Args:
        source: A file, or an address that begins with http:// or https://.
        must_have_hash: Refuse a file that this project did not write.

    Raises:
        UsageError: If it is damaged, would run code, or is not a checkpoint of Lightning.
    """
    try:
        with open_source(source) as file:
            written = written_hash(file)
            if written is None and must_have_hash:
                raise UsageError(f"{str(source)!r} is damaged: its end, with its SHA-256, is gone")
            if written is not None and content_hash(file) != written:
                raise UsageError(
                    f"{str(source)!r} is damaged: its SHA-256 is not {written[:12]}..., which was "
                    "written with it; use another checkpoint, or copy it anew"
                )
            if not zipfile.is_zipfile(file):  # as torch writes
                raise UsageError(f"{str(source)!r} is damaged or not a checkpoint")
            file.seek(0)
            # Explicit, since an environment variable may turn the default off.
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{str(source)!r} holds more than tensors, numbers and text: reading it could run "
            "code, so it is refused; ask for its weights as safetensors"
        ) from error
    except (FileNotFoundError, PermissionError) as error:
        raise UsageError(f"{str(source)!r} cannot be read: {error.strerror}") from error
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else "it is empty"
        raise UsageError(f"{str(source)!r} is damaged or not a checkpoint: {reason}") from error
    check_weights(content, source)
    return content


def check_weights(content: Any, source: Path | str) -> None:
    """Stop where there are no weights, or some are NaN."""
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise UsageError(f"{str(source)!r} is not a checkpoint of Lightning: it has no state_dict")
    for name, weight in weights.items():
        if isinstance(weight, torch.Tensor) and weight.is_floating_point() and weight.isnan().any():
            raise UsageError(
                f"{str(source)!r} holds {name} with NaN: the training that wrote it had diverged; "
                "use an earlier checkpoint"
            )


def open_source(source: Path | str) -> BinaryIO:
    """Open a file, or what an address answers, to be read twice.

    Raises:
        UsageError: If the address does not answer.
    """
    if not is_address(source):
        return Path(source).open("rb")
    try:
        with urllib.request.urlopen(str(source), timeout=60) as answer:
            return io.BytesIO(answer.read())
    except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        raise UsageError(f"{str(source)!r} cannot be fetched: {error}") from error


def sha256_of(source: Path | str) -> str:
    """Return the SHA-256 of a whole file, or of what an address answers."""
    with open_source(source) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def is_address(source: Path | str) -> bool:
    return str(source).startswith(("http://", "https://"))


def written_hash(file: BinaryIO) -> str | None:
    """Return the SHA-256 that stands at the end of a checkpoint, None where there is none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - COMMENT_BYTES))
    comment = file.read()
    return comment.removeprefix(MARK).decode() if comment.startswith(MARK) else None


def content_hash(file: BinaryIO) -> str:
    """Return the SHA-256 of a checkpoint as it was before its hash was added."""
    left = file.seek(0, os.SEEK_END) - COMMENT_BYTES - LENGTH_BYTES
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    digest.update(bytes(LENGTH_BYTES))
    if file.read(LENGTH_BYTES) != COMMENT_BYTES.to_bytes(LENGTH_BYTES, "little"):
        return "the length of the hash itself is damaged"
    return digest.hexdigest()


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of local checkpoints, through `read` and `write`.

    Lightning's own stages files in $TMPDIR without fsync, swallows refusals, and reads addresses
    without `weights_only` (2.6.6).

    Attributes:
        seconds: That writing has taken.
    """

    seconds = 0.0

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        if "://" in str(path):  # an object store: its own writes are whole or not there
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        previous = Path(path).with_name("previous.ckpt") if Path(path).name == "last.ckpt" else None
        started = time.perf_counter()
        try:
            write(checkpoint, Path(path), previous)
        except OSError as error:
            kept = f"; {Path(path).name} is as it was" if Path(path).exists() else ""
            raise RunError(
                f"the checkpoint {str(path)!r} cannot be written: {os.strerror(error.errno or 0)}"
                f"{kept}; make room or give write permission there, then go on with --resume"
            ) from error
        self.seconds += time.perf_counter() - started

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if "://" in str(path) and not is_address(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read(path)


def newest(directory: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Return the newest whole checkpoint to resume from, its content, and the damage of newer ones.

    None and an empty content where none was ever written.

    Raises:
        UsageError: If there are checkpoints and all are damaged.
    """
    damage: list[str] = []
    for name in ("last.ckpt", "previous.ckpt"):
        if (path := directory / name).is_file():
            try:
                content = read(path, must_have_hash=True)
            except UsageError as error:
                damage.append(str(error))
                continue
            if isinstance(content.get("resume"), dict):
                return path, content, damage
            damage.append(f"{str(path)!r} is not one to resume from: this project did not write it")
    if damage:
        raise UsageError(f"there is no whole checkpoint to resume from: {' and '.join(damage)}")
    return None, {}, []
