"""Sets of labelled images: from files to one uint8 tensor and one label tensor a split.

Every set has an official test split, or a fixed one of its own where none is official. To add
a set, write a subclass of `ImageSet` in a new file beside this one.

Shape letters: N images of a split, C channels, H height, W width, K classes.
"""

import gzip
import hashlib
import importlib.util
import io
import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from project.data import idx
from project.data.download import fetch
from project.data.image_files import read_image

TEST_SPLIT_SEED = 0  # of the sets that have no official test split


@dataclass
class LabelledImages:
    """One split: square `images` uint8 (N, C, H, W) and `labels` int64 (N,) in [0, K).

    Raises:
        ValueError: If they are something else.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        remedy = "(255 * x).to(torch.uint8) for fractions, x[:, None] for grey without a channel"
        check_tensor("images", self.images, torch.uint8, 4, "(N, C, H, W)", remedy)
        check_tensor("labels", self.labels, torch.int64, 1, "(N,)", "such as y.flatten().long()")
        shape = tuple(self.images.shape)
        if shape[2] != shape[3]:
            raise ValueError(
                f"images {shape} are not square (N, C, H, W); where channels are last, "
                "images.permute(0, 3, 1, 2) puts them first"
            )
        if len(self.labels) != shape[0]:
            raise ValueError(f"{shape[0]} images have {len(self.labels)} labels")


class ImageSet(ABC):
    """What `ImageData` needs to know of a set of images."""

    class_names: tuple[str, ...] = ()

    def download(self, root: Path) -> None:  # noqa: B027 - most sets need none
        """Fetch what is missing below `root`; called once, on one process.

        Raises:
            FileNotFoundError: If files are missing and cannot be fetched.
        """

    @abstractmethod
    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        """Return (train, test), read from below `root`.

        Raises:
            ValueError: If a file is damaged.
        """


class Digits(ImageSet):
    """1,797 grey 8 x 8 handwritten digits that ship with scikit-learn: no download.

    Source: Alpaydin & Kaynak 1998, UCI Optical Recognition of Handwritten Digits. None of its
    splits is official in this form, so a stratified fifth (359 images) is the test split.
    """

    class_names = tuple("0123456789")
    sha256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        # Found without importing scikit-learn, which takes over a second.
        package = importlib.util.find_spec("sklearn")
        if package is None or package.origin is None:
            raise FileNotFoundError("Digits ships with scikit-learn: pip install scikit-learn")
        path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError(f"{path} is not the file that this project knows (SHA-256 differs)")
        table = np.loadtxt(io.BytesIO(gzip.decompress(content)), delimiter=",", dtype=np.int64)
        images = torch.from_numpy(table[:, :64]).reshape(-1, 1, 8, 8)  # values 0 to 16
        labels = torch.from_numpy(table[:, 64].copy())
        images = (images * 255 / 16).round().to(torch.uint8)
        test = stratified_sample(labels, 0.2, TEST_SPLIT_SEED)
        return take_split(images, labels, test)


class MNIST(ImageSet):
    """70,000 grey 28 x 28 handwritten digits; official test split of 10,000 (LeCun et al. 1998)."""

    class_names = tuple("0123456789")

    def download(self, root: Path) -> None:
        download_idx("MNIST", root)

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        return load_idx("MNIST", root)


class FashionMNIST(ImageSet):
    """70,000 grey 28 x 28 pictures of clothes; official test split (Xiao et al. 2017)."""

    class_names = (
        "T-shirt", "trousers", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip

    def download(self, root: Path) -> None:
        download_idx("FashionMNIST", root)

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        return load_idx("FashionMNIST", root)


class KMNIST(ImageSet):
    """70,000 grey 28 x 28 Hiragana characters; official test split (Clanuwat et al. 2018)."""

    class_names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

    def download(self, root: Path) -> None:
        download_idx("KMNIST", root)

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        return load_idx("KMNIST", root)


class EMNIST(ImageSet):
    """Up to 814,255 grey 28 x 28 letters and digits (Cohen et al. 2017); official test split.

    Args:
        split: Which of the six balanced or raw mixtures of letters and digits.
    """

    def __init__(
        self,
        split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced",
    ) -> None:
        from torchvision import datasets

        self.split = split
        # Class 0 of "letters" is "N/A" in the files: labels run from 1 to 26.
        self.class_names = tuple(n for n in datasets.EMNIST.classes_split_dict[split] if n != "N/A")

    def download(self, root: Path) -> None:
        from torchvision import datasets

        folder = root / "EMNIST" / "raw"
        if not all(idx.find(folder, name) for name in idx.file_names(f"EMNIST-{self.split}")):
            fetch("EMNIST", root, folder, lambda: datasets.EMNIST(root, self.split, download=True))

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        train, test = load_idx("EMNIST", root, files=f"EMNIST-{self.split}")
        for part in (train, test):
            part.images = part.images.transpose(2, 3).contiguous()  # the files are transposed
            if self.split == "letters":
                part.labels = part.labels - 1
        return train, test


class QMNIST(ImageSet):
    """MNIST with all 60,000 test images found again (Yadav & Bottou 2019, arXiv:1905.10498)."""

    class_names = tuple("0123456789")

    def download(self, root: Path) -> None:
        download_idx("QMNIST", root)

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        return load_idx("QMNIST", root)


class CIFAR10(ImageSet):
    """60,000 colour 32 x 32 photographs (Krizhevsky 2009); official test split of 10,000."""

    class_names = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip

    def download(self, root: Path) -> None:
        from torchvision import datasets

        folder = root / datasets.CIFAR10.base_folder
        if not folder.is_dir() or not any(folder.iterdir()):
            fetch("CIFAR10", root, folder, lambda: datasets.CIFAR10(root, download=True))

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        from torchvision import datasets

        splits = []
        for is_train in (True, False):
            try:
                source = datasets.CIFAR10(root, train=is_train)  # checks the MD5 of each file
            except RuntimeError as error:
                folder = root / datasets.CIFAR10.base_folder
                raise ValueError(
                    f"a file of CIFAR10 in {str(folder)!r} is missing or its MD5 is wrong; "
                    "delete the folder and start again to fetch it, or copy it anew"
                ) from error
            images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
            splits.append(LabelledImages(images, torch.tensor(source.targets)))
        return splits[0], splits[1]


class ImageFolder(ImageSet):
    """Your own images: one folder a class, every file format that Pillow reads.

    `path/train/<class>/*` and `path/test/<class>/*` keep your test split; with `path/<class>/*`
    a stratified fifth is the test split, the same in every run. Each image is resized so that
    its shorter side is `image_size`, cut to the central square and held in memory as uint8.

    Args:
        path: The folder.
        image_size: Height and width of the images that the network gets, in pixels.
        in_channels: 1 makes the images grey, 3 keeps colour.
    """

    suffixes = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

    def __init__(self, path: str, image_size: int = 64, in_channels: Literal[1, 3] = 3) -> None:
        self.path = path
        self.image_size = image_size
        self.in_channels = in_channels

    def load(self, root: Path) -> tuple[LabelledImages, LabelledImages]:
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise ValueError(f"ImageFolder: {self.path!r} is not a folder; set --data.dataset.path")
        is_split = (folder / "train").is_dir()
        if is_split and not (folder / "test").is_dir():
            raise ValueError(
                f"ImageFolder: {self.path!r} has a folder 'train' and none named 'test'; add it, "
                f"or set --data.dataset.path {self.path}/train to hold a fifth out for the test"
            )
        classes = folder / "train" if is_split else folder
        self.class_names = tuple(
            sorted(p.name for p in classes.iterdir() if p.is_dir() and p.name[0] != ".")
        )
        if len(self.class_names) < 2:
            raise ValueError(
                f"ImageFolder: {str(classes)!r} has {len(self.class_names)} folders, one for each "
                "class is needed, and at least 2"
            )
        if is_split:
            return self.read(folder / "train"), self.read(folder / "test")
        everything = self.read(folder)
        test = stratified_sample(everything.labels, 0.2, TEST_SPLIT_SEED)
        return take_split(everything.images, everything.labels, test)

    def read(self, folder: Path) -> LabelledImages:
        files, labels = [], []
        for label, name in enumerate(self.class_names):
            # As paths, Windows would sort A and a alike.
            found = sorted((folder / name).rglob("*"), key=lambda path: path.parts)
            found = [path for path in found if path.suffix.lower() in self.suffixes]
            if not found:
                raise ValueError(f"ImageFolder: no images in {str(folder / name)!r}")
            files += found
            labels += [label] * len(found)
        # Pillow lets go of Python's lock while it decodes, so threads are enough.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda f: read_image(f, self.image_size, self.in_channels)[0], files)
            images = torch.stack(list(decoded))
        return LabelledImages(images, torch.tensor(labels))


def stratified_sample(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return sorted indices of `fraction` of each class: at least one, but never all of it.

    Args:
        labels: int64 (N,).
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def stratified_folds(labels: Tensor, num_folds: int, seed: int) -> Tensor:
    """Return the fold of each image, int64 (N,) in [0, num_folds): equal shares of each class.

    Args:
        labels: int64 (N,).
    """
    generator = torch.Generator().manual_seed(seed)
    folds = torch.empty_like(labels)
    dealt = 0  # goes on from class to class, so that the folds have equal sizes too
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        folds[shuffled] = (torch.arange(len(members)) + dealt) % num_folds
        dealt += len(members)
    return folds


def check_tensor(
    name: str, values: Any, dtype: torch.dtype, ndim: int, shape: str, remedy: str
) -> None:
    """Refuse what is no tensor of a type and number of dimensions."""
    if not isinstance(values, Tensor):
        raise ValueError(
            f"{name} must be a tensor, and not {type(values).__name__}; torch.from_numpy makes one"
        )
    if values.dtype != dtype or values.ndim != ndim:
        found = f"{values.dtype} {tuple(values.shape)}"
        raise ValueError(f"{name} must be {dtype} {shape}, and are {found}; {remedy}")


def take_split(
    images: Tensor, labels: Tensor, test: Tensor
) -> tuple[LabelledImages, LabelledImages]:
    """Return (the other images, those at the indices `test`)."""
    LabelledImages(images, labels)  # refuses others
    is_train = torch.ones(len(labels), dtype=torch.bool)
    is_train[test] = False
    train_split = LabelledImages(images[is_train], labels[is_train])
    return train_split, LabelledImages(images[test], labels[test])


def download_idx(name: str, root: Path) -> None:
    """Fetch the IDX files of the set `name` that are missing below `root`."""
    folder = root / name / "raw"
    fetch(name, root, folder, lambda: idx.download(name, folder))


def load_idx(
    name: str, root: Path, files: str | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """Return (train, test) of a set that is kept in four IDX files, read and verified."""
    folder = root / name / "raw"
    published = {} if name == "EMNIST" else idx.published_files(name)  # EMNIST: only the archive's
    tensors = []
    for file_name in idx.file_names(files or name):
        _, md5 = published.get(file_name, ([], None))
        tensors.append(
            idx.read(folder, file_name, md5, idx.EXTRACTED_SHA256.get((name, file_name)))
        )
    train_images, train_labels, test_images, test_labels = tensors
    if train_labels.ndim == 2:  # QMNIST keeps the writer and more beside the label
        train_labels, test_labels = train_labels[:, 0], test_labels[:, 0]
    return (
        LabelledImages(train_images.unsqueeze(1), train_labels.long()),
        LabelledImages(test_images.unsqueeze(1), test_labels.long()),
    )
