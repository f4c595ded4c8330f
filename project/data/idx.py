"""The IDX files of MNIST and its kin: fetched through torchvision's addresses, verified, read.

Files lie in `<root>/<set>/raw`, as torchvision lays them, compressed or not. A compressed file
is checked against the MD5 that torchvision publishes, an extracted one against its SHA-256
where it is known (MNIST) and always against the length that its own header promises.
"""

import gzip
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Type codes of the third byte of the header that occur here; numbers are big-endian.
DTYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}

EXTRACTED_SHA256 = {
    ("MNIST", "train-images-idx3-ubyte"): (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    ("MNIST", "train-labels-idx1-ubyte"): (
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    ("MNIST", "t10k-images-idx3-ubyte"): (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    ("MNIST", "t10k-labels-idx1-ubyte"): (
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}


def file_names(set_name: str) -> tuple[str, str, str, str]:
    """Return the files of train images, train labels, test images and test labels."""
    if set_name.startswith("EMNIST-"):
        start, test, labels = f"emnist-{set_name.removeprefix('EMNIST-')}-", "test", "idx1-ubyte"
    elif set_name == "QMNIST":
        start, test, labels = "qmnist-", "test", "idx2-int"
    else:
        start, test, labels = "", "t10k", "idx1-ubyte"
    return (
        f"{start}train-images-idx3-ubyte",
        f"{start}train-labels-{labels}",
        f"{start}{test}-images-idx3-ubyte",
        f"{start}{test}-labels-{labels}",
    )


def published_files(set_name: str) -> dict[str, tuple[list[str], str]]:
    """Return {file name: (addresses to try in turn, MD5)} of the compressed files."""
    from torchvision import datasets

    if set_name == "QMNIST":
        listed = datasets.QMNIST.resources["train"] + datasets.QMNIST.resources["test"]
        return {Path(url).stem: ([url], md5) for url, md5 in listed}
    source = getattr(datasets, set_name)
    return {
        Path(name).stem: ([mirror + name for mirror in source.mirrors], md5)
        for name, md5 in source.resources
    }


def find(folder: Path, name: str) -> Path | None:
    """Return the compressed file if it is there, else the extracted one, else None."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    return None


def download(set_name: str, folder: Path) -> None:
    """Fetch the compressed files that are missing, each from the first mirror that answers.

    Raises:
        OSError: If no mirror of a file answers with the right content.
    """
    for name, (addresses, md5) in published_files(set_name).items():
        if find(folder, name) is None:
            download_file(addresses, folder, f"{name}.gz", md5)


def download_file(addresses: list[str], folder: Path, file_name: str, md5: str) -> None:
    from torchvision.datasets.utils import download_url

    for address in addresses:
        try:
            download_url(address, folder, file_name, md5)
            return
        except (OSError, RuntimeError) as error:  # try the next mirror
            last_error = error
    raise last_error


def read(folder: Path, name: str, md5: str | None = None, sha256: str | None = None) -> Tensor:
    """Return the numbers of one IDX file, uint8 or int64, in the shape that its header gives.

    Args:
        folder: Where `name` or `name`.gz lies.
        md5: Of the compressed file.
        sha256: Of the extracted file.

    Raises:
        FileNotFoundError: If neither file is there.
        ValueError: If the file is damaged; the message names it.
    """
    path = find(folder, name)
    if path is None:
        raise FileNotFoundError(f"{name}[.gz] is not in {str(folder)!r}")
    content = path.read_bytes()
    remedy = "delete it and start again to fetch it, or copy it anew"
    if path.suffix == ".gz":
        if md5 and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise ValueError(f"{str(path)!r} is damaged: its MD5 is not {md5}; {remedy}")
        content = gzip.decompress(content)
    elif sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"{str(path)!r} is damaged: {len(content):,} bytes whose SHA-256 is not "
            f"{sha256[:12]}...; {remedy}"
        )
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in DTYPES:
        raise ValueError(f"{str(path)!r} is not an IDX file of this kind; {remedy}")
    dtype, num_dimensions = DTYPES[content[2]], content[3]
    header = 4 + 4 * num_dimensions
    shape = [int(n) for n in np.frombuffer(content[4:header], ">i4")]
    expected = header + dtype.itemsize * math.prod(shape)
    if len(content) != expected:
        raise ValueError(
            f"{str(path)!r} is damaged: {len(content):,} bytes where its header promises "
            f"{expected:,}; {remedy}"
        )
    numbers = np.frombuffer(content, dtype, offset=header).reshape(shape)
    return torch.from_numpy(numbers.astype(np.uint8 if dtype == np.uint8 else np.int64))
