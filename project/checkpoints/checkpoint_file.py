"""A checkpoint as a file: whole at every moment, verified when it is read, and never code.

The SHA-256 of a file is the comment of its zip archive: it travels with the file, cannot disagree
with a second one, and `torch.load` reads the file as any other.

Where several processes keep slices of the weights, a checkpoint may be a folder: a file of slices
of each process, and `common.ckpt` with the rest, in which the hashes of the slices stand.
"""

import hashlib
import http.client
import io
import os
import pickle
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from project.checkpoints.former_names import with_current_paths
from project.messages import RunError, UsageError
from project.whole_files import put_in_place

MARK = b"sha256:"  # begins the comment; the hash follows in hexadecimal
COMMENT_BYTES = len(MARK) + 64
COMMON = "common.ckpt"  # of a folder
HYPER_PARAMETERS = {"hyper_parameters", "datamodule_hyper_parameters"}  # in Lightning's words
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
        if path.is_dir():
            put_folder(temporary, path, previous)
            return
        if previous is not None and path.exists():
            keep_as(path, previous)
        put_in_place(temporary, path)
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
    if previous.is_dir():
        shutil.rmtree(previous)
    link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: for a moment there is no file at `path`
        put_in_place(path, previous)
        return
    put_in_place(link, previous)
    link.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def put_folder(made: Path, path: Path, previous: Path | None = None) -> None:
    """Rename a whole checkpoint to `path`, where folders are concerned, as `write` does files.

    A folder cannot take the place of another: for a moment there is nothing at `path`. A run that
    is killed then has `previous`, or saves its best once more.
    """
    aside = previous or path.with_name(f".{path.name}.old.tmp")
    if path.exists():
        remove(aside)
        path.rename(aside)
    made.rename(path)
    fsync_directory(path.parent)
    if previous is None:
        remove(aside)


def finish_folder(common: dict[str, Any], num_slices: int, beside: Path, path: Path) -> None:
    """Give a folder that holds every file of slices its name, with what is common to them."""
    common["slices"] = []
    for rank in range(num_slices):
        with slices_file(beside, rank).open("rb") as file:
            common["slices"].append(written_hash(file))
    write(common, beside / COMMON)
    put_folder(beside, path, previous_of(path))


def previous_of(path: Path) -> Path | None:
    """Return where the checkpoint before is kept, for one to resume from."""
    return path.with_name("previous.ckpt") if path.name == "last.ckpt" else None


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
        source: A file, a folder, or an address that begins with http:// or https://.
        must_have_hash: Refuse a file that this project did not write.

    Raises:
        UsageError: If it is damaged, would run code, or is not a checkpoint of Lightning.
    """
    if is_folder(source):
        content = read_common(Path(source))
        slices = [slices_of(Path(source), i).values() for i in range(len(content.pop("slices")))]
        wholes = map(torch.cat, zip(*slices, strict=True))
        return with_slices(content, lambda tensor: next(wholes))
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
    for part in HYPER_PARAMETERS & content.keys():
        content[part] = with_current_paths(content[part])
    return content


def check_weights(content: Any, source: Path | str) -> None:
    """Stop where there are no weights, or some are NaN."""
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise UsageError(f"{str(source)!r} is not a checkpoint of Lightning: it has no state_dict")
    for name, weight in weights.items():
        if not isinstance(weight, Tensor) or weight.is_meta or not weight.is_floating_point():
            continue
        if weight.isnan().any():
            raise UsageError(
                f"{str(source)!r} holds {name} with NaN: the training that wrote it had diverged; "
                "use an earlier checkpoint"
            )


def is_folder(source: Path | str) -> bool:
    """Return whether a checkpoint is a folder."""
    return not is_address(source) and Path(source, COMMON).is_file()


def slices_file(folder: Path, rank: int) -> Path:
    return folder / f"slices-{rank}.ckpt"


def slices_of(folder: Path, rank: int) -> dict[int, Tensor]:
    """Return the slices that a process had, in their order in the checkpoint."""
    return read(slices_file(folder, rank), must_have_hash=True)["state_dict"]


def read_common(folder: Path, reads_slices: bool = False) -> dict[str, Any]:
    """Return what is in a folder but for the slices: meta tensors stand where they belong.

    Args:
        reads_slices: Whether the slices are verified too; else only that they are those of this
            checkpoint, by their ends.

    Raises:
        UsageError: If it is damaged, or the slices are not those that were written with it.
    """
    content = read(folder / COMMON, must_have_hash=True)
    for rank, digest in enumerate(content["slices"]):
        path = slices_file(folder, rank)
        if not path.is_file():
            raise UsageError(f"{str(folder)!r} is damaged: it has no {path.name}")
        with path.open("rb") as file:
            if written_hash(file) != digest or (reads_slices and content_hash(file) != digest):
                raise UsageError(
                    f"{str(folder)!r} is damaged: the SHA-256 of {path.name} is not "
                    f"{digest[:12]}..., which was written with it"
                )
    return content


def with_slices(content: dict[str, Any], tensor_for: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return a checkpoint with tensors in the places of its meta tensors, asked for in order."""
    found: dict[str, Any] = apply_to_collection(
        content, Tensor, lambda tensor: tensor_for(tensor) if tensor.is_meta else tensor
    )
    return found


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
    """Return the SHA-256 of a whole file, of a folder, or of what an address answers."""
    with open_source(Path(source, COMMON) if is_folder(source) else source) as file:
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
        started = time.perf_counter()
        try:
            write(checkpoint, Path(path), previous_of(Path(path)))
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


def newest(
    directory: Path, reads_slices: bool = True
) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Return the newest whole checkpoint to resume from, its content, and the damage of newer ones.

    None and an empty content where none was ever written.

    Args:
        reads_slices: Whether those of a folder are verified. The first process does, and tells
            the others which one to take; each of them then verifies its own.

    Raises:
        UsageError: If there are checkpoints and all are damaged.
    """
    damage: list[str] = []
    for name in ("last.ckpt", "previous.ckpt"):
        if (path := directory / name).exists():
            try:
                folder = path.is_dir()
                content = (
                    read_common(path, reads_slices) if folder else read(path, must_have_hash=True)
                )
            except UsageError as error:
                damage.append(str(error))
                continue
            if isinstance(content.get("resume"), dict):
                return path, content, damage
            damage.append(f"{str(path)!r} is not one to resume from: this project did not write it")
    if damage:
        raise UsageError(f"there is no whole checkpoint to resume from: {' and '.join(damage)}")
    return None, {}, []
