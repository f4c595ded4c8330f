"""Text corpora: which files, in which encoding. To add one, subclass `Corpus` in a new file."""

import hashlib
import io
from abc import ABC, abstractmethod
from io import BufferedIOBase
from pathlib import Path

from project.data.download import fetch


class Document:
    """One file of a corpus, or a text that is in memory.

    Args:
        name: How messages call it.
        content: Path of the file, or its bytes.
    """

    def __init__(self, name: str, content: Path | bytes) -> None:
        self.name = name
        self.content = content

    def open(self) -> BufferedIOBase:
        return (
            self.content.open("rb") if isinstance(self.content, Path) else io.BytesIO(self.content)
        )

    def num_bytes(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    def sha256(self) -> str:
        with self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class Corpus(ABC):
    """What `TextData` needs to know of a text."""

    encoding: str = "utf-8"

    def download(self, root: Path) -> None:  # noqa: B027 - most corpora need none
        """Fetch what is missing below `root`; called once, on one process.

        Raises:
            FileNotFoundError: If files are missing and cannot be fetched.
        """

    @abstractmethod
    def documents(self, root: Path) -> dict[str, list[Document]]:
        """Return the documents of "train", in order, and of "val" and "test" where they are apart.

        A split that is not named is cut from the end of the training text.

        Raises:
            ValueError: If a file is not there.
        """


class PythonDocs(Corpus):
    """About 465,000 characters of English on the Python language: no download.

    Source: the help topics that every CPython brings along (`pydoc_data.topics`), in the order of
    their names. The text differs a little between versions of Python.
    """

    def documents(self, root: Path) -> dict[str, list[Document]]:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))
        return {"train": [Document("pydoc_data.topics", text.encode())]}


class TinyShakespeare(Corpus):
    """1,115,394 characters from Shakespeare's plays (Karpathy 2015).

    There is no official test split. The usual one, nanoGPT's, trains on the first 90 % and
    validates on the last 10 %: `val_fraction: 0.1, test_fraction: 0`.
    """

    url = (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    )
    digest = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

    def download(self, root: Path) -> None:
        path = self.path(root)
        if path.is_file():
            return
        from torch.hub import download_url_to_file

        def get() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(self.url, str(path), hash_prefix=self.digest, progress=False)

        fetch("TinyShakespeare", root, path.parent, get)

    def documents(self, root: Path) -> dict[str, list[Document]]:
        document = Document(str(self.path(root)), self.path(root))
        if document.sha256() != self.digest:
            raise ValueError(
                f"{document.name!r} is damaged: {document.num_bytes():,} bytes whose SHA-256 is "
                f"not {self.digest[:12]}...; delete it and start again to fetch it, or copy it anew"
            )
        return {"train": [document]}

    def path(self, root: Path) -> Path:
        return root / "tinyshakespeare" / "input.txt"


class TextCorpus(Corpus):
    """Your own text: a file, or a folder with .txt files at any depth, in the order of their names.

    A file that is in two splits is refused.

    Args:
        path: The file or folder.
        val_path: The validation text; by default cut from the end of `path`.
        test_path: The test text; by default cut from the end of `path`.
        encoding: Of every file, as Python names it: `utf-8`, `latin-1`, `cp1252`, `utf-16` ...
    """

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        test_path: str | None = None,
        encoding: str = "utf-8",
    ) -> None:
        self.path = path
        self.val_path = val_path
        self.test_path = test_path
        self.encoding = encoding

    def documents(self, root: Path) -> dict[str, list[Document]]:
        paths = {"train": self.path, "val": self.val_path, "test": self.test_path}
        files = {split: text_files(Path(path)) for split, path in paths.items() if path is not None}
        splits: dict[Path, str] = {}
        for split, file in ((split, file) for split, part in files.items() for file in part):
            before = splits.setdefault(file.resolve(), split)
            if before != split:
                raise ValueError(
                    f"{str(file)!r} would be {before} and {split} text at once; move it out of "
                    "one of the folders"
                )
        return {
            split: [Document(str(file), file) for file in part] for split, part in files.items()
        }


def text_files(path: Path) -> list[Path]:
    """Return `path`, or the .txt (or .TXT) files below it, sorted.

    Raises:
        ValueError: If there are none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(
            f"the text corpus {str(path)!r} is not there; give a text file or a folder of .txt "
            "files (--data.corpus.path)"
        )
    files = [f for f in path.rglob("*") if f.suffix.lower() == ".txt" and f.is_file()]
    files.sort(key=lambda file: file.parts)  # as paths, Windows would sort A and a alike
    if not files:
        raise ValueError(
            f"the text corpus {str(path)!r} is a folder without any .txt file; rename your texts "
            "to *.txt, or name one file"
        )
    return files
