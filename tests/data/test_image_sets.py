"""From files to tensors: the right content, and damaged files refused by name."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_idx
from PIL import Image

from project.data import idx
from project.data.image_files import read_image
from project.data.image_sets import (
    CIFAR10,
    EMNIST,
    KMNIST,
    MNIST,
    QMNIST,
    Digits,
    FashionMNIST,
    ImageFolder,
    LabelledImages,
    stratified_folds,
    stratified_sample,
    take_split,
)


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    train, test = Digits().load(Path())
    assert (len(train.labels), len(test.labels)) == (1438, 359)
    source = load_digits()
    ours = torch.cat([train.images, test.images]).flatten(1).float() / 255 * 16
    theirs = torch.from_numpy(source.data).float()
    assert sorted(map(tuple, ours.round().tolist())) == sorted(map(tuple, theirs.tolist()))
    # Stratified: each class has its share of the test split.
    assert torch.bincount(test.labels).min() >= 34


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST, KMNIST, CIFAR10])
def test_splits_are_the_files_splits(cls, stand_in_data) -> None:
    train, test = cls().load(stand_in_data)
    channels, size = (3, 32) if cls is CIFAR10 else (1, 28)
    assert train.images.shape == (300, channels, size, size)
    assert test.images.shape == (101, channels, size, size)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert train.labels.tolist() == [i % 10 for i in range(300)]


def test_cifar_keeps_channels_rows_and_columns_in_place(stand_in_data) -> None:
    import pickle

    train, _ = CIFAR10().load(stand_in_data)
    stored = pickle.loads((stand_in_data / "cifar-10-batches-py" / "train").read_bytes())["data"]
    assert torch.equal(train.images[7], torch.from_numpy(stored[7].reshape(3, 32, 32)))


def test_compressed_and_extracted_files_give_the_same(stand_in_data, monkeypatch) -> None:
    extracted, _ = MNIST().load(stand_in_data)
    folder = stand_in_data / "MNIST" / "raw"
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    monkeypatch.setattr(idx, "published_files", lambda name: {})
    compressed, _ = MNIST().load(stand_in_data)
    assert torch.equal(extracted.images, compressed.images)


def test_emnist_is_turned_upright_and_letters_start_at_0(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (26, 28, 28))
    for part in ("train", "test"):
        start = tmp_path / "EMNIST" / "raw" / f"emnist-letters-{part}"
        write_idx(Path(f"{start}-images-idx3-ubyte"), images)
        write_idx(Path(f"{start}-labels-idx1-ubyte"), np.arange(1, 27))
    dataset = EMNIST("letters")
    train, _ = dataset.load(tmp_path)
    assert len(dataset.class_names) == 26
    assert train.labels.tolist() == list(range(26))
    assert torch.equal(train.images[3, 0], torch.from_numpy(images[3].T.astype(np.uint8)))


def test_qmnist_labels_are_the_first_column(tmp_path) -> None:
    folder = tmp_path / "QMNIST" / "raw"
    for part in ("train", "test"):
        write_idx(folder / f"qmnist-{part}-images-idx3-ubyte", np.zeros((5, 28, 28)))
        table = np.stack([np.arange(5)] + [np.full(5, 9)] * 7, axis=1).astype(">i4")
        header = bytes([0, 0, 0x0C, 2]) + (5).to_bytes(4, "big") + (8).to_bytes(4, "big")
        (folder / f"qmnist-{part}-labels-idx2-int").write_bytes(header + table.tobytes())
    train, _ = QMNIST().load(tmp_path)
    assert train.labels.tolist() == [0, 1, 2, 3, 4]


def test_a_truncated_file_is_refused_by_name(stand_in_data) -> None:
    path = stand_in_data / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte' is damaged: .* promises"):
        FashionMNIST().load(stand_in_data)


def test_changed_content_is_refused_by_name(stand_in_data, monkeypatch) -> None:
    monkeypatch.undo()  # the real checksums, against stand-in files
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte' is damaged: .* SHA-256"):
        MNIST().load(stand_in_data)
    path = stand_in_data / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=r"ubyte\.gz' is damaged: its MD5"):
        MNIST().load(stand_in_data)


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST, KMNIST, EMNIST, QMNIST, CIFAR10])
def test_a_missing_set_says_what_where_and_how(cls, tmp_path, monkeypatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    root = tmp_path / "data"
    with pytest.raises(FileNotFoundError) as error:
        cls().download(root)
    assert not root.exists()  # no empty folders are left behind
    message = str(error.value)
    for part in (cls.__name__, str(root), "Name or service not known", "--data.root"):
        assert part in message
    assert "\n" not in message


def test_the_next_mirror_is_tried(tmp_path, monkeypatch) -> None:
    tried = []

    def download(address: str, folder: Path, name: str, md5: str) -> None:
        tried.append(address)
        if "mirror-1" in address:
            raise TimeoutError("timed out")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    idx.download_file(["mirror-1/x", "mirror-2/x"], tmp_path, "x", "md5")
    assert tried == ["mirror-1/x", "mirror-2/x"]


def make_folder(folder: Path, sizes: dict[str, int]) -> None:
    numbers = np.random.default_rng(0)
    for name, count in sizes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = numbers.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_image_folder_splits_by_itself_or_by_folder(tmp_path) -> None:
    make_folder(tmp_path / "a", {"cat": 10, "dog": 5})
    dataset = ImageFolder(str(tmp_path / "a"), image_size=16)
    train, test = dataset.load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert train.images.shape == (12, 3, 16, 16)
    assert torch.bincount(test.labels).tolist() == [2, 1]

    make_folder(tmp_path / "b" / "train", {"cat": 3, "dog": 2})
    make_folder(tmp_path / "b" / "test", {"cat": 1, "dog": 4})
    train, test = ImageFolder(str(tmp_path / "b"), image_size=8, in_channels=1).load(tmp_path)
    assert train.images.shape == (5, 1, 8, 8)
    assert test.labels.tolist() == [0, 1, 1, 1, 1]


def test_image_folder_says_what_is_wrong(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"not a folder; set --data\.dataset\.path"):
        ImageFolder(str(tmp_path / "nowhere")).load(tmp_path)
    make_folder(tmp_path / "one", {"cat": 1})
    with pytest.raises(ValueError, match="1 folders"):
        ImageFolder(str(tmp_path / "one")).load(tmp_path)
    make_folder(tmp_path / "three" / "train", {"cat": 2, "dog": 2})
    with pytest.raises(ValueError, match="'train' and none named 'test'"):
        ImageFolder(str(tmp_path / "three")).load(tmp_path)
    make_folder(tmp_path / "two", {"cat": 2, "dog": 2})
    (tmp_path / "two" / "cat" / "9.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"9\.png' is not a readable image"):
        ImageFolder(str(tmp_path / "two")).load(tmp_path)


def test_an_image_of_any_mode_is_read_as_a_network_reads_it(tmp_path) -> None:
    grey = np.tile(np.linspace(0, 255, 16).round().astype(np.uint8), (16, 1))
    images = {
        "grey": Image.fromarray(grey),
        "colour": Image.fromarray(np.stack([grey] * 3, axis=2)),
        "16-bit": Image.fromarray(grey.astype(np.uint16) * 257),
        "32-bit": Image.fromarray(grey.astype(np.int32)),
        "fractions": Image.fromarray((grey / 255).astype(np.float32)),
        "palette": Image.fromarray(grey).convert("P"),
        "opaque": Image.fromarray(np.stack([grey] * 3 + [np.full_like(grey, 255)], axis=2)),
    }
    for name, image in images.items():
        path = tmp_path / f"{name}.tiff"
        image.save(path)
        pixels, was = read_image(path, 16, 1)
        assert pixels.shape == (1, 16, 16)
        assert np.abs(pixels[0].numpy().astype(int) - grey).max() <= 1, name
        assert was == f"16x16 {image.mode}"
    Image.new("RGBA", (8, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", 4, 3)[0].unique().tolist() == [255]


@pytest.mark.parametrize("num_folds", [2, 5])
def test_folds_share_out_every_image_once_and_every_class_alike(num_folds) -> None:
    labels = torch.tensor([0] * 53 + [1] * 12 + [2] * 5)
    folds = stratified_folds(labels, num_folds, seed=0)
    sizes = torch.bincount(folds)
    assert len(sizes) == num_folds
    assert sizes.max() - sizes.min() <= 1
    for label in range(3):
        counts = torch.bincount(folds[labels == label], minlength=num_folds)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(folds, stratified_folds(labels, num_folds, seed=0))
    assert not torch.equal(folds, stratified_folds(labels, num_folds, seed=1))


def test_stratified_sample_takes_the_share_of_every_class() -> None:
    labels = torch.tensor([0] * 100 + [1] * 10 + [2] * 2)
    chosen = stratified_sample(labels, 0.1, seed=0)
    assert torch.bincount(labels[chosen]).tolist() == [10, 1, 1]
    assert torch.equal(chosen, stratified_sample(labels, 0.1, seed=0))
    assert not torch.equal(chosen, stratified_sample(labels, 0.1, seed=1))


def test_the_real_mnist(real_mnist) -> None:
    train, test = MNIST().load(Path(real_mnist))
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y: (x.float(), y), r"images must be torch.uint8 \(N, C, H, W\).*\(255 \* x\)"),
        (lambda x, y: (x[:, 0], y), r"and are torch.uint8 \(6, 8, 8\); .*x\[:, None\]"),
        (lambda x, y: (x.permute(0, 2, 3, 1), y), r"permute\(0, 3, 1, 2\) puts them first"),
        (lambda x, y: (x.numpy(), y), "images must be a tensor, and not ndarray; torch.from_numpy"),
        (lambda x, y: (x, y.int()), r"labels must be torch.int64 \(N,\).*y.flatten"),
        (lambda x, y: (x, y[:5]), "6 images have 5 labels"),
    ],
)
def test_images_and_labels_of_another_kind_are_refused(change, says) -> None:
    images, labels = change(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.arange(6) % 2)
    with pytest.raises(ValueError, match=says):
        LabelledImages(images, labels)
    with pytest.raises(ValueError, match=says):
        take_split(images, labels, torch.tensor([0]))
